"""Where the gold code stands among all codes: ranks by counting, and the figures made of them.

Neither a sort nor the [N, M] score matrix is needed: a gold code's rank is one more than the
number of codes that score higher, counted in blocks of query rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

    Array = torch.Tensor | np.ndarray[Any, Any]

Ties = Literal["optimistic", "mean", "pessimistic"]
_TIE_SHARE = {"optimistic": 0.0, "mean": 0.5, "pessimistic": 1.0}

# Large enough for a GEMM at full speed, small enough not to matter beside the vectors.
_BLOCK_BYTES = 64 << 20
_CACHED_BYTES = 1 << 20


# The paper's: its code looks for the gold code among the first 1000.
PAPER_CUTOFF = 1000


class RankCounts(NamedTuple):
    """For each query, how many other codes score higher than the gold one, how many the same."""

    higher: np.ndarray[Any, Any]  # int64 [N]
    equal: np.ndarray[Any, Any]  # int64 [N]

    def ranks(self, ties: Ties = "mean") -> np.ndarray[Any, Any]:
        """Return float64 ranks [N] from 1: ``1 + higher``, plus none, half or all of ``equal``."""
        return 1.0 + self.higher + mean_of_ties(ties) * self.equal


def mean_reciprocal_rank(
    query: Array,
    code: Array,
    target: Array | None = None,
    *,
    cutoff: int | None = None,
    ties: Ties = "mean",
) -> float:
    """Return the mean reciprocal rank (MRR) of the gold codes.

    Same as ``order = (query @ code.T).argsort(1, descending=True)`` followed by the mean of
    ``1 / (1 + position of the gold code)``, without the [N, M] scores, without the sort, and with
    a stated rule for ties: duplicates of the gold code score exactly as it does, whatever the
    rounding of the GEMM.

    Args:
        query: Query vectors [N, D], floating point, tensor or array. Scores are dot products.
        code: Code vectors [M, D].
        target: Index [N] of each query's gold code, int64; None: row i's gold code is row i.
        cutoff: A rank beyond this scores 0 (`PAPER_CUTOFF`); None: every rank counts.
        ties: The rank is 1 + the number of higher scores + a share of the other equal scores:
            "optimistic" none, "pessimistic" all, "mean" half of them. "mean" is thus the
            reciprocal of the mean rank over all orders of the ties.

    Returns:
        The MRR, from 0 to 1.

    Raises:
        ValueError: A shape, target or option does not fit, or a score is NaN.
        TypeError: An argument is neither a tensor nor an array, or not of floating point.

    Source: evaluation of "Rethinking Negative Pairs in Code Search" (cutoff 1000).
    """
    _check_cutoff(cutoff)
    counts = counts_from_scores(score_blocks(query, code), target)
    return float(reciprocal_ranks(counts.ranks(ties), cutoff).mean())


def ranks_from_scores(
    blocks: Iterable[Array], target: Array | None = None, *, ties: Ties = "mean"
) -> np.ndarray[Any, Any]:
    """Return the gold codes' ranks, float64 [N], from blocks of score rows.

    Args:
        blocks: Scores [rows, M] of consecutive queries; each block is used before the next is
            asked for, so a producer may reuse its memory.
        target: Index [N] of each query's gold code; None: query i's gold code is column i.
        ties: As in `mean_reciprocal_rank`.

    Raises:
        ValueError: A shape or target does not fit, or a score is NaN.
    """
    return counts_from_scores(blocks, target).ranks(ties)


def reciprocal_ranks(
    ranks: np.ndarray[Any, Any], cutoff: int | None = None
) -> np.ndarray[Any, Any]:
    """Return ``1 / ranks``, float64 [N], with 0 where the rank is beyond `cutoff`."""
    _check_cutoff(cutoff)
    values = 1.0 / ranks
    if cutoff is not None:
        values[ranks > cutoff] = 0.0
    return values


def recall_at(counts: RankCounts, k: int, *, ties: Ties = "mean") -> np.ndarray[Any, Any]:
    """Return whether each gold code is among the first k, float64 [N] of 0 and 1.

    Where equal scores straddle place k, "mean" is the share of their orders in which it is.
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    if check_ties(ties) == "mean":
        return np.asarray(np.clip((k - counts.higher) / (counts.equal + 1), 0.0, 1.0))
    return np.asarray(counts.ranks(ties) <= k, dtype=np.float64)


def check_ties(ties: Ties) -> Ties:
    """Return `ties`, or refuse it in one sentence."""
    if ties not in _TIE_SHARE:
        raise ValueError(f"ties must be one of {', '.join(_TIE_SHARE)}, got {ties!r}")
    return ties


def mean_of_ties(ties: Ties) -> float:
    """Return the share of the other equal scores that a rule puts before a code."""
    return _TIE_SHARE[check_ties(ties)]


def score_blocks(
    query: Array, code: Array, device: torch.device | str | None = None
) -> Iterator[torch.Tensor]:
    """Yield the scores ``query @ code.T`` in blocks of rows [rows, M], one buffer for all.

    Identical codes get identical scores: a GEMM may round two equal columns differently (its
    edge tiles sum in another order), so a duplicate's column is copied from its first one.

    Args:
        query: Query vectors [N, D].
        code: Code vectors [M, D].
        device: Where to compute; None: where the codes are.

    Raises:
        ValueError, TypeError: As in `mean_reciprocal_rank`; a vector holds NaN.
    """
    import torch

    query, code = _as_matrix("query", query), _as_matrix("code", code)
    if query.shape[1] != code.shape[1]:
        raise ValueError(
            f"query and code must have the same width, got {query.shape[1]} and {code.shape[1]}"
        )
    for name, vectors in (("query", query), ("code", code)):
        bad = vectors.isnan().any(1).nonzero()
        if len(bad):
            raise ValueError(f"{name} must not hold NaN, got NaN in row {int(bad[0])}")
    dtype = torch.float64 if torch.float64 in (query.dtype, code.dtype) else torch.float32
    code = code.to(device or code.device, dtype)
    extra, first = (torch.from_numpy(ids).to(code.device) for ids in _duplicates(code))
    rows = rows_at_once(query.shape[0], code.shape[0], code.element_size())
    buffer = torch.empty(rows, code.shape[0], dtype=dtype, device=code.device)
    for start in range(0, query.shape[0], rows):
        block = query[start : start + rows].to(code.device, dtype)
        scores = torch.mm(block, code.T, out=buffer[: block.shape[0]])  # [rows, M]
        if len(extra):
            scores[:, extra] = scores[:, first]
        yield scores


def rows_at_once(queries: int, codes: int, bytes_per_score: int) -> int:
    """Return how many rows of scores a block of `score_blocks` has: blocks of even size."""
    most = max(1, _BLOCK_BYTES // (codes * bytes_per_score))
    return -(-queries // -(-queries // most))


def counts_from_scores(blocks: Iterable[Array], target: Array | None = None) -> RankCounts:
    """Count, for each query, the other codes that score higher than and the same as its gold code.

    Args and raises: as in `ranks_from_scores`.
    """
    import torch

    gold = None if target is None else _as_target(target)
    higher, equal, start = [], [], 0
    for block in blocks:
        scores = as_scores(block)
        rows, columns = scores.shape
        if rows == 0:
            continue
        if gold is None:
            index = torch.arange(start, start + rows)
            if start + rows > columns:
                raise ValueError(
                    f"code must have a row for each query when target is None, "
                    f"got {columns} codes for at least {start + rows} queries"
                )
        else:
            index = gold[start : start + rows]
            if len(index) < rows:
                raise ValueError(
                    f"target must have one index per query, got {len(gold)} for more queries"
                )
            if int(index.min()) < 0 or int(index.max()) >= columns:
                bad = start + int(((index < 0) | (index >= columns)).nonzero()[0])
                raise ValueError(
                    f"target must be in [0, {columns}), got {int(gold[bad])} for query {bad}"
                )
        refuse_nan(scores, start)
        own = scores.gather(1, index.to(scores.device)[:, None])  # [rows, 1]
        above, beside = _compare(scores, own)
        higher.append(above)
        equal.append(beside - 1)
        start += rows
    if start == 0:
        raise ValueError("query must have at least one row, got 0")
    if gold is not None and len(gold) != start:
        raise ValueError(f"target must have shape [{start}], got [{len(gold)}]")
    return RankCounts(np.concatenate(higher), np.concatenate(equal))


def _compare(
    scores: torch.Tensor, own: torch.Tensor
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Number of scores [rows, M] above, and equal to, each row's own [rows, 1]: int64 [rows]."""
    if scores.device.type != "cpu":
        return (scores > own).sum(1).cpu().numpy(), (scores == own).sum(1).cpu().numpy()
    above, beside = (np.empty(len(scores), dtype=np.int64) for _ in range(2))
    # NumPy counts booleans seven times faster than torch, and twice as fast where they stay in
    # the cache: 1 s for 15 k queries and 44 k codes.
    step = max(1, _CACHED_BYTES // (scores.shape[1] * scores.element_size()))
    for start in range(0, len(scores), step):
        part, mine = (each[start : start + step].numpy() for each in (scores, own))
        above[start : start + step] = np.count_nonzero(part > mine, axis=1)
        beside[start : start + step] = np.count_nonzero(part == mine, axis=1)
    return above, beside


def as_scores(block: Array) -> torch.Tensor:
    """Return a block of scores as a tensor [rows, M] that NumPy can read."""
    import torch

    scores = torch.as_tensor(block).detach()
    if scores.ndim != 2:
        raise ValueError(f"scores must have shape [rows, M], got {list(scores.shape)}")
    return scores.float() if scores.dtype == torch.bfloat16 else scores


def refuse_nan(scores: torch.Tensor, start: int) -> None:
    """Refuse a block of scores that holds NaN, which no rank can be made of."""
    # A row's sum is NaN if one of its scores is (or if it holds both infinities): one cheap pass.
    suspects = scores.sum(1).isnan()
    if bool(suspects.any()):
        rows = scores.isnan().any(1).nonzero()
        if len(rows):
            raise ValueError(
                f"scores must not be NaN, got NaN for query row {start + int(rows[0])}"
            )


def _duplicates(code: torch.Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Rows that repeat an earlier row, and that earlier row: two int64 arrays of one length."""
    seen: dict[int, int] = {}
    first = np.empty(len(code), dtype=np.int64)
    for start in range(0, len(code), 1024):
        rows = (code[start : start + 1024] + 0.0).cpu().numpy()  # + 0.0 makes -0.0 and 0.0 one
        for i, row in enumerate(rows, start):
            first[i] = seen.setdefault(hash(row.tobytes()), i)
    extra = np.flatnonzero(first != np.arange(len(code)))
    return extra, first[extra]


def _as_matrix(name: str, value: Array) -> torch.Tensor:
    import torch

    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f":
            raise TypeError(f"{name} must be of floating point, got {value.dtype}")
        value = torch.from_numpy(np.require(value, requirements=["C", "W"]))
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor or an array, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be of floating point, got {value.dtype}")
    if value.ndim != 2 or 0 in value.shape:
        raise ValueError(
            f"{name} must have shape [rows, D] and not be empty, got {list(value.shape)}"
        )
    return value.detach()


def _as_target(target: Array) -> torch.Tensor:
    import torch

    index = torch.as_tensor(target).cpu()
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"target must hold integers, got {index.dtype}")
    if index.ndim != 1:
        raise ValueError(f"target must have shape [N], got {list(index.shape)}")
    return index.long()


def _check_cutoff(cutoff: int | None) -> None:
    if cutoff is not None and cutoff < 1:
        raise ValueError(f"cutoff must be >= 1, got {cutoff}")
