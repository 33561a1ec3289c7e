"""The inputs of a loss step, the same for every contender."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RULE = {"alpha": 1.3, "beta": 0.7, "temperature": 5.0}
MIN_WEIGHT = 0.1
SCALE = 20.0
NONE, DENSE, TEACHER = "none", "dense", "teacher"
KINDS = (NONE, DENSE, TEACHER)

Similarity = Tensor | tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Problem:
    """Unit vectors [N, D] that require gradients, and what tells similar pairs."""

    query: Tensor
    code: Tensor
    similarity: Similarity
    kind: str

    @property
    def device(self) -> torch.device:
        return self.query.device

    @property
    def half(self) -> bool:
        return self.query.dtype in (torch.bfloat16, torch.float16)

    def to(self, dtype: torch.dtype) -> Problem:
        """Return a copy in another type, with gradients of its own."""
        query, code = (x.detach().to(dtype).requires_grad_() for x in (self.query, self.code))
        pair = self.similarity
        if isinstance(pair, tuple):
            pair = (pair[0].to(dtype), pair[1].to(dtype))
        return Problem(query, code, pair.to(dtype) if isinstance(pair, Tensor) else pair, self.kind)


def make_problem(
    rows: int,
    dimension: int,
    kind: str = TEACHER,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Problem:
    """Draw N = M unit vectors and a teacher's vectors of length 8, whose products are `dense`."""
    generator = torch.Generator(device).manual_seed(0)

    def draw() -> Tensor:
        return F.normalize(torch.randn(rows, dimension, generator=generator, device=device))

    query, code = (draw().to(dtype).requires_grad_() for _ in range(2))
    if kind == NONE:
        return Problem(query, code, None, kind)
    teacher = (draw() * 8, draw() * 8)
    if kind == DENSE:  # fp32 for all, as BM25 gives them
        return Problem(query, code, teacher[0] @ teacher[1].T, kind)
    return Problem(query, code, (teacher[0].to(dtype), teacher[1].to(dtype)), kind)
