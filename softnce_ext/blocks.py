"""The plain-torch path: row blocks with the gradient finished in the forward pass.

What runs where the native ops do not: no compiler, another device, torch.func. The same block
driver as csrc/cpu/soft_info_nce.cpp in torch's own operations, O(block rows x M) memory;
`reference.py` takes over where a gradient is to be differentiated again.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import reference, rows
from .checks import has_autocast
from .factors import BM25Factors, ByDocument

BLOCK_ROWS = 512


class Problem(NamedTuple):
    """What a batch is beside its embeddings."""

    rule: rows.Rule
    similarity: tuple[Tensor, ...]  # () | (z,) | (teacher_query, teacher_code) | BM25's factors
    groups: tuple[Tensor, ...]  # () | (query_groups, code_groups)
    scale: float
    positive_offset: int


def loss(query: Tensor, code: Tensor, problem: Problem, reduction: str) -> Tensor:
    """Return the loss in fp32 (fp64 for fp64), 0-d or [N]; arguments have been checked."""
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    query, code = query.to(dtype), code.to(dtype)
    if len(problem.similarity) == 2:
        problem = problem._replace(similarity=tuple(part.to(dtype) for part in problem.similarity))
    with _without_autocast(query.device.type):  # it would round scores to its half type
        if transformed():
            return _differentiable(query, code, problem, reduction)
        if not torch.is_grad_enabled():  # which needs_input_grad does not say
            query, code = query.detach(), code.detach()
        return _Blocks.apply(query, code, problem, reduction)  # type: ignore[no-any-return, no-untyped-call]


def _without_autocast(device: str) -> contextlib.AbstractContextManager[None]:
    if has_autocast(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def transformed() -> bool:
    """Tell whether torch.func or forward-mode AD is at work, which needs plain operations."""
    functorch: bool = torch._C._are_functorch_transforms_active()
    return functorch or torch.autograd.forward_ad._current_level >= 0


def _differentiable(query: Tensor, code: Tensor, problem: Problem, reduction: str) -> Tensor:
    rule = problem.rule
    given: Any = problem.similarity or None
    if len(problem.similarity) == 1:
        given = problem.similarity[0].to(query.dtype)
    elif len(problem.similarity) == 7:
        given = BM25Factors(*problem.similarity)
    options: dict[str, Any] = {"scale": problem.scale, "positive_offset": problem.positive_offset}
    options |= {"groups": problem.groups or None, "reduction": reduction}
    if rule.objective == rows.TOP_K:
        return reference.top_k_cancellation(query, code, given, k=int(rule.cutoff), **options)
    if rule.objective == rows.THRESHOLD:
        return reference.threshold_cancellation(query, code, given, ratio=rule.cutoff, **options)
    options["temperature"] = rule.temperature
    if rule.objective == rows.BCE:
        return reference.bce(query, code, given, **options)
    if rule.objective == rows.KL:
        options |= {"info_nce_weight": rule.beta, "kl_weight": rule.alpha}
        return reference.kl_regularized_info_nce(query, code, given, **options)
    options["eps"] = rule.eps
    if rule.objective == rows.WEIGHTED_INFO_NCE:
        return reference.weighted_info_nce(query, code, given, **options)
    options |= {"alpha": rule.alpha, "beta": rule.beta, "min_weight": rule.min_weight}
    return reference.soft_info_nce(query, code, given, **options)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, code: Tensor, problem: Problem, reduction: str) -> Tensor:
        ctx.reduction = reduction
        needs = ctx.needs_input_grad[:2]
        row_weight = 1 / query.shape[0] if reduction == "mean" else 1.0
        finish = any(needs) and reduction != "none"
        losses, grads = _run(query, code, problem, row_weight, needs if finish else (False, False))
        # The embeddings are kept for a second derivative, and for reduction="none". The problem's
        # tensors too, so that changing one in place is noticed.
        ctx.problem = problem._replace(similarity=(), groups=())
        ctx.sizes = len(problem.similarity), len(problem.groups)
        ctx.save_for_backward(
            query, code, *problem.similarity, *problem.groups, *(grads if finish else ())
        )
        return reference.reduce(losses, reduction)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        query, code, *rest = ctx.saved_tensors
        similarity_end, groups_end = ctx.sizes[0], sum(ctx.sizes)
        problem = ctx.problem._replace(
            similarity=tuple(rest[:similarity_end]), groups=tuple(rest[similarity_end:groups_end])
        )
        needs = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            value = _differentiable(query, code, problem, ctx.reduction)
            wanted = [tensor for tensor, need in zip((query, code), needs, strict=True) if need]
            found = iter(torch.autograd.grad(value, wanted, grad_loss, create_graph=True))
            return *(next(found) if need else None for need in needs), None, None
        if ctx.reduction == "none":
            _, grads = _run(query, code, problem, grad_loss, needs)
        else:
            grads = [None if grad is None else grad * grad_loss for grad in rest[groups_end:]]
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
    factors, known = None, None
    if len(problem.similarity) == 7:
        factors = ByDocument.of(BM25Factors(*problem.similarity), query.dtype)
        known = factors.known(code.shape[0])
    begin = 0
    while begin < n:  # not a range, which would compile one graph per n
        part = slice(begin, min(begin + BLOCK_ROWS, n))
        positive = torch.arange(part.stop - begin, device=query.device)[:, None]
        positive = positive + begin + problem.positive_offset  # [R, 1], column of the positive
        scores = torch.mm(query[part], code.T).mul_(problem.scale)  # [R, M]
        masked = None
        if problem.groups:
            query_groups, code_groups = problem.groups
            masked = query_groups[part, None] == code_groups[None, :]
            masked.scatter_(1, positive, False)
        similarity = _similarity(problem, factors, part, scores)
        block = rows.Block(scores, positive, masked, similarity, known)
        block_loss, grad_scores = rows.loss_and_gradient(problem.rule, block, any(needs))
        losses.append(block_loss[:, 0])
        if any(needs):
            grad_scores *= row_weight[part, None] if isinstance(row_weight, Tensor) else row_weight
            if grad_query is not None:
                grad_query[part] = torch.mm(grad_scores, code).mul_(problem.scale)
            if grad_code is not None:
                grad_code.addmm_(grad_scores.T, query[part], alpha=problem.scale)
        begin += BLOCK_ROWS
    return torch.cat(losses), [grad_query, grad_code]


def _similarity(
    problem: Problem, factors: ByDocument | None, part: slice, scores: Tensor
) -> Tensor | None:
    """Return the similarities of a block of rows, [R, M], in memory of their own."""
    if not problem.similarity:
        return None
    if factors is not None:
        return factors.rows(part, scores.shape[1])
    if len(problem.similarity) == 2:
        return torch.mm(problem.similarity[0][part], problem.similarity[1].T)
    return problem.similarity[0][part].to(scores.dtype, copy=True)
