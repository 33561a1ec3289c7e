"""Figures of the steps of a training, kept where they are until they are asked for."""

from __future__ import annotations

from torch import Tensor


class Statistics:
    """Means of what each step adds; on CUDA nothing waits for the device before `pop`.

    Attributes:
        is_read: Whether somebody has asked for the means.
        is_told: Whether it has been told how to ask for them.
    """

    def __init__(self) -> None:
        self.is_read = self.is_told = False
        self._sums: dict[str, tuple[Tensor | float, int]] = {}

    def add(self, name: str, value: Tensor | float) -> None:
        """Add a step's figure."""
        total, steps = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + value, steps + 1)

    def steps(self, name: str) -> int:
        """Return how many steps have added a figure since the last `pop`."""
        return self._sums.get(name, (0.0, 0))[1]

    def pop(self) -> dict[str, float]:
        """Return the means since the last call, and start anew."""
        self.is_read = True
        sums, self._sums = self._sums, {}
        return {name: float(total) / steps for name, (total, steps) in sums.items()}
