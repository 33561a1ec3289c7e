"""The losses in plain torch, written from the paper: the oracle every kernel is held against.

Any floating-point type, any device, any transform; the whole [N, M] matrix several times over.
Source of all formulas: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), Eq. 1 to 5 and
sections 4.3 and 4.4. S is the softmax of a row's similarities over its negatives, P that of its
scores over positive and negatives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .factors import BM25Factors

Groups = tuple[Tensor, Tensor]
Similarity = Tensor | tuple[Tensor, Tensor] | BM25Factors
_MINUS_INFINITY = float("-inf")


def positives(rows: int, columns: int, positive_offset: int, device: torch.device) -> Tensor:
    """Return bool [N, M], true where column i + positive_offset is row i's positive."""
    column = torch.arange(columns, device=device)
    row = torch.arange(rows, device=device)
    return column[None, :] == row[:, None] + positive_offset


def soft_weights(
    similarity: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    min_weight: float = 0.1,
    positive_offset: int = 0,
    groups: Groups | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Turn raw similarities into the weights of the negatives (Eq. 4).

    Args:
        similarity: Raw similarity of each query and code, [N, M].
        alpha: How strongly a similar negative is weakened.
        beta: The constant part of a weight.
        temperature: Temperature of the softmax over a row's negatives, > 0.
        min_weight: Lower bound of a weight.
        positive_offset: The positive of row i is column i + positive_offset.
        groups: ``(query_groups [N], code_groups [M])``: a code of the query's own group is no
            negative, its weight is 0.
        known: bool [M], false for a code without a similarity: its weight is 1, and Eq. 4 is about
            the others.

    Returns:
        Weights [N, M]: 1 for the positive, 0 for a masked column. A row with
        ``beta * negatives <= alpha`` has weights 1; a row with a NaN or infinite similarity of a
        negative is NaN.
    """
    n, m = similarity.shape
    positive = positives(n, m, positive_offset, similarity.device)
    negative = _negatives(positive, groups)
    judged = negative if known is None else negative & known
    count = judged.sum(dim=1, keepdim=True).to(similarity.dtype)
    # A difference of rounding alone, 0.1 * 19 - 1.9, is no normaliser.
    normalised = (count > 0) & (beta * count - alpha > 1e-6 * abs(alpha))

    share = log_shares(similarity, judged, temperature).exp()
    weights = (beta - alpha * share) / (beta - alpha / count)
    weights = weights.clamp(min=min_weight)
    weights = torch.where(normalised, weights, torch.ones_like(weights))
    weights = torch.where(judged, weights, torch.ones_like(weights))
    weights = torch.where(negative, weights, torch.zeros_like(weights))
    weights = torch.where(positive, torch.ones_like(weights), weights)
    return weights.masked_fill(_broken(similarity, judged) & negative, float("nan"))


def log_shares(similarity: Tensor, judged: Tensor, temperature: float) -> Tensor:
    """Return log S [N, M]: -inf where not `judged`, NaN in a row with a z that is not finite."""
    z = similarity.masked_fill(~judged, _MINUS_INFINITY)
    top = z.amax(dim=1, keepdim=True)  # first: z / temperature may overflow, their difference not
    z = (similarity - torch.where(top.isinf(), 0, top)).masked_fill(~judged, 0)
    z = z / max(temperature, torch.finfo(z.dtype).tiny)
    shares = torch.log_softmax(z.masked_fill(~judged, _MINUS_INFINITY), dim=1)
    shares = shares.masked_fill(~judged, _MINUS_INFINITY)
    return shares.masked_fill(_broken(similarity, judged) & judged, float("nan"))


def soft_info_nce(
    query: Tensor,
    code: Tensor,
    similarity: Similarity | None = None,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    min_weight: float = 0.1,
    scale: float | Tensor = 1.0,
    eps: float = 0.0,
    positive_offset: int = 0,
    groups: Groups | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute Soft-InfoNCE literally; arguments as in `softnce_ext.soft_info_nce`."""
    batch = _batch(query, code, similarity, scale, positive_offset, groups)
    if similarity is None:  # every weight is 1: alpha = 0, whatever the similarities
        alpha, beta = 0.0, 1.0
    weights = soft_weights(
        batch.similarity,
        alpha=alpha,
        beta=beta,
        temperature=temperature,
        min_weight=min_weight,
        positive_offset=positive_offset,
        groups=groups,
        known=batch.known,
    )
    # Row i of Eq. 3 is cross-entropy over s_ij + log w_ij, with target i.
    loss = torch.logsumexp(batch.scores + weights.log(), dim=1) - batch.scores[batch.positive]
    if eps > 0:
        loss = -torch.log(torch.exp(-loss) + eps)
    return reduce(loss, reduction)


def info_nce(
    query: Tensor,
    code: Tensor,
    *,
    scale: float | Tensor = 1.0,
    positive_offset: int = 0,
    reduction: str = "mean",
) -> Tensor:
    """Compute InfoNCE with in-batch negatives (Eq. 1): cross-entropy over the rows of scores."""
    scores = scale * (query @ code.T)
    target = torch.arange(query.shape[0], device=query.device) + positive_offset
    return torch.nn.functional.cross_entropy(scores, target, reduction=reduction)


def top_k_cancellation(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    *,
    k: int,
    scale: float | Tensor = 1.0,
    positive_offset: int = 0,
    groups: Groups | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute InfoNCE without each row's k most similar negatives, literally."""
    batch = _batch(query, code, similarity, scale, positive_offset, groups)
    judged = batch.negative & batch.known
    z = batch.similarity.masked_fill(~judged, _MINUS_INFINITY)
    order = z.sort(dim=1, descending=True, stable=True).indices  # of equals the lower column first
    dropped = judged & (order.argsort(dim=1) < k)  # the place of each column in the order
    return _cancelled(batch, dropped, _broken(batch.similarity, judged), reduction)


def threshold_cancellation(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    *,
    ratio: float,
    scale: float | Tensor = 1.0,
    positive_offset: int = 0,
    groups: Groups | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute InfoNCE over the negatives with z_ij < ratio * z_ii, literally."""
    batch = _batch(query, code, similarity, scale, positive_offset, groups)
    own = batch.similarity[batch.positive][:, None]
    own_known = batch.known.expand_as(batch.positive)[batch.positive][:, None]
    judged = batch.negative & batch.known
    dropped = judged & own_known & ~(batch.similarity < ratio * own)
    broken = _broken(batch.similarity, judged) | (own_known & ~torch.isfinite(own))
    return _cancelled(batch, dropped, broken, reduction)


def bce(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    *,
    temperature: float,
    scale: float | Tensor = 1.0,
    positive_offset: int = 0,
    groups: Groups | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute binary cross-entropy of each P_ij with target 1 or S_ij, literally."""
    batch = _batch(query, code, similarity, scale, positive_offset, groups)
    target = _targets(batch, temperature)
    counts = batch.positive | batch.negative
    scores = _without(batch.scores, ~counts)
    log_z = torch.logsumexp(scores, dim=1, keepdim=True)
    log_p = scores - log_z
    # 1 - P_ij as a difference for all columns but the largest, as the sum of the others for it:
    # the difference would be 0 where P_ij rounds to 1.
    column = torch.arange(scores.shape[1], device=scores.device)
    largest = column == scores.argmax(dim=1, keepdim=True)
    lonely = counts.sum(dim=1, keepdim=True) == 1
    others = torch.logsumexp(scores.masked_fill(largest & ~lonely, _MINUS_INFINITY), 1, True)
    log_q = torch.where(largest, others - log_z, torch.log1p(-log_p.masked_fill(largest, -1).exp()))
    terms = target * log_p.clamp(min=-100) + (1 - target) * log_q.clamp(min=-100)
    loss = -terms.masked_fill(~counts, 0).sum(dim=1) / counts.sum(dim=1)
    return reduce(loss, reduction)


def weighted_info_nce(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    *,
    temperature: float,
    scale: float | Tensor = 1.0,
    eps: float = 0.0,
    positive_offset: int = 0,
    groups: Groups | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute cross-entropy with the targets 1 and S_ij (Eq. 13), literally."""
    batch = _batch(query, code, similarity, scale, positive_offset, groups)
    target = _targets(batch, temperature)
    counts = batch.positive | batch.negative
    log_p = torch.log_softmax(_without(batch.scores, ~counts), dim=1)
    if eps > 0:
        log_p = torch.log(log_p.exp() + eps)
    terms = target * torch.where(target == 0, torch.zeros_like(log_p), log_p)  # 0 * -inf = 0
    return reduce(-terms.sum(dim=1), reduction)


def kl_regularized_info_nce(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    *,
    temperature: float,
    info_nce_weight: float = 1.3,
    kl_weight: float = 0.7,
    scale: float | Tensor = 1.0,
    positive_offset: int = 0,
    groups: Groups | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute InfoNCE plus the divergence of S from the softmax over the negatives, literally."""
    batch = _batch(query, code, similarity, scale, positive_offset, groups)
    log_share = log_shares(batch.similarity, batch.negative & batch.known, temperature)
    share = log_share.exp()
    counts = batch.positive | batch.negative
    log_p = torch.log_softmax(_without(batch.scores, ~counts), dim=1)
    # A row without negatives keeps its scores: a softmax over nothing is NaN.
    lonely = ~batch.negative.any(dim=1, keepdim=True)
    log_p_negative = torch.log_softmax(_without(batch.scores, ~batch.negative & ~lonely), dim=1)
    ratio = torch.where(share == 0, torch.zeros_like(share), log_share - log_p_negative)
    divergence = (share * ratio).sum(dim=1)  # 0 log 0 = 0
    return reduce(-info_nce_weight * log_p[batch.positive] + kl_weight * divergence, reduction)


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """Reduce the rows' losses [N] as `reduction` says: "mean", "sum" or "none"."""
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


class _Batch(NamedTuple):
    scores: Tensor  # [N, M]
    similarity: Tensor  # [N, M], no gradient; 0 without similarities
    known: Tensor  # bool [M], which codes have a similarity
    positive: Tensor  # bool [N, M]
    negative: Tensor  # bool [N, M]


def _batch(
    query: Tensor,
    code: Tensor,
    similarity: Similarity | None,
    scale: float | Tensor,
    positive_offset: int,
    groups: Groups | None,
) -> _Batch:
    n, m = query.shape[0], code.shape[0]
    scores = scale * (query @ code.T)
    known = torch.ones(m, dtype=torch.bool, device=query.device)
    if similarity is None:
        z = torch.zeros_like(scores)
    elif isinstance(similarity, BM25Factors):
        z, known = similarity.dense(scores.dtype), similarity.known(m)
        z = torch.nn.functional.pad(z, (0, m - z.shape[1]))
    elif isinstance(similarity, tuple):
        z = similarity[0] @ similarity[1].T
    else:
        z = similarity
    positive = positives(n, m, positive_offset, query.device)
    return _Batch(
        scores, z.detach().to(scores.dtype), known, positive, _negatives(positive, groups)
    )


def _negatives(positive: Tensor, groups: Groups | None) -> Tensor:
    if groups is None:
        return ~positive
    return ~positive & (groups[0][:, None] != groups[1][None, :])


def _without(scores: Tensor, gone: Tensor) -> Tensor:
    """Return the scores with -inf where they are to count for nothing; a NaN always counts."""
    return scores.masked_fill(gone & ~scores.isnan(), _MINUS_INFINITY)


def _broken(similarity: Tensor, judged: Tensor) -> Tensor:
    """Tell which rows have a similarity among `judged` that is NaN or infinite, bool [N, 1]."""
    return (judged & ~torch.isfinite(similarity)).any(dim=1, keepdim=True)


def _targets(batch: _Batch, temperature: float) -> Tensor:
    share = log_shares(batch.similarity, batch.negative & batch.known, temperature).exp()
    return torch.where(batch.positive, torch.ones_like(share), share)


def _cancelled(batch: _Batch, dropped: Tensor, broken: Tensor, reduction: str) -> Tensor:
    """Cross-entropy over the positive and the negatives that are not dropped."""
    gone = dropped | ~(batch.positive | batch.negative)
    loss = torch.logsumexp(_without(batch.scores, gone), dim=1)
    loss = loss - batch.scores[batch.positive]
    lost = broken[:, 0] & batch.negative.any(dim=1)
    return reduce(loss.masked_fill(lost, float("nan")), reduction)
