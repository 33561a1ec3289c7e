"""The plain-torch path: row blocks with the gradient finished in the forward pass.

What runs where the native ops do not: no compiler, another device, torch.func. The same block
driver as csrc/cpu/soft_info_nce.cpp in torch's own operations, O(block rows x M) memory;
`reference.py` takes over where a gradient is to be differentiated again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import reference

BLOCK_ROWS = 512


class Problem(NamedTuple):
    """What a batch is beside its embeddings; fields as in `softnce_ext.soft_info_nce`."""

    similarity: Tensor | tuple[Tensor, Tensor] | None
    groups: tuple[Tensor, Tensor] | None
    alpha: float
    beta: float
    temperature: float
    min_weight: float
    scale: float
    eps: float
    positive_offset: int


def soft_info_nce(query: Tensor, code: Tensor, problem: Problem, reduction: str) -> Tensor:
    """Return the loss in fp32 (fp64 for fp64), 0-d or [N]; arguments have been checked."""
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    query, code = query.to(dtype), code.to(dtype)
    if isinstance(problem.similarity, tuple):
        teacher_query, teacher_code = problem.similarity
        problem = problem._replace(similarity=(teacher_query.to(dtype), teacher_code.to(dtype)))
    with torch.autocast(query.device.type, enabled=False):  # it would round scores to its half type
        if transformed():
            return _differentiable(query, code, problem, reduction)
        loss: Tensor = _Blocks.apply(query, code, problem, reduction)  # type: ignore[no-untyped-call]
        return loss


def transformed() -> bool:
    """Tell whether torch.func or forward-mode AD is at work, which needs plain operations."""
    functorch: bool = torch._C._are_functorch_transforms_active()
    return functorch or torch.autograd.forward_ad._current_level >= 0


def _differentiable(query: Tensor, code: Tensor, problem: Problem, reduction: str) -> Tensor:
    options = problem._asdict()
    similarity = options.pop("similarity")
    if isinstance(similarity, Tensor):
        similarity = similarity.to(query.dtype)
    return reference.soft_info_nce(query, code, similarity, reduction=reduction, **options)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, code: Tensor, problem: Problem, reduction: str) -> Tensor:
        ctx.reduction = reduction
        needs = ctx.needs_input_grad[:2]
        row_weight = 1 / query.shape[0] if reduction == "mean" else 1.0
        finish = any(needs) and reduction != "none"
        loss, grads = _run(query, code, problem, row_weight, needs if finish else (False, False))
        # The embeddings are kept for a second derivative, and for reduction="none".
        # The problem's tensors too, so that changing one in place is noticed.
        pair = problem.similarity if isinstance(problem.similarity, tuple) else ()
        alone = problem.similarity if isinstance(problem.similarity, Tensor) else None
        groups = problem.groups or (None, None)
        ctx.problem = problem._replace(similarity=None, groups=None)
        ctx.sizes = len(pair)
        ctx.save_for_backward(query, code, alone, *groups, *pair, *(grads if finish else ()))
        return reference.reduce(loss, reduction)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        query, code, alone, query_groups, code_groups, *rest = ctx.saved_tensors
        pair, grads = tuple(rest[: ctx.sizes]), rest[ctx.sizes :]
        problem = ctx.problem._replace(
            similarity=pair or alone,
            groups=None if query_groups is None else (query_groups, code_groups),
        )
        needs = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            loss = _differentiable(query, code, problem, ctx.reduction)
            wanted = [tensor for tensor, need in zip((query, code), needs, strict=True) if need]
            found = iter(torch.autograd.grad(loss, wanted, grad_loss, create_graph=True))
            return *(next(found) if need else None for need in needs), None, None
        if ctx.reduction == "none":
            _, grads = _run(query, code, problem, grad_loss, needs)
        else:
            grads = [None if grad is None else grad * grad_loss for grad in grads]
        return *grads, None, None


def _run(
    query: Tensor,
    code: Tensor,
    problem: Problem,
    row_weight: float | Tensor,
    needs: tuple[bool, bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the rows' losses [N], and the gradients of their sum weighted by `row_weight`."""
    n = query.shape[0]
    losses = []
    grad_query = torch.empty_like(query) if needs[0] else None
    grad_code = torch.zeros_like(code) if needs[1] else None
    begin = 0
    while begin < n:  # not a range, which would compile one graph per n
        rows = slice(begin, min(begin + BLOCK_ROWS, n))
        count = rows.stop - begin
        positive = torch.arange(count, device=query.device)[:, None]
        positive = positive + begin + problem.positive_offset  # [R, 1], column of the positive
        scores = torch.mm(query[rows], code.T).mul_(problem.scale)  # [R, M]
        own = scores.gather(1, positive)
        weights = _weights(problem, rows, positive, scores)
        if weights is not None:
            scores += weights.log_()  # a weight of 0 is a bias of -inf
        # log(1 + sum_j w_j exp(s_j - s_p)): a loss near zero keeps its relative accuracy.
        scores.sub_(own).scatter_(1, positive, float("-inf"))
        loss = torch.logaddexp(torch.logsumexp(scores, dim=1, keepdim=True), own - own)
        factor: float | Tensor = (
            row_weight[rows, None] if isinstance(row_weight, Tensor) else row_weight
        )
        if problem.eps > 0:
            p = torch.exp(-loss)
            losses.append(-torch.log(p + problem.eps)[:, 0])
            factor = factor * (p / (p + problem.eps))
        else:
            losses.append(loss[:, 0])
        if grad_query is not None or grad_code is not None:
            grad_scores = scores.sub_(loss).exp_()
            grad_scores.scatter_(1, positive, torch.expm1(-loss)).mul_(factor)
            if grad_query is not None:
                grad_query[rows] = torch.mm(grad_scores, code).mul_(problem.scale)
            if grad_code is not None:
                grad_code.addmm_(grad_scores.T, query[rows], alpha=problem.scale)
        begin += BLOCK_ROWS
    return torch.cat(losses), [grad_query, grad_code]


def _weights(problem: Problem, rows: slice, positive: Tensor, scores: Tensor) -> Tensor | None:
    """Return Eq. 4's weights of a block, [R, M], 1 for positives and 0 for masked columns."""
    masked = None
    if problem.groups is not None:
        query_groups, code_groups = problem.groups
        masked = query_groups[rows, None] == code_groups[None, :]
        masked.scatter_(1, positive, False)
    if problem.similarity is None:
        return None if masked is None else (~masked).to(scores.dtype)
    if isinstance(problem.similarity, tuple):
        z = torch.mm(problem.similarity[0][rows], problem.similarity[1].T)
    else:
        z = problem.similarity[rows].to(scores.dtype, copy=True)

    # What is no negative takes a finite z first, so that only negatives are judged, then -inf.
    z.scatter_(1, positive, 0)
    if masked is not None:
        z.masked_fill_(masked, 0)
    broken = ~torch.isfinite(z).all(dim=1, keepdim=True)
    z.scatter_(1, positive, float("-inf"))
    negatives: float | Tensor = z.shape[1] - 1
    if masked is not None:
        z.masked_fill_(masked, float("-inf"))
        negatives = z.shape[1] - 1 - masked.sum(dim=1, keepdim=True).to(z.dtype)
    # The largest goes first: z / temperature may overflow where the difference does not.
    top = z.amax(dim=1, keepdim=True)
    z.sub_(torch.where(top.isinf(), 0, top))  # a row without negatives stays -inf
    bounds = torch.finfo(z.dtype)
    z.div_(min(max(problem.temperature, bounds.tiny), bounds.max))
    weights = torch.softmax(z, dim=1)
    alpha, beta = problem.alpha, problem.beta
    if isinstance(negatives, Tensor):
        weights = weights.mul_(-alpha).add_(beta).div_(beta - alpha / negatives)
        weights = weights.clamp_(min=problem.min_weight)
        weights = torch.where(beta * negatives > alpha, weights, torch.ones_like(weights))
        weights.masked_fill_(masked, 0)  # type: ignore[arg-type]
    elif negatives > 0 and beta * negatives > alpha:
        normaliser = beta - alpha / negatives
        weights = weights.mul_(-alpha / normaliser).add_(beta / normaliser)
        weights = weights.clamp_(min=problem.min_weight)
    else:
        weights.fill_(1)
    weights.masked_fill_(broken, float("nan"))
    return weights.scatter_(1, positive, 1)
