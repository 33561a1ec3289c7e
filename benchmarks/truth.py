"""What the contenders are held to."""

from __future__ import annotations

from typing import Any

import contenders
import torch
from problem import TEACHER, Problem, make_problem

# The largest error of who is timed: of the loss (relative), of a gradient (by its largest value).
TOLERANCE = {"float32": (2e-6, 1e-5), "tf32": (2e-3, 2e-2), "half": (1e-2, 5e-2)}
# Beyond, float64 takes minutes and fp32 in row blocks is the truth.
FLOAT64_ROWS = {"cpu": 16384, "cuda": 4096}


def bounds(problem: Problem) -> tuple[float, float]:
    """Return the errors allowed, by the precision of the products."""
    if problem.half:
        return TOLERANCE["half"]
    tf32 = problem.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return TOLERANCE["tf32" if tf32 else "float32"]


def within(problem: Problem, errors: list[float]) -> bool:
    loss, gradient = bounds(problem)
    return errors[0] < loss and max(errors[1:], default=0.0) < gradient


def truth(problem: Problem) -> list[torch.Tensor]:
    """Return the step of the inputs as rounded, in float64 (at large N in fp32, in row blocks)."""
    if len(problem.query) <= FLOAT64_ROWS[problem.device.type]:
        return contenders.eager(problem.to(torch.float64))()
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return contenders.torch_path(problem.to(torch.float32))()
    finally:
        torch.set_float32_matmul_precision(precision)


def errors_of(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> list[float]:
    return [
        float((a.to(b.dtype) - b).abs().max() / b.abs().max())
        for a, b in zip(got, wanted, strict=True)
    ]


def accuracy(rows: int, dimension: int, device: str) -> dict[str, Any]:
    """Return each path's error against float64, by type: loss, grad_query, grad_code.

    The loss's is relative, a gradient's in parts of its largest value. The truth is computed from
    the inputs as rounded to the type.
    """
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        problem = make_problem(rows, dimension, TEACHER, dtype, device)
        wanted = contenders.eager(problem.to(torch.float64))()
        for name in ("native", "torch path", "eager"):
            got = contenders.CONTENDERS[name].make(problem)()
            found[f"{name}, {str(dtype)[6:]}"] = errors_of(got, wanted)
    return found
