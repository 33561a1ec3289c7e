"""The public functions: check the arguments, choose the implementation, call it."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import ops, reference

Similarity = Tensor | tuple[Tensor, Tensor] | None
Groups = tuple[Tensor, Tensor] | None

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_TORCH_BLOCK_ROWS = 1024  # rows of a block of the torch path; memory is O(block rows x M)


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
    _check_embeddings(query, code, positive_offset)
    _check_similarity(similarity, query, code)
    _check_groups(groups, query, code)
    for name, value in (("alpha", alpha), ("beta", beta), ("temperature", temperature)):
        _check_number(name, value)
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    _check_number("min_weight", min_weight)
    if not 0 <= min_weight <= 1:
        raise ValueError(f"min_weight must be in [0, 1], got {min_weight}")
    _check_number("eps", eps)
    if eps < 0:
        raise ValueError(f"eps must be >= 0, got {eps}")
    _check_choice("reduction", reduction, ("mean", "sum", "none"))
    _check_choice("impl", impl, ("auto", "native", "torch"))

    negatives = code.shape[0] - 1
    if similarity is not None and 0 < negatives and beta * negatives <= alpha:
        _warn_few_negatives(alpha, beta, negatives)

    if isinstance(scale, Tensor):  # autograd gives its gradient through the product
        if scale.dim() != 0:
            raise ValueError(f"scale must be a number or a 0-d tensor, got shape {list(scale.shape)}")
        query, scale = query * scale.to(query.dtype), 1.0
    else:
        _check_number("scale", scale)

    query, code = _autocast(query), _autocast(code)
    if isinstance(similarity, tuple):
        similarity = (_autocast(similarity[0].detach()), _autocast(similarity[1].detach()))
    elif similarity is not None:
        similarity = similarity.detach()

    rule = {"alpha": alpha, "beta": beta, "temperature": temperature, "min_weight": min_weight}
    rule |= {"scale": scale, "eps": eps, "positive_offset": positive_offset}
    if _use_native(impl, query):
        loss = _native(query, code, similarity, groups, reduction, **rule)
    else:
        loss = _torch(query, code, similarity, groups, reduction, **rule)
    if similarity is not None and query.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_finite(loss, similarity, groups, positive_offset)
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
    for name, value in (("alpha", alpha), ("beta", beta), ("temperature", temperature)):
        _check_number(name, value)
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    _check_number("min_weight", min_weight)
    if not 0 <= min_weight <= 1:
        raise ValueError(f"min_weight must be in [0, 1], got {min_weight}")
    if 0 < similarity.shape[1] - 1 and beta * (similarity.shape[1] - 1) <= alpha:
        _warn_few_negatives(alpha, beta, similarity.shape[1] - 1)
    rule = {"alpha": alpha, "beta": beta, "temperature": temperature, "min_weight": min_weight}
    weights = reference.soft_weights(similarity.detach(), **rule)
    if similarity.device.type == "cpu":
        _check_finite(weights, similarity, None, 0)
    return weights


def _native(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    groups: Groups,
    reduction: str,
    **rule: float,
) -> Tensor:
    teacher_query, teacher_code = similarity if isinstance(similarity, tuple) else (None, None)
    matrix = similarity if isinstance(similarity, Tensor) else None
    query_groups, code_groups = groups if groups is not None else (None, None)
    numbers = [float(rule[name]) for name in ("alpha", "beta", "temperature", "min_weight")]
    numbers += [float(rule["scale"]), float(rule["eps"])]
    shared = (query, code, matrix, teacher_query, teacher_code, query_groups, code_groups)
    shared += (*numbers, int(rule["positive_offset"]), 0)  # type: ignore[assignment]
    if reduction == "none":
        return ops.soft_info_nce_rows(*shared)
    grad = torch.is_grad_enabled()
    return ops.soft_info_nce(
        *shared,
        row_weight=1 / query.shape[0] if reduction == "mean" else 1.0,
        need_grad_query=grad and query.requires_grad,
        need_grad_code=grad and code.requires_grad,
    )


def _torch(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    groups: Groups,
    reduction: str,
    *,
    positive_offset: float,
    **rule: float,
) -> Tensor:
    """Row blocks of the reference, in fp32 at least; a block is recomputed in the backward pass."""
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    n = query.shape[0]
    single = n <= _TORCH_BLOCK_ROWS

    def block(queries: Tensor, codes: Tensor, begin: int) -> Tensor:
        rows = slice(begin, begin + queries.shape[0])
        z: Any = similarity
        if isinstance(similarity, tuple):
            z = (similarity[0][rows].to(dtype), similarity[1].to(dtype))
        elif similarity is not None:
            z = similarity[rows].to(dtype)
        return reference.soft_info_nce(
            queries.to(dtype),
            codes.to(dtype),
            z,
            positive_offset=int(positive_offset) + begin,
            groups=None if groups is None else (groups[0][rows], groups[1]),
            reduction="none",
            **rule,
        )

    # Inside a block autocast would round the scores to its half type.
    with torch.autocast(query.device.type, enabled=False):
        if single:
            loss = block(query, code, 0)
        else:
            plain = torch._C._are_functorch_transforms_active() or not torch.is_grad_enabled()
            blocks = [
                block(query[begin : begin + _TORCH_BLOCK_ROWS], code, begin)
                if plain
                else checkpoint(
                    block, query[begin : begin + _TORCH_BLOCK_ROWS], code, begin, use_reentrant=False
                )
                for begin in range(0, n, _TORCH_BLOCK_ROWS)
            ]
            loss = torch.cat(blocks)
    return reference.reduce(loss, reduction)


def _use_native(impl: str, query: Tensor) -> bool:
    if impl == "torch":
        return False
    # torch.func's transforms cannot go through a custom op with registered autograd.
    transformed = torch._C._are_functorch_transforms_active()
    if impl == "auto":
        return not transformed and ops.ready(query.device.type)
    if transformed:
        raise RuntimeError("impl='native' cannot run under torch.func transforms: use impl='torch'")
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


def _check_embeddings(query: Tensor, code: Tensor, positive_offset: int) -> None:
    for name, tensor in (("query", query), ("code", code)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a Tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")
        if tensor.dtype not in _FLOATS:
            raise TypeError(f"{name} must be fp32, fp64, bf16 or fp16, got {tensor.dtype}")
        if tensor.dim() != 2:
            raise ValueError(f"{name} must have 2 dimensions, got shape {list(tensor.shape)}")
    n, m = query.shape[0], code.shape[0]
    if n == 0:
        raise ValueError(f"query must have at least one row, got shape {list(query.shape)}")
    if query.shape[1] == 0:
        raise ValueError(f"query must have at least one column, got shape {list(query.shape)}")
    if code.shape[1] != query.shape[1]:
        raise ValueError(f"code must have query's {query.shape[1]} columns, got {code.shape[1]}")
    if m < n:
        raise ValueError(f"code must have at least query's {n} rows, got {m}")
    if code.dtype != query.dtype:
        raise TypeError(f"code must have query's type {query.dtype}, got {code.dtype}")
    if code.device != query.device:
        raise ValueError(f"code must be on query's device {query.device}, got {code.device}")
    if isinstance(positive_offset, bool) or not isinstance(positive_offset, (int, torch.SymInt)):
        raise TypeError(f"positive_offset must be an int, got {type(positive_offset).__name__}")
    if not 0 <= positive_offset <= m - n:
        raise ValueError(
            f"positive_offset must be in [0, {m - n}] for {n} queries and {m} codes, "
            f"got {positive_offset}"
        )


def _check_similarity(similarity: Similarity, query: Tensor, code: Tensor) -> None:
    if similarity is None:
        return
    n, m = query.shape[0], code.shape[0]
    if isinstance(similarity, Tensor):
        parts = [("similarity", similarity, [n, m])]
    elif isinstance(similarity, tuple) and len(similarity) == 2:
        for part in similarity:
            if not isinstance(part, Tensor):
                raise TypeError(
                    f"similarity's teacher vectors must be Tensors, got {type(part).__name__}"
                )
        width = similarity[0].shape[-1] if similarity[0].dim() else 0
        parts = [
            ("similarity[0], the teacher's query vectors,", similarity[0], [n, width]),
            ("similarity[1], the teacher's code vectors,", similarity[1], [m, width]),
        ]
        if similarity[0].dtype != similarity[1].dtype:
            raise TypeError(
                "similarity's teacher vectors must have one type, got "
                f"{similarity[0].dtype} and {similarity[1].dtype}"
            )
    else:
        raise TypeError(
            "similarity must be None, a Tensor [N, M] or a pair of Tensors, got "
            f"{type(similarity).__name__}"
        )
    for name, tensor, shape in parts:
        if tensor.dtype not in _FLOATS:
            raise TypeError(f"{name} must be fp32, fp64, bf16 or fp16, got {tensor.dtype}")
        if list(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {list(tensor.shape)}")
        if tensor.device != query.device:
            raise ValueError(f"{name} must be on query's device {query.device}, got {tensor.device}")


def _check_groups(groups: Groups, query: Tensor, code: Tensor) -> None:
    if groups is None:
        return
    if not isinstance(groups, tuple) or len(groups) != 2:
        raise TypeError(
            f"groups must be None or (query_groups, code_groups), got {type(groups).__name__}"
        )
    for name, part, rows in (
        ("groups[0]", groups[0], query.shape[0]),
        ("groups[1]", groups[1], code.shape[0]),
    ):
        if not isinstance(part, Tensor) or part.dtype != torch.int64:
            kind = part.dtype if isinstance(part, Tensor) else type(part).__name__
            raise TypeError(f"{name} must be an int64 Tensor, got {kind}")
        if list(part.shape) != [rows]:
            raise ValueError(f"{name} must have shape [{rows}], got {list(part.shape)}")
        if part.device != query.device:
            raise ValueError(f"{name} must be on query's device {query.device}, got {part.device}")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, torch.SymFloat, torch.SymInt)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if isinstance(value, (int, float)) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _warn_few_negatives(alpha: float, beta: float, negatives: int) -> None:
    if not torch.compiler.is_compiling():
        warnings.warn(
            f"beta * negatives <= alpha ({beta} * {negatives} <= {alpha}): Eq. 4 has no positive "
            "normaliser, every weight is 1 for this batch",
            RuntimeWarning,
            stacklevel=3,
        )


def _check_finite(
    result: Tensor, similarity: Tensor | tuple[Tensor, Tensor], groups: Groups, positive_offset: int
) -> None:
    """Raise if NaN in `result` comes from the similarity. Looks closer only where there is a NaN."""
    if torch._C._are_functorch_transforms_active() or not bool(result.detach().isnan().any()):
        return
    if isinstance(similarity, tuple):
        for side, vectors in zip(("query", "code"), similarity, strict=True):
            broken = (~torch.isfinite(vectors).all(dim=1)).nonzero()
            if len(broken):
                raise ValueError(
                    f"similarity's teacher {side} vectors must be finite, row {int(broken[0])} is not"
                )
        return
    negative = ~reference.positives(*similarity.shape, positive_offset, similarity.device)
    if groups is not None:
        negative &= groups[0][:, None] != groups[1][None, :]
    broken = (negative & ~torch.isfinite(similarity)).nonzero()
    if len(broken):
        row, column = broken[0].tolist()
        raise ValueError(
            f"similarity must be finite, got {float(similarity[row, column])} at "
            f"[{row}, {column}]"
        )
