"""Mini-batches of a column, and the state in which the model is to see them a second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from .batch import row_count

Features = dict[str, Any]


def mini_batches(features: Mapping[str, Any], size: int) -> list[Features]:
    """Cut a column's features into pieces of `size` texts, the last one shorter."""
    rows = row_count(features)
    return [take(features, start, min(start + size, rows)) for start in range(0, rows, size)]


def take(features: Mapping[str, Any], begin: int, end: int, *, trim: bool = True) -> Features:
    """Return the features of some texts: padded ones, unpadded ones, or a static encoder's.

    `trim` cuts padding off that only longer texts need.
    """
    if "cu_seq_lens_q" in features:
        return _take_unpadded(features, begin, end)
    if "offsets" in features:
        ids, offsets = features["input_ids"], features["offsets"]
        start = int(offsets[begin])
        stop = int(offsets[end]) if end < len(offsets) else len(ids)
        flat = {"input_ids": ids[start:stop], "offsets": offsets[begin:end] - start}
        return {**features, **flat}
    rows, mask = row_count(features), features.get("attention_mask")
    width = used = -1
    if trim and isinstance(mask, Tensor) and mask.dim() == 2:
        width, used = mask.shape[1], _used(mask[begin:end])
    deeper = (value for value in features.values() if isinstance(value, Tensor) and value.dim() > 2)
    if any(value.shape[1] == width for value in deeper):  # tokens, or as many of something else
        width = -1
    found: Features = {}
    for name, value in features.items():
        if isinstance(value, Tensor) and value.shape[:1] == (rows,):
            value = value[begin:end]
            if value.dim() > 1 and value.shape[1] == width:
                value = value[:, :used]
        found[name] = value
    return found


def _used(mask: Tensor) -> int:
    """How wide rows must be for all their tokens; where they have none, as wide as they are."""
    tokens = mask.any(0).nonzero()
    return int(tokens.max()) + 1 if len(tokens) else mask.shape[1]


def _take_unpadded(features: Mapping[str, Any], begin: int, end: int) -> Features:
    """Texts in one row of tokens, one after the other, as transformers' flattening collator has."""
    ends = features["cu_seq_lens_q"]
    start, stop, total = int(ends[begin]), int(ends[end]), int(ends[-1])
    found: Features = {}
    for name, value in features.items():
        if name.startswith("cu_seq_lens"):
            value = value[begin : end + 1] - value[begin]
        elif name.startswith("max_length"):
            value = int(ends[begin : end + 1].diff().max())
        elif isinstance(value, Tensor) and value.shape[-1:] == (total,):
            value = value[..., start:stop] - (begin if name == "seq_idx" else 0)
        found[name] = value
    return found


def longest(features: Mapping[str, Any]) -> int:
    """Return the tokens of a column's longest text; of a static encoder's those of all."""
    if "cu_seq_lens_q" in features:
        return int(features["cu_seq_lens_q"].diff().max())
    ids = features.get("input_ids")
    return 1 if ids is None else int(ids.shape[-1])


class Scene:
    """Where a forward pass stands: its random numbers, and autocast, to be had a second time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._half = checks.autocast_type(device.type)
        self._state = torch.get_rng_state()
        self._device_state = None if self._module is None else self._module.get_rng_state(device)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same random numbers once more; later numbers stay as they are."""
        now = Scene(self._device)
        try:
            self._set()
            yield
        finally:
            now._set()

    def autocast(self) -> AbstractContextManager[Any]:
        """Cast as it was cast then, each weight anew.

        torch 2.10 keeps a weight that was cast without gradient, and hands it on to a pass with.
        """
        kind = self._device.type
        if not checks.has_autocast(kind):
            return nullcontext()
        half = self._half
        return torch.autocast(kind, half, enabled=half is not None, cache_enabled=False)

    @property
    def _module(self) -> Any:
        """torch.cuda or its like: each of its devices has random numbers of its own."""
        return None if self._device.type == "cpu" else torch.get_device_module(self._device)

    def _set(self) -> None:
        torch.set_rng_state(self._state)
        if self._module is not None:
            self._module.set_rng_state(self._device_state, self._device)


@contextmanager
def gradients_apart(model: nn.Module) -> Iterator[None]:
    """Drop the gradients found inside, and keep those there were.

    In place of `torch.autograd.grad`, which re-entrant checkpointing refuses.
    """
    kept = [(weight, weight.grad) for weight in model.parameters()]
    try:
        for weight, _ in kept:
            weight.grad = None
        yield
    finally:
        for weight, grad in kept:
            weight.grad = grad


class FittingSize:
    """How many texts fit on the device at once, found by trying."""

    def __init__(self) -> None:
        self.size = 0
        self._length = 0
        self._rows = 0
        self._is_limit = False  # of memory, and not only of the rows there were

    def find(self, rows: int, length: int, trial: Callable[[int], None]) -> int:
        """Return how many rows to take, a power of two.

        It is half of what was seen to fit: the optimizer's state is not there yet in the first
        step, and the loss needs some memory too. Tried again when texts get longer, and when there
        are more rows while all of them fitted.

        Args:
            rows: How many there are.
            length: Of the longest text, in tokens.
            trial: Runs the model on that many rows, with gradient.

        Raises:
            torch.OutOfMemoryError: Not even one row fits.
        """
        if length <= self._length and (self._is_limit or rows <= self._rows):
            return self.size
        begin = size = 2 * self.size if self._is_limit else 1 << (rows - 1).bit_length()
        while True:
            try:
                trial(min(size, rows))
                break
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                size //= 2
            torch.cuda.empty_cache()  # not in the handler: it holds what the trial had allocated
        self._is_limit = self._is_limit or size < begin
        self.size = max(size // 2, 1)
        if rows >= self.size:  # fewer tell nothing of mini-batches of so long texts
            self._length, self._rows = length, rows
        return self.size
