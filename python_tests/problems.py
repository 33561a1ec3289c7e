"""Shared inputs of the loss tests: every kind of similarity, masks, offsets, ragged shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softnce_ext import BM25Factors

RULE = {"alpha": 1.5, "beta": 0.5, "temperature": 0.7}
SIMILARITIES = ("none", "dense", "teacher")
# The losses that need a similarity: a name, then the public function and its options.
FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "soft": ("soft_info_nce", RULE),
    "top_k": ("top_k_cancellation", {"k": 3}),
    "threshold": ("threshold_cancellation", {"ratio": 0.6}),
    "bce": ("bce", {"temperature": 0.7}),
    "weighted": ("weighted_info_nce", {"temperature": 0.7}),
    "weighted_eps": ("weighted_info_nce", {"temperature": 0.7, "eps": 1e-3}),
    "kl": ("kl_regularized_info_nce", {"temperature": 0.7}),
}
KINDS = ("dense", "teacher", "factors")
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
    if kind == "factors":
        return factors(n, m)
    return (
        torch.randn(n, 5, dtype=torch.float64).to(dtype),
        torch.randn(m, 5, dtype=torch.float64).to(dtype),
    )


def factors(n: int, m: int) -> BM25Factors:
    """About every eighth code has no document, about every ninth document no text."""
    documents, terms = m - m // 8, m // 3 + 2
    has_text = torch.rand(documents) > 0.1
    postings = (torch.rand(terms, documents) < 0.4) & has_text
    queries = torch.rand(n, terms) < 0.4
    return BM25Factors(
        torch.nn.functional.pad(queries.sum(1).cumsum(0), (1, 0)),
        queries.nonzero()[:, 1].int(),
        torch.randint(1, 4, (int(queries.sum()),)).float(),
        torch.nn.functional.pad(postings.sum(1).cumsum(0), (1, 0)),
        postings.nonzero()[:, 1].int(),
        torch.randn(int(postings.sum())),
        has_text * torch.randint(1, 30, (documents,)),
    )


def duplicate_groups(n: int, m: int, positive_offset: int = 0) -> tuple[Tensor, Tensor]:
    """About every seventh code is a copy of another; a row's own code is of its own group."""
    code_groups = torch.arange(m) % max(1, m - m // 7)
    return code_groups[positive_offset : positive_offset + n].clone(), code_groups


def as_double(value: Any) -> Any:
    if isinstance(value, BM25Factors):  # its types are given
        return value
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
