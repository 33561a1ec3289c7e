"""The main job: pairs, split, training, and the table that says what came of it.

What is chosen (epoch, weight of the hybrid) is chosen on validation packages; the test packages
are ranked once, at the end.
"""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..bm25 import BM25
from ..data.formats import read_pairs
from ..data.manifest import apply_manifest, read_manifest
from ..data.mining import mine_interpreter
from ..data.split import Split, split_by_package
from ..encoders.load import is_static, set_max_length
from ..encoders.saved import load_encoder
from ..encoders.static import (
    build_static_encoder,
    build_tokenizer,
    init_from,
    inverse_document_frequency,
    tokenize,
)
from ..encoders.text import code_text
from ..evaluation.evaluate import result_row
from ..functional import info_nce
from .batches import TextPairs, TokenizedPairs, TrainingPairs
from .compare import add_seconds, differences, hybrid_weight_of, rank_all, validation_mrr
from .output import check_output, save_model
from .settings import STATIC, TrainSettings
from .trainer import TrainingInterrupted, TrainingRun, make_loss, train_encoder

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ..data.pairs import Pair

LIBRARIES = ("torch", "sentence-transformers", "transformers", "tokenizers", "numpy")


class JobInterrupted(KeyboardInterrupt):
    """Ctrl-C; the message says what was left behind."""


class TrainingJob:
    """Trains what the settings say and compares it.

    Args:
        settings: The settings; what they leave open is filled in by the kind of model.
        progress: Show progress on stderr.
    """

    def __init__(self, settings: TrainSettings, *, progress: bool = True) -> None:
        self.settings = settings
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.saved = ""  # what the output folder holds now, in words; "" before it is written

    def run(self) -> dict[str, Any]:
        """Do the job and return its report, ready for JSON.

        Raises:
            ValueError, TypeError, OSError: A setting or the data does not fit.
            TrainingDivergedError: The loss became NaN or infinite.
            JobInterrupted: Ctrl-C.
        """
        begin = time.perf_counter()
        try:
            report = self._run()
        except KeyboardInterrupt:
            left = (
                f"{self.settings.output} holds {self.saved}"
                if self.saved
                else "nothing was written"
            )
            raise JobInterrupted(f"interrupted: {left}") from None
        self.seconds["total"] = time.perf_counter() - begin
        return report

    def _run(self) -> dict[str, Any]:
        check_output(Path(self.settings.output))
        split = self._split()
        with self._phase("preparing"):
            model, texts = self._prepare(split.train)
            self.settings = settings = self.settings.resolved(
                static=is_static(model), rows=len(split.train)
            )
            untrained = copy.deepcopy(model) if settings.compare else None
            _warm_up(model.device)

        with self._phase("training"):
            run, weight = self._train_main(model, texts, split)
        runs, models = {settings.loss: run}, {settings.loss: model}
        if untrained is not None:
            with self._phase("training the twin"):
                twin = copy.deepcopy(untrained)
                runs["infonce"] = self._train(twin, texts, "infonce", split.valid)
            models = {"untrained": untrained, "infonce": twin, settings.loss: model}
        with self._phase("evaluating"):
            outcomes = rank_all(
                models,
                split.test,
                best=settings.loss,
                name_boost=settings.name_boost,
                hybrid_weight=weight,
                pretrained=bool(settings.compare),
                progress=self.progress,
            )
            packages = [pair.package for pair in split.test]
            rows = [
                result_row(add_seconds(each, runs[each.name].seconds), packages)
                if each.name in runs
                else result_row(each, packages)
                for each in outcomes
            ]
            found = differences(outcomes, packages)
        return {
            "results": rows,
            "differences": found,
            "split": split.summary,
            "hybrid_weight": weight,
            "training": {name: run.summary() for name, run in runs.items()},
            "seconds": self.seconds,
            "settings": settings.to_json(),
            "versions": _versions(),
        }

    def _split(self) -> Split:
        settings = self.settings
        manifest = read_manifest(settings.manifest) if settings.manifest is not None else None
        with self._phase("reading"):
            if settings.data is None:
                pairs = mine_interpreter(progress=self.progress)
            else:
                pairs = read_pairs(settings.data, progress=self.progress)
        with self._phase("splitting"):
            if manifest is not None:
                return apply_manifest(pairs, manifest)
            return split_by_package(pairs)

    def _prepare(self, pairs: Sequence[Pair]) -> tuple[SentenceTransformer, TrainingPairs]:
        """Return the untrained model and the training texts as it takes them."""
        settings = self.settings
        queries = [pair.query for pair in pairs]
        codes = [code_text(pair.name, pair.code, settings.name_boost) for pair in pairs]
        if settings.model != STATIC:
            model, _ = load_encoder(settings.model)
            set_max_length(model, settings.resolved(static=is_static(model)).code_length)
            if is_static(model):
                return model, TokenizedPairs.of(model, queries, codes)
            return model, TextPairs(queries, codes)
        settings = settings.resolved(static=True)
        tokenizer = build_tokenizer(
            [*queries, *codes], settings.vocab_size, max_length_tokens=settings.code_length
        )
        texts = TokenizedPairs(tokenize(tokenizer, queries), tokenize(tokenizer, codes))
        idf = inverse_document_frequency(texts.texts(), tokenizer.get_vocab_size())
        model = build_static_encoder(tokenizer, idf, settings.dimension, seed=settings.seed)
        if settings.init is not None:
            start, _ = load_encoder(settings.init)
            init_from(model, start, seed=settings.seed, progress=self.progress)
        return model, texts

    def _train_main(
        self, model: SentenceTransformer, texts: TrainingPairs, split: Split
    ) -> tuple[TrainingRun, float]:
        """Train and save the model; return how it went and the hybrid's weight."""
        try:
            run = self._train(model, texts, self.settings.loss, split.valid)
            kept, interrupted = "the trained model, not compared yet", False
        except TrainingInterrupted as stop:
            run = stop.run
            if run.epoch == 0:
                raise
            interrupted = True
            kept = f"the model after epoch {run.epoch} of {self.settings.epochs}"
        weight = hybrid_weight_of(model, split.valid, self.settings.name_boost)
        content = {
            "name_boost": self.settings.name_boost,
            "hybrid_weight": weight,
            "code_length": self.settings.code_length,
            "settings": self.settings.to_json(),
            "versions": _versions(),
        }
        save_model(Path(self.settings.output), model, content, split, run.steps)
        self.saved = kept
        if interrupted:
            raise KeyboardInterrupt
        return run, weight

    def _train(
        self, model: SentenceTransformer, texts: TrainingPairs, loss: str, valid: Sequence[Pair]
    ) -> TrainingRun:
        return train_encoder(
            model,
            make_loss(model, self.settings, loss),
            texts,
            self.settings,
            validate=lambda: validation_mrr(model, valid, self.settings.name_boost),
            title=f"training {loss}",
            progress=self.progress,
        )

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin


def _warm_up(device: torch.device) -> None:
    """Build the native loss and compile BM25: what a first call costs is not training's."""
    import torch

    info_nce(torch.eye(2, device=device), torch.eye(2, device=device))
    BM25().scores([[0], [0]])


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in LIBRARIES}
    return {"softnce_ext": __version__, "python": platform.python_version(), **found}
