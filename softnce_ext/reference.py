"""The losses in plain torch, written from the paper: the oracle every kernel is held against.

Any floating-point type, any device, any transform; the whole [N, M] matrix several times over.
Source of all formulas: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), Eq. 1 to 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

Groups = tuple[Tensor, Tensor]


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

    Returns:
        Weights [N, M]: 1 for the positive, 0 for a masked column. A row with
        ``beta * negatives <= alpha`` has weights 1; a row with a NaN or infinite similarity of a
        negative is NaN.
    """
    n, m = similarity.shape
    positive = positives(n, m, positive_offset, similarity.device)
    negative = ~positive
    if groups is not None:
        negative = negative & (groups[0][:, None] != groups[1][None, :])
    count = negative.sum(dim=1, keepdim=True).to(similarity.dtype)

    z = similarity.masked_fill(~negative, 0)
    broken = ~torch.isfinite(z).all(dim=1, keepdim=True)
    z = (z / temperature).masked_fill(~negative, float("-inf"))
    share = torch.softmax(z, dim=1)  # S_ij; sums to 1 over the row's negatives
    weights = (beta - alpha * share) / (beta - alpha / count)
    weights = weights.clamp(min=min_weight)
    weights = torch.where(beta * count > alpha, weights, torch.ones_like(weights))
    weights = torch.where(broken, torch.full_like(weights, float("nan")), weights)
    weights = torch.where(negative, weights, torch.zeros_like(weights))
    return torch.where(positive, torch.ones_like(weights), weights)


def soft_info_nce(
    query: Tensor,
    code: Tensor,
    similarity: Tensor | tuple[Tensor, Tensor] | None = None,
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
    n, m = query.shape[0], code.shape[0]
    positive = positives(n, m, positive_offset, query.device)
    scores = scale * (query @ code.T)
    if similarity is None:  # every weight is 1: alpha = 0, whatever the similarities
        similarity, alpha, beta = torch.zeros_like(scores), 0.0, 1.0
    elif isinstance(similarity, tuple):
        similarity = similarity[0] @ similarity[1].T
    weights = soft_weights(
        similarity.detach().to(scores.dtype),
        alpha=alpha,
        beta=beta,
        temperature=temperature,
        min_weight=min_weight,
        positive_offset=positive_offset,
        groups=groups,
    )
    # Row i of Eq. 3 is cross-entropy over s_ij + log w_ij, with target i.
    loss = torch.logsumexp(scores + weights.log(), dim=1) - scores[positive]
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


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """Reduce the rows' losses [N] as `reduction` says: "mean", "sum" or "none"."""
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss
