"""What a training did, and the ways in which it ends before its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class TrainingDivergedError(RuntimeError):
    """The loss became NaN or infinite."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during training.

    Attributes:
        run: What was done, and which epoch's weights are kept.
        model: Has these weights.
    """

    def __init__(self, run: TrainingRun, model: SentenceTransformer) -> None:
        super().__init__(f"training was interrupted, epoch kept: {run.epoch}")
        self.run = run
        self.model = model


class JobInterrupted(KeyboardInterrupt):
    """Ctrl-C; the message says what was left behind."""


@dataclass
class TrainingRun:
    """What a training run did.

    Attributes:
        seconds: Wall time, validation included.
        steps: Per step: loss, learning rate and what the loss counts.
        validation: The validation figure of each epoch.
        epoch: The epoch whose weights were kept; 0 for none.
    """

    seconds: float = 0.0
    steps: list[dict[str, float]] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    epoch: int = 0

    @property
    def figure(self) -> float | None:
        """The validation figure of the epoch that was kept; None where there is none."""
        return self.validation[self.epoch - 1] if self.epoch and self.validation else None

    def summary(self) -> dict[str, Any]:
        """Return means over the steps, and the epochs, ready for JSON."""
        names = sorted({name for step in self.steps for name in step} - {"step", "epoch"})
        means = {
            name: sum(step.get(name, 0.0) for step in self.steps) / len(self.steps)
            for name in names
        }
        return {
            "seconds": self.seconds,
            "steps": len(self.steps),
            "validation_mrr": self.validation,
            "kept_epoch": self.epoch,
            "mean": means,
        }
