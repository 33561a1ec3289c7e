"""What the losses refuse of their tensors by kind: type, layout, shape, device.

Each refusal is one sentence that names the argument, the rule and what came.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .factors import BM25Factors

Similarity = Tensor | tuple[Tensor, Tensor] | BM25Factors | None
Groups = tuple[Tensor, Tensor] | None

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_embeddings(query: Tensor, code: Tensor) -> None:
    """Hold query and code against each other's shapes, types and device."""
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


def autocast_type(device: str) -> torch.dtype | None:
    """Return the type autocast gives a product's operands, None where it is not at work."""
    if not has_autocast(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def has_autocast(device: str) -> bool:
    """Tell whether a kind of device knows autocast; "meta" does not."""
    # torch 2.10 cannot compile the question; what it compiles for knows autocast.
    return torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)


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
        came = f"{len(groups)} values" if isinstance(groups, tuple) else type(groups).__name__
        raise TypeError(f"groups must be None or (query_groups, code_groups), got {came}")
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
