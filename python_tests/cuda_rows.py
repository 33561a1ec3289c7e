"""Rows for the CUDA row kernel on the host: how it is called, and what the oracle says."""

from __future__ import annotations

from typing import Any

import numpy as np
import problems
import torch
from bridge import ORDERS, run_kernel

from softnce_ext import reference

OBJECTIVES = [
    "soft_info_nce",
    "top_k_cancellation",
    "threshold_cancellation",
    "bce",
    "weighted_info_nce",
    "kl_regularized_info_nce",
]
RULE_OF = {"k": "cutoff", "ratio": "cutoff", "info_nce_weight": "beta", "kl_weight": "alpha"}
STORAGE = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
# Who owns a row: a warp, a block, a cluster of blocks; and where its values lie. The kernels of the
# common losses, then those of every case. A cluster's last blocks own nothing of a short row.
WARP, BLOCK, GLOBAL = range(3)
FAST = {
    "warp": {"place": WARP},
    "block": {"place": BLOCK, "fast": True, "threads": 32, "blocks": 1},
    "large_block": {"place": BLOCK, "fast": True, "threads": 256, "blocks": 1},
    "pair": {"place": BLOCK, "fast": True, "threads": 64, "blocks": 2},
    "cluster": {"place": BLOCK, "fast": True, "threads": 64, "blocks": 8},
}
ANY = {
    "any_block": {"place": BLOCK, "threads": 64, "blocks": 1},
    "any_cluster": {"place": BLOCK, "threads": 64, "blocks": 4},
    "any_global": {"place": GLOBAL, "threads": 128},
    "any_global_in_place": {"place": GLOBAL, "threads": 64, "in_place": True},
}
PLACES = FAST | ANY
# What those that do not say otherwise are given.
COMMON = {"fast": 0, "threads": 0, "blocks": 1, "gpu_shared_bytes": 0, "clusters": 0, "in_place": 0}
# As plan_rows chooses on an H100, on a GPU without clusters, and where no row fits on chip.
PLANNED = {
    "h100": {"place": -1, "gpu_shared_bytes": 227 * 1024, "clusters": True},
    "geforce": {"place": -1, "gpu_shared_bytes": 99 * 1024},
    "tiny": {"place": -1, "gpu_shared_bytes": 6 * 1024},
}


def words(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's memory as numpy has types for it: bfloat16 as 16-bit words."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.view(torch.int16)
    return tensor.numpy()


class Problem:
    """Rows of scores, and what the kernel is told of them."""

    def __init__(
        self,
        rows: int,
        columns: int,
        kind: str = "dense",
        *,
        masked: bool = False,
        dtype: torch.dtype = torch.float32,
        storage: torch.dtype | None = None,
        spread: float = 4.0,
    ) -> None:
        self.rows, self.columns, self.dtype = rows, columns, dtype
        self.scores = (torch.randn(rows, columns, dtype=torch.float64) * spread).to(dtype)
        self.offset = (columns - rows) // 2
        self.similarity: Any = None
        if kind == "dense":
            self.similarity = torch.randn(rows, columns, dtype=torch.float64).to(storage or dtype)
        elif kind == "factors":
            self.similarity = problems.factors(rows, columns)
        self.groups = problems.duplicate_groups(rows, columns, self.offset) if masked else None
        self.row_weights: torch.Tensor | None = None

    def wanted(self, function: str, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return losses and gradients in float64: the scores are the product of 1 and them."""
        code = self.scores.double().T.contiguous().requires_grad_()
        query = torch.eye(self.rows, dtype=torch.float64)
        similarity = problems.as_double(self.similarity)
        loss = getattr(reference, function)(
            query,
            code,
            *([] if function == "soft_info_nce" and similarity is None else [similarity]),
            **options,
            positive_offset=self.offset,
            groups=self.groups,
            reduction="none",
        )
        weights = 1 if self.row_weights is None else self.row_weights.double()
        gradient = torch.autograd.grad((loss * weights).sum(), code)[0].T
        return loss.detach(), gradient

    def run(
        self,
        function: str,
        place: str,
        *,
        gradient: torch.dtype | None = None,
        order: tuple[str, int] = ORDERS[0],
        stride: int = 0,
        eps: float = 0.0,
        gain: float = 1.0,
        need_gradient: bool = True,
        tf32: bool = False,
        **options: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the kernel and return the rows' losses and gradients, in the gradient's type.

        gain: What the gradients come out times; 0: what fp16 operands' are kept times.
        """
        rows, columns, gradient = self.rows, self.columns, gradient or self.dtype
        padded = (columns + 7) // 8 * 8
        scores = torch.full((rows, padded), float("nan"), dtype=self.dtype)
        scores[:, :columns] = self.scores
        loss = torch.full((rows,), float("nan"), dtype=self.dtype)
        arrays = {"scores": scores, "loss": loss}
        where = COMMON | (PLACES | PLANNED)[place]
        is_dense = isinstance(self.similarity, torch.Tensor)
        where["in_place"] &= is_dense and self.similarity.dtype == self.dtype
        if where["in_place"]:  # over the similarities, as over a teacher's products
            stride = padded
        elif where["place"] in (GLOBAL, -1) and (self.similarity is not None or self.groups):
            arrays["scratch"] = torch.full((rows, padded), float("nan"), dtype=self.dtype)
        stored, stride = self.dtype, max(stride, columns)
        if is_dense:
            stored = self.similarity.dtype
            similarity = torch.full((rows, stride), float("nan"), dtype=stored)
            similarity[:, :columns] = self.similarity
            arrays["similarity"] = similarity
        elif self.similarity is not None:
            arrays |= self.similarity._asdict()
        if self.groups is not None:
            arrays["query_groups"], arrays["code_groups"] = self.groups
        if self.row_weights is not None:
            arrays["row_weights"] = self.row_weights.to(self.dtype)
        numbers = {"alpha": 0.0, "beta": 1.0, "temperature": 1.0, "min_weight": 0.1, "cutoff": 0.0}
        if function == "kl_regularized_info_nce":
            numbers |= {"alpha": 0.7, "beta": 1.3}
        numbers |= {RULE_OF.get(name, name): value for name, value in options.items()}
        run_kernel(
            "rows_f64" if self.dtype == torch.float64 else "rows_f32",
            {name: words(array) for name, array in arrays.items()},
            order=order,
            **where,
            **numbers,
            columns=columns,
            gradient=STORAGE[str(gradient).removeprefix("torch.")],
            similarity_type=STORAGE[str(stored).removeprefix("torch.")],
            similarity_stride=stride,
            first_positive=self.offset,
            objective=OBJECTIVES.index(function),
            eps=eps,
            gain=gain,
            need_gradient=need_gradient,
            round_to_tf32=tf32,
        )
        if not need_gradient:
            return loss, scores[:, :columns]
        return loss, scores.view(gradient).reshape(rows, -1)[:, :columns]


def check(problem: Problem, got: Any, wanted: Any, tolerance: float) -> None:
    """Hold losses and gradients to the oracle's, each row to its own size."""
    (loss, gradient), (wanted_loss, wanted_gradient) = got, wanted
    assert torch.equal(loss.isnan(), wanted_loss.isnan())
    assert torch.allclose(loss.double(), wanted_loss, rtol=tolerance, atol=tolerance)
    size = wanted_gradient.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    error = ((gradient.double() - wanted_gradient) / size).abs().max()
    assert error <= 5 * tolerance, f"gradient off by {error:.2e} of its row's largest"


TOLERANCE = {torch.float32: 4e-6, torch.float64: 1e-12}


def rule_of(kind: str) -> dict[str, float]:
    return problems.RULE if kind != "none" else {"alpha": 0.0, "beta": 1.0, "temperature": 1.0}
