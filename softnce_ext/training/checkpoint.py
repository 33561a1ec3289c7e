"""Checkpoints of a run, from which one that was killed goes on as if it had not been.

They lie in ``OUTPUT-checkpoint/STAGE/checkpoint-STEP``, a stage being one training of the run, and
are written after each epoch, the marker last: one that is not as its marker says is passed over,
and nothing of it is read. Of each stage the newest and the one before are kept.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer
from tqdm import tqdm

from ..data.atomic import write_lines
from ..data.marked import MARKER, mark, read_json, read_marked, sync
from ..estimators.cache import model_hash
from . import ranks
from .batches import pairs_hash
from .record import difference
from .settings import TrainSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

RUN_FILE = "run.json"  # makes the folder ours
WEIGHTS, BEST, PROGRESS = "model.safetensors", "best.safetensors", "progress.json"


class Found(NamedTuple):
    """A whole checkpoint."""

    folder: Path
    progress: dict[str, Any]
    finished: bool  # the training ended with it; it has the kept weights alone

    def kept(self) -> dict[str, Tensor]:
        """Return the weights of the best epoch."""
        best = self.folder / BEST
        return load_file(best if best.is_file() else self.folder / WEIGHTS)


class Checkpoints:
    """The checkpoints of a run, in a folder made with the first, which replaces another run's.

    Args:
        folder: The folder.
        settings: Resolved settings.
        identity: What decides the run's result, as JSON values.
    """

    def __init__(self, folder: Path, settings: TrainSettings, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, identity
        self.writes, self.resume = bool(settings.checkpoints), settings.resume
        self.is_open = False  # whether the folder is this run's

    def check(self) -> None:
        """Learn on all ranks whether there is something to go on from; refuse another run's."""

        def check() -> bool:
            there = any(self.markers())
            if there:
                self.refuse_others(read_json(self.folder / RUN_FILE), self.identity)
            else:
                _tell(f"there is no checkpoint in {self.folder}: the run starts from the beginning")
            return there

        if self.resume:
            self.is_open = ranks.from_first(check)

    def open(self) -> None:
        """Make the folder this run's."""
        if not self.is_open:
            self.remove()
            self.folder.mkdir(parents=True, exist_ok=True)
            write_lines(self.folder / RUN_FILE, [json.dumps(self.identity, indent=2)])
            sync(self.folder.parent)
            self.is_open = True

    def refuse_others(self, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        """Raise a ValueError where something else decides the result of a run."""
        differs = difference(theirs, ours) if theirs else f"has no {RUN_FILE} that can be read"
        if differs:
            raise ValueError(
                f"resume must go on with the run that wrote {self.folder}, which {differs}; "
                "without --resume the run starts anew and replaces it"
            )

    def cure(self) -> str:
        """Return how to go on after an interrupt, in words; "" where there is no checkpoint."""
        return "; --resume goes on with the run" if any(self.markers()) else ""

    def end(self) -> None:
        """Remove them: the run has ended well."""
        if self.writes or self.is_open:
            self.remove()

    def remove(self) -> None:
        """Remove the folder, if it is ours; what others have put into it stays."""
        self.is_open = False
        with suppress(OSError):
            if (self.folder / RUN_FILE).is_file():
                for path in list(self.folder.glob("*/checkpoint-*")):
                    shutil.rmtree(path)
                    with suppress(OSError):
                        path.parent.rmdir()
                (self.folder / RUN_FILE).unlink()
            self.folder.rmdir()

    def markers(self) -> Iterator[Path]:
        """Yield the markers of all trainings' checkpoints."""
        return self.folder.glob(f"*/checkpoint-*/{MARKER}")


class Stage:
    """The checkpoints of one training of a run, with a teacher of this hash."""

    def __init__(self, run: Checkpoints, name: str, teacher: str | None = None) -> None:
        self.run, self.folder = run, run.folder / name
        self.identity = {**run.identity, "stage": name, "teacher": teacher}
        self.last: Path | None = None  # the newest that is whole

    def find(self, model: SentenceTransformer, pairs: Any) -> Found | None:
        """Return the newest whole checkpoint to go on from, if any; refuse another run's."""
        return ranks.from_first(lambda: self._find(model, pairs))

    def _find(self, model: SentenceTransformer, pairs: Any) -> Found | None:
        if self.run.writes or self.run.is_open:
            self.identity |= {"start": model_hash(model), "pairs": pairs_hash(pairs)}
        for folder in self._all() if self.run.is_open else ():
            told, fault = read_marked(folder)
            if not fault:
                self.run.refuse_others(told["run"], self.identity)
                self.last = folder
                found = Found(folder, read_json(folder / PROGRESS), told["finished"])
                what = "was done" if found.finished else "goes on"
                _tell(f"training {self.folder.name} {what}, from {folder}")
                return found
            _tell(f"checkpoint {folder} is passed over: {fault}")
        return None

    def write(self, step: int, save: Callable[[Path], None], *, finished: bool) -> None:
        """Write a checkpoint; where that fails, warn, leave nothing of it and write no more.

        Args:
            step: Its number.
            save: Writes this rank's files into a folder.
            finished: Whether the stage ends with it.
        """
        if not self.run.writes:
            return
        folder = self.folder / f"checkpoint-{step}"
        fault = ranks.from_first(lambda: _fault_of(lambda: self._make_room(folder)))
        if not fault:
            fault = _fault_of(lambda: save(folder))
            if ranks.any_rank(bool(fault)):
                fault = fault or "another rank could not write"
            else:
                fault = ranks.from_first(lambda: _fault_of(lambda: self._mark(folder, finished)))
        self.run.writes = not fault
        if not fault:
            self.last = folder
            return
        shutil.rmtree(folder, ignore_errors=True)  # on every rank: they may share no disk
        if ranks.is_first():
            self._remove_empty()
            goes_on = f"from {self.last.name}" if self.last else "this training from its beginning"
            warnings.warn(
                f"{folder} cannot be written ({fault}): the run goes on without checkpoints; if it "
                f"is killed, --resume starts {goes_on}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _make_room(self, folder: Path) -> None:
        self.run.open()
        for old in self._all():
            if old != self.last:
                shutil.rmtree(old)
        folder.mkdir(parents=True)
        sync(self.run.folder)

    def _mark(self, folder: Path, finished: bool) -> None:
        states = len(list(folder.glob("rng_state*")))
        if states != ranks.count() and not finished:
            raise OSError(f"the ranks share no disk: {states} of {ranks.count()} wrote into it")
        mark(folder, {"run": self.identity, "finished": finished})

    def _remove_empty(self) -> None:
        with suppress(OSError):
            self.folder.rmdir()
        if not any(self.run.markers()):
            self.run.remove()

    def _all(self) -> list[Path]:
        """Return what checkpoints there are, whole or not, the newest first."""
        found = self.folder.glob("checkpoint-*[0-9]")
        return sorted(found, key=lambda path: int(path.name.split("-")[-1]), reverse=True)


class CheckpointTrainer(SentenceTransformerTrainer):
    """Writes checkpoints of its own kind: state dicts, and what a `keeper` holds."""

    stage: Stage | None = None
    keeper: Any = None

    def _save_checkpoint(self, *_: Any, **__: Any) -> None:
        assert self.stage is not None
        finished = self.state.global_step >= self.state.max_steps

        def save(folder: Path) -> None:
            if ranks.is_first():
                for name, weights in self.keeper.weights(finished=finished).items():
                    save_file(weights, folder / name)
                write_lines(folder / PROGRESS, [json.dumps(self.keeper.progress())])
                self.state.save_to_json(str(folder / "trainer_state.json"))
            if not finished:
                self._save_optimizer_and_scheduler(str(folder))
                self._save_scaler(str(folder))
                self._save_rng_state(str(folder))

        self.stage.write(self.state.global_step, save, finished=finished)

    def _load_from_checkpoint(self, folder: str, *_: Any) -> None:
        model: Any = self.model
        model.load_state_dict(load_file(Path(folder) / WEIGHTS))


def _fault_of(work: Callable[[], None]) -> str:
    try:
        work()
    except Exception as error:  # torch and safetensors have their own for a full disk
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _tell(sentence: str) -> None:
    tqdm.write(f"softnce: {sentence}", file=sys.stderr)
