"""A query's own mined negatives at weight 1, whatever the estimator thinks of them.

BM25 mines what is similar to the query: Eq. 4 would weaken just these. They are masked out of the
row through its groups, so that the softmax and the count are those of the other codes, and then
added to the row's sum again:

    loss_i = log(exp(loss_i without own) + sum over own of exp(s_ij - s_ii))
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..estimators.similarity import Groups


def group_own(groups: Groups | None, queries: int, codes: Tensor) -> tuple[Groups, Tensor]:
    """Put each query's mined negatives into its own group.

    A negative that repeats some row's code stays in that row's group: it must not become a
    negative there. So it is weighed for its query, in both places. Rows of one group lose each
    other's mined negatives.

    Args:
        groups: Of all ranks' queries [N] and codes [M], or None.
        queries: N.
        codes: All ranks' codes, [M, D]: N positives, then columns of N negatives.

    Returns:
        The groups, and bool [k, N]: which of the mined negatives are in their query's group now.
    """
    if groups is None:
        number = torch.arange(len(codes), device=codes.device)
        groups = (number[:queries], number)
    query, code = groups
    mined = code[queries:].view(-1, queries)  # [k, N]
    free = ~torch.isin(mined, query)
    mined = torch.where(free, query, mined)
    return (query, torch.cat([code[:queries], mined.flatten()])), free


def add_own(
    losses: Tensor, query: Tensor, codes: Tensor, free: Tensor, rows: slice, scale: float
) -> Tensor:
    """Return the losses with the rows' own negatives added at weight 1.

    Args:
        losses: Of rows without their own negatives, [n].
        query: [n, D].
        codes: All ranks' codes, [M, D].
        free: Which of the own negatives the losses lack, bool [k, N].
        rows: Where these rows lie among all.
        scale: Multiplies the scores.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    own = codes.view(-1, free.shape[1], codes.shape[1])[:, rows].to(wide)  # [1 + k, n, D]
    scores = scale * (own * query.to(wide)).sum(-1)
    excess = (scores[1:] - scores[0]).masked_fill(~free[:, rows], -torch.inf)
    return torch.logsumexp(torch.cat([losses[None], excess]), 0)
