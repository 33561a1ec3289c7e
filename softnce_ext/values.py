"""What the losses refuse by value: numbers out of range, indices astray, what is not finite.

Each refusal is one sentence that names the argument, the rule and what came.
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from . import reference
from .checks import Groups
from .factors import BM25Factors, ByDocument

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_BLOCK_ROWS = 64  # of similarities that are searched for what is not finite


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


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Refuse a word that is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def check_scale(scale: Any, dtype: torch.dtype = torch.float64) -> Any:
    """Refuse a scale that is neither a finite number in the type scores have nor a 0-d tensor."""
    if isinstance(scale, Tensor):
        is_number = scale.dtype.is_floating_point or scale.dtype in _INTEGERS
        if scale.dim() != 0 or not is_number or scale.layout != torch.strided:
            raise ValueError(
                "scale must be a number or a real 0-d tensor, got "
                f"{scale.dtype} of shape {list(scale.shape)} and layout {scale.layout}"
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
    "reduction": lambda name, value: _check_choice(name, value, ("mean", "sum", "none")),
    "impl": lambda name, value: _check_choice(name, value, ("auto", "native", "torch")),
}


def check_options(**options: Any) -> dict[str, Any]:
    """Refuse values that no batch could make right; return them, numbers as Python's own."""
    return {
        name: _OPTIONS[name](name, value) if name in _OPTIONS else value
        for name, value in options.items()
    }


def check_positive_offset(positive_offset: int, query: Tensor, code: Tensor) -> int:
    """Refuse an offset that some query's positive would lie beyond the codes with."""
    n, m = query.shape[0], code.shape[0]
    offset: int = _check_int("positive_offset", positive_offset)
    if not 0 <= offset <= m - n:
        raise ValueError(
            f"positive_offset must be in [0, {m - n}] for {n} queries and {m} codes, got {offset}"
        )
    return offset


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
