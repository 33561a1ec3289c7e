"""The losses as modules over embeddings: each stores its arguments and calls the function."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from . import functional
from .checks import Similarity


class SoftInfoNCE(nn.Module):
    """`softnce_ext.soft_info_nce` as a module; the keyword arguments are the function's.

    Example:
        >>> loss = SoftInfoNCE(**softnce_ext.PRESETS["bm25"]._asdict(), scale=20.0)
        >>> loss(query, code, similarity)
    """

    def __init__(
        self,
        *,
        alpha: float,
        beta: float,
        temperature: float,
        scale: float | nn.Parameter = 1.0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.scale = scale  # a Parameter registers itself and is learned
        self.options = {"alpha": alpha, "beta": beta, "temperature": temperature, **options}

    def forward(
        self, query: Tensor, code: Tensor, similarity: Similarity = None, **options: Any
    ) -> Tensor:
        """Return the loss; `options` (groups, positive_offset, ...) add to the stored ones."""
        options = {"scale": self.scale, **self.options, **options}
        return functional.soft_info_nce(query, code, similarity, **options)

    def extra_repr(self) -> str:
        """Show the stored arguments."""
        scale = self.scale.item() if isinstance(self.scale, Tensor) else self.scale
        shown = {**self.options, "scale": scale}
        return ", ".join(f"{name}={value}" for name, value in shown.items())
