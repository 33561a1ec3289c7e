"""Shared inputs of the loss tests: every kind of similarity, masks, offsets, ragged shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RULE = {"alpha": 1.5, "beta": 0.5, "temperature": 0.7}
SIMILARITIES = ("none", "dense", "teacher")
# Shapes that miss every tile and block: rows, codes, dimension.
SHAPES = [(1, 1, 3), (2, 2, 1), (7, 9, 16), (33, 64, 17), (127, 127, 24), (257, 300, 33)]


def embeddings(n: int, m: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    query, code = torch.randn(n, d, dtype=torch.float64), torch.randn(m, d, dtype=torch.float64)
    return query.to(dtype).requires_grad_(), code.to(dtype).requires_grad_()


def similarity(kind: str, n: int, m: int, dtype: torch.dtype = torch.float64) -> Any:
    if kind == "none":
        return None
    if kind == "dense":
        return torch.randn(n, m, dtype=torch.float64).to(dtype)
    return (
        torch.randn(n, 5, dtype=torch.float64).to(dtype),
        torch.randn(m, 5, dtype=torch.float64).to(dtype),
    )


def duplicate_groups(n: int, m: int, positive_offset: int = 0) -> tuple[Tensor, Tensor]:
    """About every seventh code is a copy of another; a row's own code is of its own group."""
    code_groups = torch.arange(m) % max(1, m - m // 7)
    return code_groups[positive_offset : positive_offset + n].clone(), code_groups


def as_double(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(as_double(part) for part in value)
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().double().requires_grad_(value.requires_grad)
    return value


def loss_and_gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return the loss and its gradients; rows are weighted unevenly so that none can hide."""
    weights = torch.linspace(1, 2, loss.numel(), dtype=loss.dtype, device=loss.device)
    total = (loss.reshape(-1) * weights).sum()
    return [loss.detach(), *torch.autograd.grad(total, inputs)]


def error(got: Tensor, wanted: Tensor) -> float:
    """Return the largest difference, relative to the largest wanted value."""
    return float((got.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
