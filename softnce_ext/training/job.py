"""The main job: pairs, split, training, and the table that says what came of it.

What is chosen (epoch, weight of the hybrid) is chosen on validation data; the test data are ranked
once, at the end.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bm25 import BM25
from ..encoders.load import is_static
from ..estimators.cache import model_hash
from ..estimators.space import check_space
from ..evaluation.evaluate import result_row
from ..functional import info_nce
from . import ranks
from .batches import TrainingPairs
from .before import (
    check_folders,
    check_models,
    check_room,
    checkpoint_folder,
    checkpoint_need,
    model_need,
    needs_twin,
    teacher_folder,
)
from .checkpoint import Checkpoints, Stage
from .compare import Validation, add_seconds, differences, hybrid_weight_of, rank_all
from .corpus import Corpus, read_corpus, split_corpus
from .estimator import check_teacher, find_teacher, make_estimator, simcse_settings
from .lock import held
from .losses import make_loss
from .model import prepare_model, remember_codes, texts_of
from .output import save_model
from .record import data_hash, library_versions, run_identity, split_summary, trained_before
from .run import JobInterrupted, TrainingInterrupted, TrainingRun
from .settings import TrainSettings
from .trainer import train_encoder

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer


class TrainingJob:
    """Trains what the settings say and compares it.

    Ranks that torchrun or accelerate launch started share each batch; the first reads, validates,
    writes and compares.

    Args:
        settings: The settings; what they leave open is filled in by preset and kind of model.
        progress: Show progress on stderr.
    """

    def __init__(self, settings: TrainSettings, *, progress: bool = True) -> None:
        self.settings = settings
        self.progress = progress and ranks.is_first()
        self.ranks = 1
        self.seconds: dict[str, float] = {}
        self.saved = ""  # what the output folder holds now, in words; "" before it is written
        self.left = ""  # the same of the teacher's folder
        self.runs: dict[str, TrainingRun] = {}
        self.models: dict[str, SentenceTransformer] = {}
        self.validations: dict[str, Validation] = {}
        self.checkpoints: Checkpoints | None = None
        self.tables: dict[str, Any] = {}  # what the teacher's tables cost, by side
        self.recorded: dict[str, Any] = {}  # of data and teacher
        self.before: set[str] = set()  # what the model had been trained on, by hash

    def run(self) -> dict[str, Any]:
        """Do the job and return its report, ready for JSON; ranks but the first have an empty one.

        Raises:
            ValueError, TypeError, OSError: A setting or the data does not fit, or another run
                writes the output.
            TrainingDivergedError: The loss became NaN or infinite.
            JobInterrupted: Ctrl-C.
        """
        begin = time.perf_counter()
        try:
            with ranks.joined(), held(self.settings.output):
                self.ranks = ranks.count()
                report = self._run()
        except KeyboardInterrupt:
            left = self.left or "nothing was written"
            if self.saved:
                left = f"{self.settings.output} holds {self.saved}"
            cure = "" if self.checkpoints is None else self.checkpoints.cure()
            raise JobInterrupted(f"interrupted: {left}{cure}") from None
        self.seconds["total"] = time.perf_counter() - begin
        return report

    def _run(self) -> dict[str, Any]:
        ranks.from_first(lambda: check_models(self.settings))
        corpus = ranks.from_first(self._corpus)
        self.recorded["data_hash"] = data_hash(corpus.split)
        with self._phase("preparing"):
            held_out = [*corpus.split.valid, *corpus.split.test]
            model, texts = prepare_model(
                self.settings, corpus.split.train, held_out, progress=self.progress
            )
            self.settings = settings = as_read(self.settings, model, corpus.prepared).resolved(
                static=is_static(model), rows=len(corpus.split.train)
            )
            check_teacher(settings, model)
            identity = run_identity(
                self.recorded["data_hash"], settings.to_json(), library_versions(model), model
            )
            self.checkpoints = Checkpoints(checkpoint_folder(settings), settings, identity)
            self.checkpoints.check()
            ranks.from_first(lambda: check_room(settings, model, len(corpus.split.train)))
            self._remember(model, corpus)
            twin = copy.deepcopy(model) if settings.compare or needs_twin(settings) else None
            if settings.compare:
                self.models["untrained"] = copy.deepcopy(model)
            _warm_up(model.device)
        if needs_twin(settings):
            self._train_twin(twin, texts, corpus)
        weight = self._train_main(model, texts, corpus)
        if twin is not None and "infonce" not in self.runs:
            self._train_twin(twin, texts, corpus)
        if not ranks.part():
            return {}
        with self._phase("evaluating"):
            report = self._report(corpus, weight)
        self.checkpoints.end()
        return report

    def _corpus(self) -> Corpus:
        check_folders(self.settings)
        self.before = trained_before(self.settings)  # its folder may be the one to replace
        with self._phase("reading"):
            pairs, prepared = read_corpus(self.settings, progress=self.progress)
        with self._phase("splitting"):
            return split_corpus(pairs, prepared, self.settings)

    def _remember(self, model: Any, corpus: Corpus) -> None:
        if not hasattr(model[0], "remember"):
            return
        boost = self.settings.name_boost or 0
        _, codes = texts_of(corpus.split.train, boost)
        for base in {id(task.base): task.base for task in (corpus.valid, corpus.test)}.values():
            codes += base.texts(boost)
        ranks.after_first(lambda: remember_codes(model, codes, progress=self.progress))

    def _train_main(
        self, model: SentenceTransformer, texts: TrainingPairs, corpus: Corpus
    ) -> float:
        """Train and save the model; return the hybrid's weight."""
        settings = self.settings
        with self._phase("teacher"):
            twin = self.models.get("infonce") if needs_twin(settings) else None
            pairs = corpus.split.train
            room = [model_need(settings, model, len(pairs)), *checkpoint_need(settings, model)]
            stage = self._stage("simcse")
            teacher, run = find_teacher(settings, pairs, twin, self.progress, room, stage)
            if run is not None and teacher is not None:
                self.runs["simcse"] = made = run
                encoder, how = teacher.model, simcse_settings(settings)._asdict()
                told = {"name_boost": 0, "settings": {**settings.to_json(), "simcse": how}}
                ranks.from_first(lambda: self._save_teacher(encoder, made, corpus, told))
            if teacher is not None:
                self.recorded["teacher_hash"] = model_hash(teacher.model)
            estimator, self.tables = ranks.after_first(
                lambda: make_estimator(settings, model, pairs, teacher, progress=self.progress)
            )
            ranks.from_first(lambda: check_space(room))  # again: tables have taken theirs
        if not self.tables and teacher is None:
            del self.seconds["teacher"]
        with self._phase("training"):
            loss = make_loss(model, settings, settings.loss, estimator)
            try:
                run = self._train(model, loss, texts, corpus, settings.loss)
            except TrainingInterrupted as stop:
                if stop.run.epoch and ranks.is_first():
                    kept = f"the model after epoch {stop.run.epoch} of {settings.epochs}"
                    self._keep(model, loss, corpus, stop.run, kept)
                raise
            kept = "the trained model, not compared yet"
            weight = ranks.from_first(lambda: self._keep(model, loss, corpus, run, kept))
        self.runs[settings.loss], self.models[settings.loss] = run, model
        return weight

    def _keep(
        self, model: SentenceTransformer, loss: Any, corpus: Corpus, run: TrainingRun, kept: str
    ) -> float:
        """Write the model; return the hybrid's weight."""
        settings = self.settings
        systems = self.validations[settings.loss].systems(corpus.valid.base, run.figure)
        weight = hybrid_weight_of(systems, corpus.valid)
        content = {
            "name_boost": settings.name_boost,
            "hybrid_weight": weight,
            "form": settings.form,
            "code_length": settings.code_length,
            "loss": loss.get_config_dict(),
            "ranks": self.ranks,
            **self.recorded,
            "settings": settings.to_json(),
            "versions": library_versions(model),
        }
        save_model(Path(settings.output), model, content, corpus.split, run.steps)
        self.saved = kept
        return weight

    def _train_twin(
        self, twin: SentenceTransformer | None, texts: TrainingPairs, corpus: Corpus
    ) -> None:
        assert twin is not None
        with self._phase("training the twin"):
            loss = make_loss(twin, self.settings, "infonce")
            run = self.runs["infonce"] = self._train(twin, loss, texts, corpus, "infonce")
            self.models["infonce"] = twin
            if needs_twin(self.settings):
                told = {
                    "name_boost": self.settings.name_boost,
                    "form": self.settings.form,
                    "settings": self.settings.with_loss("infonce").to_json(),
                }
                ranks.from_first(lambda: self._save_teacher(twin, run, corpus, told))

    def _save_teacher(
        self, model: SentenceTransformer, run: TrainingRun, corpus: Corpus, told: dict[str, Any]
    ) -> None:
        """Keep what was trained first, so that another run need not do it again."""
        folder = teacher_folder(self.settings)
        content = {
            **told,
            "data_hash": self.recorded["data_hash"],
            "versions": library_versions(model),
        }
        save_model(folder, model, content, corpus.split, run.steps)
        self.left = f"{folder} holds the teacher, for --teacher"

    def _train(
        self,
        model: SentenceTransformer,
        loss: Any,
        texts: TrainingPairs,
        corpus: Corpus,
        name: str,
    ) -> TrainingRun:
        chosen_on = corpus.test if self.settings.select == "test" else corpus.valid
        validation = Validation(model, chosen_on, self.settings.name_boost or 0, corpus.cutoff)
        self.validations[name] = validation
        return train_encoder(
            model,
            loss,
            texts,
            self.settings,
            validate=validation.mrr,
            title=f"training {name}",
            progress=self.progress,
            stage=self._stage(name, self.recorded.get("teacher_hash")),
        )

    def _stage(self, name: str, teacher: str | None = None) -> Stage:
        assert self.checkpoints is not None
        return Stage(self.checkpoints, name, teacher)

    def _report(self, corpus: Corpus, weight: float) -> dict[str, Any]:
        settings, task = self.settings, corpus.test
        assert settings.name_boost is not None
        order = [name for name in ("untrained", "infonce", settings.loss) if name in self.models]
        if not settings.compare:
            order = [settings.loss]  # a twin was trained for its vectors alone
        encoded = {
            name: self.validations[name].systems(task.base, self.runs[name].figure)
            for name in order
            if name in self.validations
        }
        outcomes = rank_all(
            {name: self.models[name] for name in order},
            task,
            best=settings.loss,
            name_boost=settings.name_boost,
            hybrid_weight=weight,
            encoded=encoded,
            pretrained=bool(settings.compare),
            progress=self.progress,
        )
        rows = []
        for each in outcomes:
            spent = self.runs[each.name].seconds if each.name in self.runs else 0.0
            rows.append(result_row(add_seconds(each, spent), task.packages, cutoff=corpus.cutoff))
        return {
            "results": rows,
            "differences": differences(
                outcomes, task.packages, best=settings.loss, cutoff=corpus.cutoff
            ),
            "split": split_summary(corpus.split, self.before),
            "codebase": len(task.base),
            "cutoff": corpus.cutoff,
            "hybrid_weight": weight,
            "training": {name: run.summary() for name, run in self.runs.items()},
            "teacher": self.tables,
            "ranks": self.ranks,
            **self.recorded,
            "seconds": self.seconds,
            "settings": settings.to_json(),
            "versions": library_versions(self.models[settings.loss]),
        }

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin


def as_read(settings: TrainSettings, model: Any, prepared: bool) -> TrainSettings:
    """Return settings that say how texts are really read: by a saved model's own lengths."""
    told: dict[str, Any] = {} if prepared else {"form": "source"}
    if settings.preset is not None:
        told |= {name: getattr(model[0], name) for name in ("query_length", "code_length")}
    return replace(settings, **told)


def _warm_up(device: torch.device) -> None:
    """Build the native loss and compile BM25: what a first call costs is not training's."""
    import torch

    info_nce(torch.eye(2, device=device), torch.eye(2, device=device))
    BM25().scores([[0], [0]])
