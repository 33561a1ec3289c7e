"""One door behind all losses: check what they share, choose the implementation, call it."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

import torch
from torch import Tensor

from . import blocks, checks, ops, rows, values
from .checks import Groups, Similarity
from .factors import BM25Factors


def loss(
    rule: rows.Rule,
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    scale: float | Tensor,
    positive_offset: int,
    groups: Groups,
    reduction: str,
    impl: str,
) -> Tensor:
    """Return the loss `rule` makes of a batch; the other arguments are the public functions'."""
    checks.check_embeddings(query, code)
    positive_offset = values.check_positive_offset(positive_offset, query, code)
    values.check_options(reduction=reduction, impl=impl)
    soft = rule.objective == rows.SOFT_INFO_NCE
    if similarity is not None or not soft:
        checks.check_similarity(similarity, query, code)
    if groups is not None:
        checks.check_groups(groups, query, code)
    negatives = code.shape[0] - 1
    few = negatives > 0 and not rows.has_normaliser(rule.alpha, rule.beta, negatives)
    if soft and similarity is not None and few:
        warn_few_negatives(rule.alpha, rule.beta, negatives)
    if rule.eps > 0 and query.dtype != torch.float64:  # in fp32 1e-50 would be 0, and bound nothing
        rule = rule._replace(eps=max(rule.eps, torch.finfo(torch.float32).tiny))

    scale = values.check_scale(scale, query.dtype)
    if isinstance(scale, Tensor) and not scale.is_cpu and scale.device != query.device:
        raise ValueError(
            f"scale must be on query's device {query.device} or the CPU, got {scale.device}"
        )

    device = query.device.type
    native = _use_native(impl, device)
    half = checks.autocast_type(device)
    # Autograd gives a tensor's gradient through its product with query.
    if isinstance(scale, Tensor) and native and not (scale.is_cpu and not _is_traced(scale)):
        query, scale = query * scale, 1.0  # rounded: asking for its value would wait for the GPU
    query, code = _cast(query, half), _cast(code, half)
    if isinstance(scale, Tensor):
        query, scale = _draw_out(query, scale) if native else (_wide(query) * scale, 1.0)
    given: tuple[Tensor, ...] = ()  # the similarity as a tuple of tensors, whatever its kind
    if isinstance(similarity, Tensor):
        given = (similarity.detach(),)
    elif isinstance(similarity, BM25Factors):
        given = tuple(similarity)
    elif similarity is not None:
        given = tuple(_cast(vectors.detach(), half) for vectors in similarity)

    if native:
        result = _native(rule, query, code, given, scale, positive_offset, groups, reduction)
    else:
        if (
            isinstance(similarity, BM25Factors)
            and device == "cpu"
            and not _is_traced(similarity[0])
        ):
            values.check_indices(similarity)  # the native op looks for itself
        problem = blocks.Problem(rule, given, groups or (), scale, positive_offset)
        result = blocks.loss(query, code, problem, reduction)
    if similarity is not None and device == "cpu" and not _is_traced(result):
        own = rule.objective == rows.THRESHOLD
        values.check_finite(result, similarity, groups, positive_offset, own)
    return result


_NO_FACTORS = (None,) * 7


def _native(
    rule: rows.Rule,
    query: Tensor,
    code: Tensor,
    similarity: tuple[Tensor, ...],
    scale: float,
    positive_offset: int,
    groups: Groups,
    reduction: str,
) -> Tensor:
    matrix = teacher_query = teacher_code = None
    factors: tuple[Tensor | None, ...] = _NO_FACTORS
    if len(similarity) == 1:
        (matrix,) = similarity
    elif len(similarity) == 2:
        teacher_query, teacher_code = similarity
    elif similarity:
        factors = similarity
    query_groups = code_groups = None
    if groups is not None:
        query_groups, code_groups = (part.contiguous() for part in groups)
    shared = (
        *(query, code, matrix, teacher_query, teacher_code, *factors, query_groups, code_groups),
        *(rule.objective, float(rule.alpha), float(rule.beta), float(rule.temperature)),
        *(float(rule.min_weight), float(rule.cutoff), float(scale), float(rule.eps)),
        *(positive_offset, 0),
    )
    if reduction == "none":
        return ops.soft_info_nce_rows(*shared)
    grad = torch.is_grad_enabled()
    return ops.soft_info_nce(
        *shared,
        mean=reduction == "mean",
        need_grad_query=grad and query.requires_grad,
        need_grad_code=grad and code.requires_grad,
    )


def _use_native(impl: str, device: str) -> bool:
    if impl == "torch":
        return False
    # Neither torch.func's transforms nor forward-mode AD go through a custom op's autograd.
    transformed = blocks.transformed()
    if impl == "auto":
        reason = None if transformed else ops.unavailable(device)
        if reason is not None and device in ("cpu", "cuda"):
            _warn_torch_path(reason)
        return not transformed and reason is None
    if transformed:
        raise RuntimeError(
            "impl='native' cannot run under torch.func or forward-mode AD: use impl='torch'"
        )
    reason = ops.unavailable(device)
    if reason is not None:
        raise RuntimeError(f"impl='native' cannot run: {reason}")
    return True


def _draw_out(query: Tensor, scale: Tensor) -> tuple[Tensor, float]:
    """Return scale as the number the op takes, and query, through which its gradient still goes."""
    value = float(scale.detach())
    if value == 0 or not abs(value) <= torch.finfo(torch.float32).max:
        return query * scale, 1.0
    one = scale / scale.detach()
    return (_wide(query) * one).to(query.dtype), value


def _wide(tensor: Tensor) -> Tensor:
    """Return half types as fp32, where a product or a sum is not to be rounded to them."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _cast(tensor: Tensor, half: torch.dtype | None) -> Tensor:
    """Cast as autocast would cast a matrix product's operand."""
    return tensor if half is None or tensor.dtype == torch.float64 else tensor.to(half)


def _is_traced(tensor: Tensor) -> bool:
    """Tell whether asking for a value would fail: it is compiled, fake, or being recorded."""
    if torch.compiler.is_compiling() or type(tensor) not in (Tensor, torch.nn.Parameter):
        return True
    return torch._C._len_torch_dispatch_stack() > 0


def _warn(message: str) -> None:
    """Warn where this package was called from, whichever module or compiler lies between."""
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and _package(frame) in (__package__, "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


_told: set[str] = set()


def _warn_torch_path(reason: str) -> None:
    """Warn once of each reason why the native ops do not run; it names the cure."""
    if reason not in _told:
        _told.add(reason)
        _warn(f"softnce_ext runs its plain torch path: {reason}")


# Never traced: what torch.compiler.assume_constant_result sets, without importing torch._dynamo.
_warn_torch_path._dynamo_marked_constant = True  # type: ignore[attr-defined]


def warn_few_negatives(alpha: float, beta: float, negatives: int) -> None:
    """Warn, outside compiled code, that a batch is too small for Eq. 4's normaliser."""
    if not torch.compiler.is_compiling():
        _warn(
            f"beta * negatives <= alpha ({beta} * {negatives} <= {alpha}): Eq. 4 has no positive "
            "normaliser, every weight is 1 for this batch"
        )
