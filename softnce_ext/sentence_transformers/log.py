"""What the losses count, in the log of the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import TrainerCallback

from .soft_info_nce import SoftInfoNCELoss


class LogStatistics(TrainerCallback):
    """Adds `duplicates` and `low_weights` of `SoftInfoNCELoss.pop_statistics` to what is logged.

    They stand beside the loss in what the trainer prints and in its `state.log_history`, of a dict
    of losses as `<name>_duplicates` and `<name>_low_weights`.

    Example:
        >>> SentenceTransformerTrainer(model=model, loss=loss, callbacks=[LogStatistics(loss)], ...)

    Args:
        loss: What the trainer is given: a loss, or a dict of one per data set. Losses of ours are
            found inside others, as MatryoshkaLoss; of a dict, others may be none of ours.

    Raises:
        TypeError: None of them is ours.
    """

    def __init__(self, loss: nn.Module | Mapping[str, nn.Module]) -> None:
        losses = loss if isinstance(loss, Mapping) else {"": loss}
        self.losses = {
            f"{name}_" if name else "": own
            for name, each in losses.items()
            for own in each.modules()
            if isinstance(own, SoftInfoNCELoss)
        }
        if not self.losses:
            raise TypeError(
                "loss must be or hold a SoftInfoNCELoss, or be a dict of losses that do, got "
                f"{type(loss).__name__}"
            )
        for own in self.losses.values():
            own.pop_statistics()  # from now on all are counted

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a second one, whose figures would overwrite the first one's.

        Raises:
            ValueError: There is another one.
        """
        if getattr(state, "statistics_by", self) is not self:
            raise ValueError(
                "the trainer must have one LogStatistics, which takes several losses as a dict, "
                "got two"
            )
        state.statistics_by = self  # a training has a state of its own

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the means of the steps since the last log."""
        if logs and "loss" in logs:
            for prefix, own in self.losses.items():
                found = own.pop_statistics()
                logs.update({f"{prefix}{name}": value for name, value in found.items()})
            state.log_history[-1].update(logs)
