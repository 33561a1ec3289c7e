"""What the public losses refuse: one sentence that names the argument, the rule and what came."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import torch
from torch import Tensor

from . import reference
from .factors import BM25Factors

Similarity = Tensor | tuple[Tensor, Tensor] | BM25Factors | None
Groups = tuple[Tensor, Tensor] | None

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_embeddings(query: Tensor, code: Tensor, positive_offset: int) -> None:
    """Hold query, code and positive_offset against their shapes, types and device."""
    for name, tensor in (("query", query), ("code", code)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a Tensor, got {type(tensor).__name__}")
        check_floating(name, tensor)
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
    if not _have_one_type(query, code):
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


def check_similarity(similarity: Similarity, query: Tensor, code: Tensor) -> None:
    """Hold the similarity against the embeddings' shapes and device."""
    if isinstance(similarity, BM25Factors):
        _check_factors(similarity, query, code)
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
        if not _have_one_type(*similarity):
            raise TypeError(
                "similarity's teacher vectors must have one type, got "
                f"{similarity[0].dtype} and {similarity[1].dtype}"
            )
    else:
        raise TypeError(
            "similarity must be a Tensor [N, M], a pair of Tensors or BM25Factors, got "
            f"{type(similarity).__name__}"
        )
    for name, tensor, shape in parts:
        check_floating(name, tensor)
        if list(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {list(tensor.shape)}")
        if tensor.device != query.device:
            raise ValueError(
                f"{name} must be on query's device {query.device}, got {tensor.device}"
            )


_FACTOR_TYPES = {  # of factors.BM25Factors, in its order
    "query_indptr": torch.int64,
    "query_term": torch.int32,
    "query_count": torch.float32,
    "indptr": torch.int64,
    "document": torch.int32,
    "weight": torch.float32,
    "document_length": torch.int64,
}


def _check_factors(factors: BM25Factors, query: Tensor, code: Tensor) -> None:
    for (name, dtype), part in zip(_FACTOR_TYPES.items(), factors, strict=True):
        if not isinstance(part, Tensor) or part.dtype != dtype:
            kind = part.dtype if isinstance(part, Tensor) else type(part).__name__
            raise TypeError(f"similarity.{name} must be a Tensor of {dtype}, got {kind}")
        _check_dense(f"similarity.{name}", part)
        if part.dim() != 1 or not part.is_contiguous():
            raise ValueError(
                f"similarity.{name} must be contiguous with one dimension, got shape "
                f"{list(part.shape)} and strides {list(part.stride())}"
            )
        if part.device != query.device:
            raise ValueError(
                f"similarity.{name} must be on query's device {query.device}, got {part.device}"
            )
    n, m = query.shape[0], code.shape[0]
    for name, got, wanted in (
        ("query_indptr", factors.query_indptr, n + 1),
        ("query_count", factors.query_count, factors.query_term.shape[0]),
        ("weight", factors.weight, factors.document.shape[0]),
    ):
        if got.shape[0] != wanted:
            raise ValueError(f"similarity.{name} must have length {wanted}, got {got.shape[0]}")
    if factors.indptr.shape[0] == 0:
        raise ValueError("similarity.indptr must have at least one element, got none")
    if factors.document_length.shape[0] > m:
        raise ValueError(
            f"similarity.document_length must have at most {m} elements, one per code, got "
            f"{factors.document_length.shape[0]}"
        )


def check_indices(factors: BM25Factors) -> None:
    """Hold every index of the factors against where it points; on CUDA that would synchronise."""
    for name, entries in (("query_indptr", factors.query_term), ("indptr", factors.document)):
        indptr, end = getattr(factors, name), entries.shape[0]
        if indptr[0] != 0 or indptr[-1] != end or (indptr.diff() < 0).any():
            raise ValueError(f"similarity.{name} must rise from 0 to {end}")
    terms, documents = factors.indptr.shape[0] - 1, factors.document_length.shape[0]
    for name, end in (("query_term", terms), ("document", documents)):
        index = getattr(factors, name)
        outside = ((index < 0) | (index >= end)).nonzero()
        if len(outside):
            at = int(outside[0])
            raise ValueError(
                f"similarity.{name} must lie in [0, {end}), got {int(index[at])} at [{at}]"
            )


def autocast_type(device: str) -> torch.dtype | None:
    """Return the type autocast gives a product's operands, None where it is not at work."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def _have_one_type(a: Tensor, b: Tensor) -> bool:
    if a.dtype == b.dtype:
        return True
    return torch.float64 not in (a.dtype, b.dtype) and autocast_type(a.device.type) is not None


def check_floating(name: str, tensor: Tensor) -> None:
    """Refuse what is no dense tensor of a type the losses take."""
    _check_dense(name, tensor)
    if tensor.dtype not in _FLOATS:
        raise TypeError(f"{name} must be fp32, fp64, bf16 or fp16, got {tensor.dtype}")


def _check_dense(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")


def check_groups(groups: Groups, query: Tensor, code: Tensor) -> None:
    """Hold the groups against the embeddings' shapes and device."""
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
        _check_dense(name, part)
        if list(part.shape) != [rows]:
            raise ValueError(f"{name} must have shape [{rows}], got {list(part.shape)}")
        if part.device != query.device:
            raise ValueError(f"{name} must be on query's device {query.device}, got {part.device}")


def check_number(name: str, value: Any) -> None:
    """Refuse what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, torch.SymFloat, torch.SymInt)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if torch.compiler.is_compiling():  # a float may be symbolic
        return
    if isinstance(value, (int, float)) and not -sys.float_info.max <= value <= sys.float_info.max:
        raise ValueError(f"{name} must be finite, got {value}")


def check_scale(scale: float, dtype: torch.dtype) -> None:
    """Refuse a scale that is no finite number in the type scores have."""
    check_number("scale", scale)
    largest = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).max
    if not torch.compiler.is_compiling() and abs(scale) > largest:
        raise ValueError(f"scale must be at most {largest} in size for {dtype}, got {scale}")


def check_eps(eps: float) -> None:
    """Refuse what is no part of a probability."""
    check_number("eps", eps)
    if not 0 <= eps <= 1:
        raise ValueError(f"eps must be in [0, 1], got {eps}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def warn_few_negatives(alpha: float, beta: float, negatives: int, stacklevel: int) -> None:
    """Warn, outside compiled code, that a batch is too small for Eq. 4's normaliser."""
    if not torch.compiler.is_compiling():
        warnings.warn(
            f"beta * negatives <= alpha ({beta} * {negatives} <= {alpha}): Eq. 4 has no positive "
            "normaliser, every weight is 1 for this batch",
            RuntimeWarning,
            stacklevel=stacklevel,
        )


def check_finite(
    result: Tensor,
    similarity: Tensor | tuple[Tensor, Tensor] | BM25Factors,
    groups: Groups,
    positive_offset: int,
    own: bool,
) -> None:
    """Raise if a NaN in `result` comes from the similarity; looks closer only if there is one.

    `own`: the positive's own similarity is used too.
    """
    if torch._C._are_functorch_transforms_active():
        return
    # A reduced loss needs no kernel to be looked at.
    if not (math.isnan(result.item()) if result.dim() == 0 else result.detach().isnan().any()):
        return
    known = None
    if isinstance(similarity, BM25Factors):
        for name in ("query_count", "weight"):
            broken = (~torch.isfinite(getattr(similarity, name))).nonzero()
            if len(broken):
                raise ValueError(
                    f"similarity.{name} must be finite, at [{int(broken[0])}] it is not"
                )
        documents = similarity.document_length.shape[0]
        known = similarity.known(documents)
        similarity = similarity.dense(result.dtype)
    elif isinstance(similarity, tuple):
        for side, vectors in zip(("query", "code"), similarity, strict=True):
            broken = (~torch.isfinite(vectors).all(dim=1)).nonzero()
            if len(broken):
                raise ValueError(
                    f"similarity's teacher {side} vectors must be finite, "
                    f"row {int(broken[0])} is not"
                )
        similarity = similarity[0].to(result.dtype) @ similarity[1].to(result.dtype).T
    n, m = similarity.shape
    judged = torch.ones(n, m, dtype=torch.bool, device=similarity.device)
    if groups is not None:
        judged = groups[0][:, None] != groups[1][None, :m]
    positive = reference.positives(n, m, positive_offset, similarity.device)
    judged = judged | positive if own else judged & ~positive
    if known is not None:
        judged &= known
    similarity = similarity.to(result.dtype)  # what is finite in fp64 may not be in fp32
    broken = (judged & ~torch.isfinite(similarity)).nonzero()
    if len(broken):
        row, column = broken[0].tolist()
        raise ValueError(
            f"similarity must be finite, got {float(similarity[row, column])} at [{row}, {column}]"
        )


def check_rule(alpha: float, beta: float, temperature: float, min_weight: float) -> None:
    """Hold Eq. 4's numbers against their ranges."""
    check_number("alpha", alpha)
    check_number("beta", beta)
    check_temperature(temperature)
    check_number("min_weight", min_weight)
    if not 0 <= min_weight <= 1:
        raise ValueError(f"min_weight must be in [0, 1], got {min_weight}")


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is no positive number."""
    check_number("temperature", temperature)
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")


def check_not_negative(name: str, value: float) -> None:
    """Refuse what is no number >= 0."""
    check_number(name, value)
    if value < 0:
        raise ValueError(f"{name} must be >= 0, got {value}")


def check_count(name: str, value: int) -> None:
    """Refuse what is no int >= 0."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name} must be >= 0, got {value}")
