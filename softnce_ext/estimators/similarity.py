"""What an estimator may return, and what is read off it in row blocks, without an [N, M] matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..factors import BM25Factors, ByDocument

Similarity = Tensor | tuple[Tensor, Tensor] | BM25Factors
Groups = tuple[Tensor, Tensor]

BLOCK_ROWS = 256
# A statistic is that of at least so many rows, spread evenly over the batch: all of them would cost
# as much as the similarities themselves.
SAMPLE_ROWS = 64


def check_similarity(similarity: Any, rows: int, columns: int) -> None:
    """Refuse what is no similarity of `rows` queries with `rows` to `columns` codes.

    Raises:
        TypeError, ValueError: It is none of `Similarity`, or of another shape.
    """
    if isinstance(similarity, BM25Factors):
        shape = [len(similarity.query_indptr) - 1, len(similarity.document_length)]
    elif isinstance(similarity, Tensor):
        shape = list(similarity.shape)
    elif (
        isinstance(similarity, tuple)
        and len(similarity) == 2
        and all(isinstance(part, Tensor) and part.dim() == 2 for part in similarity)
    ):
        shape = [len(similarity[0]), len(similarity[1])]
    else:
        raise TypeError(
            "the estimator must return a floating-point Tensor, a pair of teacher vectors or "
            f"BM25Factors, got {type(similarity).__name__}"
        )
    parts = similarity if isinstance(similarity, tuple) else (similarity,)
    for part in () if isinstance(similarity, BM25Factors) else parts:
        if not part.is_floating_point():
            raise TypeError(f"the estimator must return a floating-point Tensor, got {part.dtype}")
    if len(shape) != 2 or shape[0] != rows or not rows <= shape[1] <= columns:
        raise ValueError(
            f"the estimator must return shape [{rows}, {rows} to {columns}], got {shape}"
        )


def compared_columns(similarity: Similarity) -> int:
    """Return how many codes the queries are compared with."""
    if isinstance(similarity, BM25Factors):
        return len(similarity.document_length)
    return similarity[1].shape[0] if isinstance(similarity, tuple) else similarity.shape[1]


def take_rows(similarity: Similarity, rows: slice) -> Similarity:
    """Return the similarities of some of the queries, every `rows.step`-th."""
    if not isinstance(similarity, BM25Factors):
        if isinstance(similarity, Tensor):
            return similarity[rows]
        return similarity[0][rows], similarity[1]
    indptr = similarity.query_indptr
    start, length = indptr[:-1][rows], indptr.diff()[rows]
    end = length.cumsum(0)
    row = torch.repeat_interleave(length)
    term = torch.arange(len(row), device=row.device) + (start - end + length)[row]
    return similarity._replace(
        query_indptr=torch.nn.functional.pad(end, (1, 0)),
        query_term=similarity.query_term[term],
        query_count=similarity.query_count[term],
    )


def transposed(similarity: Similarity, columns: int) -> Similarity:
    """Return the similarities of the first `columns` codes, [columns, N], with the queries."""
    if isinstance(similarity, Tensor):
        return similarity[:, :columns].T
    if not isinstance(similarity, BM25Factors):
        return similarity[1][:columns], similarity[0]
    queries, terms = len(similarity.query_indptr) - 1, len(similarity.indptr) - 1
    document, order = similarity.document.long().sort(stable=True)
    known = document < columns
    document, order = document[known], order[known]
    term = torch.repeat_interleave(similarity.indptr.diff())[order]
    query = torch.repeat_interleave(similarity.query_indptr.diff())
    query_term, by_term = similarity.query_term.long().sort(stable=True)
    return BM25Factors(
        _starts(document, columns),
        term.int(),
        similarity.weight[order],
        _starts(query_term, terms),
        query[by_term].int(),
        similarity.query_count[by_term],
        torch.ones(queries, dtype=torch.int64, device=query.device),
    )


def _starts(numbers: Tensor, count: int) -> Tensor:
    """Return where each of 0 to `count` begins in ascending numbers, int64 [count + 1]."""
    return torch.searchsorted(numbers, torch.arange(count + 1, device=numbers.device))


def widen(
    similarity: Similarity,
    columns: int,
    rule: Mapping[str, float],
    groups: Groups | None,
    positive_offset: int = 0,
) -> tuple[Similarity, Mapping[str, float]]:
    """Add codes of weight 1 that have no similarity, up to `columns`; BM25Factors need none.

    The first K codes' weights stay those of Eq. 4 over these K alone, as with BM25Factors. With
    c = (K - 1) / (M - 1) all of a row's K codes together get c of the softmax, the added ones the
    rest in equal parts, and alpha becomes alpha / c: so alpha S and alpha / (number of negatives)
    are what they were. The latter to 1 / K^2 where a row's negatives are masked.

    Returns:
        The similarities and the rule for them.
    """
    known = compared_columns(similarity)
    missing = columns - known
    if missing == 0 or isinstance(similarity, BM25Factors):
        return similarity, rule
    share = max(known - 1, 1) / (columns - 1)
    temperature, parts = rule["temperature"], []
    for (logits, count), part in zip(
        negative_logits(similarity, groups, temperature, 1, positive_offset),
        _row_blocks(_query_count(similarity), 1),
        strict=True,
    ):
        rest = torch.full_like(count, missing)
        if groups is not None:
            rest -= (groups[0][part, None] == groups[1][None, known:]).sum(1)
        odds = (1 - share) / (share * rest.clamp(min=1))
        value = temperature * (torch.logsumexp(logits, 1) + odds.log())
        parts.append(torch.where(count > 0, value, 0.0))
    added = torch.cat(parts)[:, None]
    rule = {**rule, "alpha": rule["alpha"] / share}
    if isinstance(similarity, Tensor):  # half similarities too: the value is no half
        known_ones = similarity.to(added.dtype)
        return torch.cat([known_ones, added.expand(-1, missing)], dim=1), rule
    # One coordinate more: the query's is its value, a new code's is 1, a known code's 0.
    query, code = (vectors.to(added.dtype) for vectors in similarity)
    new = torch.nn.functional.pad(code.new_zeros(missing, code.shape[1]), (0, 1), value=1.0)
    code = torch.cat([torch.nn.functional.pad(code, (0, 1)), new])
    return (torch.cat([query, added], 1), code), rule


def low_weights(
    similarity: Similarity,
    groups: Groups | None,
    rule: Mapping[str, float],
    positive_offset: int = 0,
) -> Tensor:
    """Return how many negatives a row has with a weight below 0.5, on average.

    Told from the softmax, without the [N, M] weights: Eq. 4 solved for it. Of 2 SAMPLE_ROWS rows or
    more it is that of every second, third, ... row, so that at least SAMPLE_ROWS are looked at.

    Args:
        similarity: What an estimator returns.
        groups: As in `softnce_ext.soft_info_nce`.
        rule: alpha, beta, temperature and min_weight.
        positive_offset: As in `softnce_ext.soft_info_nce`.
    """
    alpha, beta = rule["alpha"], rule["beta"]
    if alpha <= 0 or rule["min_weight"] >= 0.5:
        return torch.tensor(0.0)
    found = []
    temperature, step = rule["temperature"], max(1, _query_count(similarity) // SAMPLE_ROWS)
    for logits, count in negative_logits(similarity, groups, temperature, step, positive_offset):
        denominator = beta - alpha / count
        share = (beta - 0.5 * denominator) / alpha
        bound = torch.logsumexp(logits, 1) + share.log()
        low = torch.count_nonzero(logits > bound[:, None], dim=1)
        found.append(torch.where(denominator > 0, low, 0))
    return torch.cat(found).float().mean()


def negative_logits(
    similarity: Similarity,
    groups: Groups | None,
    temperature: float,
    step: int = 1,
    positive_offset: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield blocks of similarity / temperature, [R, K], -inf at what is no negative.

    With each the number of the rows' negatives, [R]. Every `step`-th row is looked at.
    """
    columns = compared_columns(similarity)
    for part in _row_blocks(_query_count(similarity), step):
        some = take_rows(similarity, part)
        if isinstance(some, BM25Factors):
            block = ByDocument.of(some, torch.float32).rows(slice(0, _query_count(some)), columns)
        elif isinstance(some, tuple):
            query, code = (_at_least_float(vectors.detach()) for vectors in some)
            block = query @ code.T
        else:
            block = _at_least_float(some.detach()).clone()
        block.div_(temperature)
        outside = _outside(part, columns, groups, positive_offset, block.device)
        if isinstance(some, BM25Factors):
            outside |= some.document_length == 0
        block.masked_fill_(outside, -torch.inf)
        yield block, columns - outside.sum(1)


def _row_blocks(rows: int, step: int) -> Iterator[slice]:
    for begin in range(0, rows, BLOCK_ROWS * step):
        yield slice(begin, min(begin + BLOCK_ROWS * step, rows), step)


def _query_count(similarity: Similarity) -> int:
    if isinstance(similarity, BM25Factors):
        return len(similarity.query_indptr) - 1
    return len(similarity[0]) if isinstance(similarity, tuple) else len(similarity)


def _at_least_float(vectors: Tensor) -> Tensor:
    return vectors if vectors.dtype == torch.float64 else vectors.float()


def _outside(
    part: slice, columns: int, groups: Groups | None, positive_offset: int, device: torch.device
) -> Tensor:
    """Return bool [R, K], true where a column is no negative of a row."""
    row = torch.arange(part.start, part.stop, part.step, device=device)
    outside = torch.arange(columns, device=device)[None, :] == row[:, None] + positive_offset
    if groups is not None:
        outside |= groups[0][part, None] == groups[1][None, :columns]
    return outside
