"""What the public losses refuse: one sentence that names the argument, the rule and what came."""

from __future__ import annotations

import math
import numbers
import sys
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from . import reference
from .factors import BM25Factors, ByDocument

Similarity = Tensor | tuple[Tensor, Tensor] | BM25Factors | None
Groups = tuple[Tensor, Tensor] | None

_BLOCK_ROWS = 64  # of similarities that are searched for what is not finite
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


def check_positive_offset(positive_offset: int, query: Tensor, code: Tensor) -> int:
    """Refuse an offset that some query's positive would lie beyond the codes with."""
    n, m = query.shape[0], code.shape[0]
    offset: int = _check_int("positive_offset", positive_offset)
    if not 0 <= offset <= m - n:
        raise ValueError(
            f"positive_offset must be in [0, {m - n}] for {n} queries and {m} codes, got {offset}"
        )
    return offset


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


def check_number(name: str, value: Any) -> Any:
    """Refuse what is no finite number; return it as one of Python's own."""
    if type(value) is float and -sys.float_info.max <= value <= sys.float_info.max:
        return value  # at once: small batches are soon done
    number = _plain(value)
    if isinstance(number, bool) or not isinstance(
        number, (int, float, torch.SymFloat, torch.SymInt)
    ):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if torch.compiler.is_compiling():  # a float may be symbolic
        return number
    if isinstance(number, (int, float)) and not abs(number) <= sys.float_info.max:
        raise ValueError(f"{name} must be finite, got {number}")
    return number


def _plain(value: Any) -> Any:
    """Turn another library's real number, such as a numpy scalar, into an int or a float."""
    if isinstance(value, (int, float)) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _check_int(name: str, value: Any) -> Any:
    number = _plain(value)
    if isinstance(number, bool) or not isinstance(number, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    return number


def _check_count(name: str, value: Any) -> Any:
    number = _check_int(name, value)
    if number < 0:
        raise ValueError(f"{name} must be >= 0, got {number}")
    return number


def _check_not_negative(name: str, value: Any) -> Any:
    number = check_number(name, value)
    if number < 0:
        raise ValueError(f"{name} must be >= 0, got {number}")
    return number


def _check_positive(name: str, value: Any) -> Any:
    number = check_number(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be > 0, got {number}")
    return number


def _check_part(name: str, value: Any) -> Any:
    number = check_number(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {number}")
    return number


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Refuse a word that is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def check_scale(scale: Any, dtype: torch.dtype = torch.float64) -> Any:
    """Refuse a scale that is neither a finite number in the type scores have nor a 0-d tensor."""
    if isinstance(scale, Tensor):
        if scale.dim() != 0 or scale.is_complex():
            raise ValueError(
                "scale must be a number or a real 0-d tensor, got "
                f"{scale.dtype} of shape {list(scale.shape)}"
            )
        return scale
    scale = check_number("scale", scale)
    largest = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).max
    if not torch.compiler.is_compiling() and abs(scale) > largest:
        raise ValueError(f"scale must be at most {largest} in size for {dtype}, got {scale}")
    return scale


# What the losses' arguments of these names must be, whatever the batch.
_OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "alpha": check_number,
    "beta": check_number,
    "temperature": _check_positive,
    "min_weight": _check_part,
    "eps": _check_part,
    "k": _check_count,
    "ratio": check_number,
    "info_nce_weight": _check_not_negative,
    "kl_weight": _check_not_negative,
    "scale": lambda _, value: check_scale(value),
    "positive_offset": _check_count,
    "reduction": lambda name, value: check_choice(name, value, ("mean", "sum", "none")),
    "impl": lambda name, value: check_choice(name, value, ("auto", "native", "torch")),
}


def check_options(**options: Any) -> dict[str, Any]:
    """Refuse values that no batch could make right; return them, numbers as Python's own."""
    return {
        name: _OPTIONS[name](name, value) if name in _OPTIONS else value
        for name, value in options.items()
    }


def check_rule(alpha: float, beta: float, temperature: float, min_weight: float) -> None:
    """Hold Eq. 4's numbers against their ranges."""
    check_options(alpha=alpha, beta=beta, temperature=temperature, min_weight=min_weight)


def warn(message: str) -> None:
    """Warn where this package was called from, whichever module or compiler lies between."""
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and _package(frame) in (__package__, "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


_told: set[str] = set()


def warn_torch_path(reason: str) -> None:
    """Warn once of each reason why the native ops do not run; it names the cure."""
    if reason not in _told:
        _told.add(reason)
        warn(f"softnce_ext runs its plain torch path: {reason}")


# Never traced: what torch.compiler.assume_constant_result sets, without importing torch._dynamo.
warn_torch_path._dynamo_marked_constant = True  # type: ignore[attr-defined]


def warn_few_negatives(alpha: float, beta: float, negatives: int) -> None:
    """Warn, outside compiled code, that a batch is too small for Eq. 4's normaliser."""
    if not torch.compiler.is_compiling():
        warn(
            f"beta * negatives <= alpha ({beta} * {negatives} <= {alpha}): Eq. 4 has no positive "
            "normaliser, every weight is 1 for this batch"
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
    known: Tensor | None = None
    if isinstance(similarity, BM25Factors):
        for name in ("query_count", "weight"):
            broken = (~torch.isfinite(getattr(similarity, name))).nonzero()
            if len(broken):
                raise ValueError(
                    f"similarity.{name} must be finite, at [{int(broken[0])}] it is not"
                )
        known = similarity.document_length > 0
    elif isinstance(similarity, tuple):
        for side, vectors in zip(("query", "code"), similarity, strict=True):
            broken = (~torch.isfinite(vectors).all(dim=1)).nonzero()
            if len(broken):
                raise ValueError(
                    f"similarity's teacher {side} vectors must be finite, "
                    f"row {int(broken[0])} is not"
                )
    for part, z in _blocks(similarity, result.dtype):
        n, m = z.shape
        judged = torch.ones_like(z, dtype=torch.bool)
        if groups is not None:
            judged = groups[0][part, None] != groups[1][None, :m]
        positive = reference.positives(n, m, positive_offset + part.start, z.device)
        judged = judged | positive if own else judged & ~positive
        if known is not None:
            judged &= known
        broken = (judged & ~torch.isfinite(z)).nonzero()
        if len(broken):
            row, column = broken[0].tolist()
            raise ValueError(
                f"similarity must be finite, got {float(z[row, column])} at "
                f"[{part.start + row}, {column}]"
            )


def _blocks(
    similarity: Tensor | tuple[Tensor, Tensor] | BM25Factors, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Give the similarities by blocks of rows, [R, M]; what is finite may not be so in `dtype`."""
    if isinstance(similarity, BM25Factors):
        n, columns = len(similarity.query_indptr) - 1, len(similarity.document_length)
        factors = ByDocument.of(similarity, dtype)
    elif isinstance(similarity, tuple):
        n, code = len(similarity[0]), similarity[1].to(dtype)
    else:
        n = len(similarity)
    for begin in range(0, n, _BLOCK_ROWS):
        part = slice(begin, min(begin + _BLOCK_ROWS, n))
        if isinstance(similarity, BM25Factors):
            yield part, factors.rows(part, columns)
        elif isinstance(similarity, tuple):
            yield part, similarity[0][part].to(dtype) @ code.T
        else:
            yield part, similarity[part].to(dtype)
