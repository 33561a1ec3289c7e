"""The public functions: check the arguments, choose the implementation, call it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import blocks, checks, ops, reference
from .checks import Groups, Similarity


def soft_info_nce(
    query: Tensor,
    code: Tensor,
    similarity: Similarity = None,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    min_weight: float = 0.1,
    scale: float | Tensor = 1.0,
    eps: float = 0.0,
    positive_offset: int = 0,
    groups: Groups = None,
    reduction: str = "mean",
    impl: str = "auto",
) -> Tensor:
    """Compute Soft-InfoNCE: InfoNCE whose negatives weigh less the more similar they are.

    Same as, without the [N, M] matrices and with the gradient finished in the forward pass::

        scores = scale * query @ code.T
        weights = softnce_ext.soft_weights(similarity, alpha=alpha, beta=beta,
                                           temperature=temperature, min_weight=min_weight)
        loss = F.cross_entropy(scores + weights.log(), torch.arange(len(query)))

    Args:
        query: Query embeddings, [N, D], fp32, fp64, bf16 or fp16.
        code: Code embeddings, [M, D], M >= N, of query's type and device. The positive of row i is
            column ``i + positive_offset``, every other column is a negative.
        similarity: How similar a frozen estimator finds each pair: None (plain InfoNCE), raw
            similarities [N, M], or the estimator's vectors ``(teacher_query [N, Dt],
            teacher_code [M, Dt])``, whose dot products are taken block by block. The positive's
            own similarity is not used. No gradient flows through it.
        alpha: How strongly a similar negative is weakened (`softnce_ext.PRESETS` has the paper's).
        beta: The constant part of a weight.
        temperature: Temperature of the softmax over a row's similarities, > 0.
        min_weight: Lower bound of a weight, in [0, 1].
        scale: Multiplies the scores (1 / temperature of the scores): a number, or a learnable 0-d
            tensor.
        eps: Added to the probability inside the logarithm, >= 0; the published code has 1e-15.
        positive_offset: Column of row 0's positive, in [0, M - N].
        groups: ``(query_groups [N], code_groups [M])``, int64: a code of the query's own group is
            no negative. It is left out of the loss, of the similarity softmax and of the count of
            negatives.
        reduction: "mean", "sum" or "none".
        impl: "native" (the compiled op), "torch" (row blocks in plain torch), or "auto": native
            where it runs.

    Returns:
        The loss, 0-d or [N], in fp32 (fp64 for fp64 inputs). A row without negatives has loss 0; a
        row with ``beta * negatives <= alpha`` has weights 1, plain InfoNCE. A NaN in a row's
        scores makes its loss NaN.

    Raises:
        ValueError, TypeError: an argument breaks a rule above, or (on the CPU) a negative's
            similarity is NaN or infinite; on CUDA, or compiled, such a row's loss is NaN.
        RuntimeError: ``impl="native"`` where the native op cannot run.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), Eq. 3 to 5.
    """
    checks.check_embeddings(query, code, positive_offset)
    checks.check_similarity(similarity, query, code)
    checks.check_groups(groups, query, code)
    checks.check_rule(alpha, beta, temperature, min_weight)
    checks.check_number("eps", eps)
    if eps < 0:
        raise ValueError(f"eps must be >= 0, got {eps}")
    checks.check_choice("reduction", reduction, ("mean", "sum", "none"))
    checks.check_choice("impl", impl, ("auto", "native", "torch"))

    negatives = code.shape[0] - 1
    if similarity is not None and negatives > 0 and beta * negatives <= alpha:
        checks.warn_few_negatives(alpha, beta, negatives)

    if isinstance(scale, Tensor):  # autograd gives its gradient through the product
        if scale.dim() != 0:
            raise ValueError(
                f"scale must be a number or a 0-d tensor, got shape {list(scale.shape)}"
            )
        query, scale = query * scale.to(query.dtype), 1.0
    else:
        checks.check_number("scale", scale)

    query, code = _autocast(query), _autocast(code)
    if isinstance(similarity, tuple):
        similarity = (_autocast(similarity[0].detach()), _autocast(similarity[1].detach()))
    elif similarity is not None:
        similarity = similarity.detach()

    rule: dict[str, Any] = {"alpha": alpha, "beta": beta, "temperature": temperature}
    rule |= {"min_weight": min_weight, "scale": scale, "eps": eps}
    rule |= {"positive_offset": positive_offset}
    if _use_native(impl, query):
        loss = _native(query, code, similarity, groups, reduction, **rule)
    else:
        loss = blocks.soft_info_nce(
            query, code, blocks.Problem(similarity, groups, **rule), reduction
        )
    if similarity is not None and query.device.type == "cpu" and not torch.compiler.is_compiling():
        checks.check_finite(loss, similarity, groups, positive_offset)
    return loss


def info_nce(
    query: Tensor,
    code: Tensor,
    *,
    scale: float | Tensor = 1.0,
    positive_offset: int = 0,
    reduction: str = "mean",
    impl: str = "auto",
) -> Tensor:
    """Compute InfoNCE with in-batch negatives: cross-entropy over ``scale * query @ code.T``.

    Arguments, result and errors as in `soft_info_nce`. Source: the paper's Eq. 1.
    """
    return soft_info_nce(
        query,
        code,
        alpha=0.0,
        beta=1.0,
        temperature=1.0,
        scale=scale,
        positive_offset=positive_offset,
        reduction=reduction,
        impl=impl,
    )


def soft_weights(
    similarity: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    min_weight: float = 0.1,
) -> Tensor:
    """Return the weight of each negative, [N, M], for plots and analysis; the diagonal is 1.

    Arguments as in `soft_info_nce`; `similarity` is a floating-point matrix [N, M] with M >= N.
    The loss itself never materialises these. Source: the paper's Eq. 4.

    Raises:
        ValueError, TypeError: an argument breaks a rule, or a negative's similarity is not finite.
    """
    if not isinstance(similarity, Tensor):
        raise TypeError(f"similarity must be a Tensor, got {type(similarity).__name__}")
    if similarity.dim() != 2 or similarity.shape[0] > similarity.shape[1]:
        raise ValueError(
            f"similarity must have shape [N, M] with M >= N, got {list(similarity.shape)}"
        )
    if not similarity.is_floating_point():
        raise TypeError(f"similarity must have a floating-point type, got {similarity.dtype}")
    checks.check_rule(alpha, beta, temperature, min_weight)
    negatives = similarity.shape[1] - 1
    if negatives > 0 and beta * negatives <= alpha:
        checks.warn_few_negatives(alpha, beta, negatives)
    weights = reference.soft_weights(
        similarity.detach(), alpha=alpha, beta=beta, temperature=temperature, min_weight=min_weight
    )
    if similarity.device.type == "cpu":
        checks.check_finite(weights, similarity, None, 0)
    return weights


def _native(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    groups: Groups,
    reduction: str,
    **rule: Any,
) -> Tensor:
    teacher_query, teacher_code = similarity if isinstance(similarity, tuple) else (None, None)
    matrix = similarity if isinstance(similarity, Tensor) else None
    query_groups, code_groups = groups if groups is not None else (None, None)
    factors: Any = (None,) * 7
    numbers = [float(rule[name]) for name in ("alpha", "beta", "temperature", "min_weight")]
    numbers += [0.0, float(rule["scale"]), float(rule["eps"])]
    shared: tuple[Any, ...] = (query, code, matrix, teacher_query, teacher_code, *factors)
    shared += (query_groups, code_groups, 0, *numbers, int(rule["positive_offset"]), 0)
    if reduction == "none":
        return ops.soft_info_nce_rows(*shared)
    grad = torch.is_grad_enabled()
    return ops.soft_info_nce(
        *shared,
        mean=reduction == "mean",
        need_grad_query=grad and query.requires_grad,
        need_grad_code=grad and code.requires_grad,
    )


def _use_native(impl: str, query: Tensor) -> bool:
    if impl == "torch":
        return False
    # Neither torch.func's transforms nor forward-mode AD go through a custom op's autograd.
    transformed = blocks.transformed()
    if impl == "auto":
        return not transformed and ops.ready(query.device.type)
    if transformed:
        raise RuntimeError(
            "impl='native' cannot run under torch.func or forward-mode AD: use impl='torch'"
        )
    reason = ops.unavailable(query.device.type)
    if reason is not None:
        raise RuntimeError(f"impl='native' cannot run: {reason}")
    return True


def _autocast(tensor: Tensor) -> Tensor:
    """Cast as autocast would cast a matrix product's operand."""
    device = tensor.device.type
    if tensor.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))
