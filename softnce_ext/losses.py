"""The losses as modules over embeddings: each stores its arguments and calls its function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from . import functional, values
from .checks import Similarity


class _Loss(nn.Module):
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, *, scale: float | nn.Parameter = 1.0, **options: Any) -> None:
        super().__init__()
        # A missing, misspelt or impossible argument is an error here, not at the first batch.
        parameters = inspect.signature(self.function).parameters.values()
        batch = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]
        inspect.signature(self.function).bind(*batch, **options)
        values.check_options(scale=scale, **options)
        self.scale = scale  # a Parameter registers itself and is learned
        self.options = options

    def forward(
        self, query: Tensor, code: Tensor, *similarity: Similarity, **options: Any
    ) -> Tensor:
        """Return the loss; `options` (groups, positive_offset, ...) add to the stored ones."""
        options = {"scale": self.scale, **self.options, **options}
        return type(self).function(query, code, *similarity, **options)

    def extra_repr(self) -> str:
        """Show the stored arguments."""
        shown = {**self.options, "scale": self.scale}
        if isinstance(self.scale, Tensor):  # one on "meta" has no value
            shown["scale"] = "learned" if self.scale.is_meta else self.scale.item()
        return ", ".join(f"{name}={value}" for name, value in shown.items())


class SoftInfoNCE(_Loss):
    """`softnce_ext.soft_info_nce` as a module; the keyword arguments are the function's.

    Example:
        >>> loss = SoftInfoNCE(**softnce_ext.PRESETS["bm25"]._asdict(), scale=20.0)
        >>> loss(query, code, similarity)
    """

    function = staticmethod(functional.soft_info_nce)


class InfoNCE(_Loss):
    """`softnce_ext.info_nce` as a module; the keyword arguments are the function's."""

    function = staticmethod(functional.info_nce)


class BCE(_Loss):
    """`softnce_ext.bce` as a module; the keyword arguments are the function's."""

    function = staticmethod(functional.bce)


class WeightedInfoNCE(_Loss):
    """`softnce_ext.weighted_info_nce` as a module; the keyword arguments are the function's."""

    function = staticmethod(functional.weighted_info_nce)


class KLRegularizedInfoNCE(_Loss):
    """`softnce_ext.kl_regularized_info_nce` as a module; keyword arguments are the function's."""

    function = staticmethod(functional.kl_regularized_info_nce)


class TopKCancellation(_Loss):
    """`softnce_ext.top_k_cancellation` as a module; the keyword arguments are the function's."""

    function = staticmethod(functional.top_k_cancellation)


class ThresholdCancellation(_Loss):
    """`softnce_ext.threshold_cancellation` as a module; keyword arguments are the function's."""

    function = staticmethod(functional.threshold_cancellation)
