"""What the losses count, in the log of the trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from .soft_info_nce import SoftInfoNCELoss


class LogStatistics(TrainerCallback):
    """Adds `duplicates` and `low_weights` of `SoftInfoNCELoss.pop_statistics` to what is logged.

    They stand beside the loss in what the trainer prints and in its `state.log_history`.

    Example:
        >>> SentenceTransformerTrainer(model=model, loss=loss, callbacks=[LogStatistics(loss)], ...)

    Args:
        loss: The trainer's loss.
    """

    def __init__(self, loss: SoftInfoNCELoss) -> None:
        self.loss = loss
        loss.pop_statistics()  # whoever reads them need not be told that they are there

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the means of the steps since the last log."""
        if logs and "loss" in logs:
            logs.update(self.loss.pop_statistics())
            state.log_history[-1].update(logs)
