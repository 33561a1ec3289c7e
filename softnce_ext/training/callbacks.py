"""What happens between the steps and epochs of a training, beside the training."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback

from . import ranks
from .checkpoint import BEST, WEIGHTS, Found
from .run import TrainingRun

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class StopAfterStep(TrainerCallback):
    """Lets Ctrl-C end the training at the end of a step; a second one ends it at once.

    An exception raised wherever the program happens to be is lost if that is a destructor.
    """

    def __init__(self) -> None:
        self.asked = False
        self.before: Any = None

    def __enter__(self) -> None:
        # A handler of somebody else's stays; only the main thread may set one.
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self.before = signal.signal(signal.SIGINT, self._ask)

    def __exit__(self, *error: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
        if self.asked and error[0] is None:
            raise KeyboardInterrupt

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the training, on all ranks, if one was asked to."""
        if ranks.any_rank(self.asked):
            raise KeyboardInterrupt


class ProgressBar(TrainerCallback):
    """Shows a progress bar on stderr and keeps the log of every step."""

    def __init__(self, title: str, run: TrainingRun, *, hidden: bool) -> None:
        self.title, self.run, self.hidden = title, run, hidden
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the bar."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.title,
            unit="step",
            disable=self.hidden,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar on."""
        self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep what is logged of a step, and show some of it."""
        if not logs or "loss" not in logs:
            return
        self.run.steps.append({"step": state.global_step, **logs})
        shown = {name: logs[name] for name in ("loss", "low_weights", "duplicates") if name in logs}
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()})

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()


class KeepBest(TrainerCallback):
    """Keeps the weights of the epoch with the highest validation figure, and says how far it is."""

    def __init__(
        self,
        model: SentenceTransformer,
        run: TrainingRun,
        validate: Callable[[], float] | None,
    ) -> None:
        self.model, self.run, self.validate = model, run, validate
        self.best: dict[str, torch.Tensor] | None = None
        self.current = 0
        self.begin = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Validate the model and keep its weights if they are the best."""
        self.current += 1
        if self.validate is not None:
            self.run.validation.append(ranks.from_first(self.validate))
        if self.validate is None or self.run.validation[-1] == max(self.run.validation):
            self.best = self._weights()
            self.run.epoch = self.current

    def _weights(self) -> dict[str, torch.Tensor]:
        return {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in self.model.state_dict().items()
        }

    def restore(self) -> None:
        """Put the kept weights back."""
        if self.best is not None:
            self.model.load_state_dict(self.best)

    def seconds(self) -> float:
        """Return how long the training has taken, before it was killed too."""
        return time.perf_counter() - self.begin

    def weights(self, *, finished: bool) -> dict[str, dict[str, torch.Tensor]]:
        """Return what a checkpoint holds, by file; that of a finished training the kept weights."""
        if self.best is not None and (finished or self.run.epoch == self.current):
            return {WEIGHTS: self.best}
        best = {} if self.best is None else {BEST: self.best}
        return {WEIGHTS: self._weights(), **best}

    def progress(self) -> dict[str, Any]:
        """Return what else a checkpoint holds, as JSON values."""
        return {"epochs": self.current, "run": {**asdict(self.run), "seconds": self.seconds()}}

    def go_on_from(self, found: Found) -> None:
        """Take up what a checkpoint holds."""
        self.current = found.progress["epochs"]
        for name, value in found.progress["run"].items():
            setattr(self.run, name, value)
        self.begin -= self.run.seconds
        if self.run.epoch or found.finished:
            self.best = found.kept()
