"""`softnce train --loss simcse`: the queries of some data to a SimCSE encoder in a folder."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.split import Split
from ..encoders.saved import load_encoder
from ..estimators.space import check_space
from . import ranks, simcse
from .before import (
    check_folders,
    check_models,
    checkpoint_folder,
    checkpoint_need,
    model_need,
    told_cure,
)
from .checkpoint import Checkpoints, Stage
from .corpus import read_corpus, split_corpus
from .lock import held
from .output import save_metrics, save_model
from .record import data_hash, library_versions, run_identity, split_summary, trained_before
from .run import JobInterrupted, TrainingInterrupted, TrainingRun
from .settings import TrainSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def run_simcse(settings: TrainSettings, *, progress: bool = True) -> dict[str, Any]:
    """Train SimCSE on the training queries and save it; return the report, ready for JSON.

    Several ranks share each batch; the first reads and writes, and alone has a report.

    Args:
        settings: `model`, data, `simcse_settings`, `output`, and what overrides these of the
            optimiser: batch_size, epochs, learning_rate, code_length, seed.
        progress: Show progress on stderr.

    Raises:
        FileNotFoundError: There is no such data or model.
        ValueError, OSError: A setting or the data does not fit, or the folder cannot be written.
        TrainingDivergedError: As in `train_encoder`; nothing is written.
        JobInterrupted: Ctrl-C; the weights of the last whole epoch are written.
    """
    with ranks.joined(), held(settings.output):
        return _run(settings, progress and ranks.is_first())


def _run(settings: TrainSettings, progress: bool) -> dict[str, Any]:
    begin = time.perf_counter()
    folder, together = Path(settings.output), ranks.count()

    def read() -> Split:
        check_folders(settings)
        check_models(settings)
        return split_corpus(*read_corpus(settings, progress=progress), settings).split

    split = ranks.from_first(read)
    before = trained_before(settings)  # its folder may be the one to replace
    with told_cure("--model"):
        model, _ = load_encoder(settings.model or simcse.SIMCSE_MODEL)
    given: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "length": settings.code_length,
        "seed": settings.seed,
        "max_steps": settings.max_steps,
        "precision": settings.precision,
    }
    given = {name: value for name, value in given.items() if value is not None}
    how = simcse.SIMCSE_SETTINGS[settings.simcse_settings]._replace(**given)
    queries = [pair.query for pair in split.train]
    settings = replace(
        settings,
        mask_duplicates=bool(settings.mask_duplicates),
        checkpoints=settings.checkpoints is not False,
    )
    planned = replace(settings, batch_size=how.batch_size, epochs=how.epochs)
    room = [model_need(planned, model, len(queries)), *checkpoint_need(planned, model)]
    ranks.from_first(lambda: check_space(room))
    seconds = {"preparing": time.perf_counter() - begin}
    told: dict[str, Any] = {
        "data_hash": data_hash(split),
        "settings": {**settings.to_json(), "simcse": how._asdict()},
        "versions": library_versions(),
    }

    identity = run_identity(told["data_hash"], told["settings"], told["versions"], model)
    checkpoints = Checkpoints(checkpoint_folder(settings), settings, identity)
    checkpoints.check()

    def keep(encoder: SentenceTransformer, run: TrainingRun) -> None:
        save_model(folder, encoder, {"name_boost": 0, **told}, split, run.steps)

    try:
        encoder, run = simcse.train_simcse(
            model,
            queries,
            how,
            mask_duplicates=bool(settings.mask_duplicates),
            progress=progress,
            stage=Stage(checkpoints, "simcse"),
        )
    except TrainingInterrupted as stop:
        left = "nothing was written"
        if stop.run.epoch and ranks.is_first():
            keep(stop.model, stop.run)
            left = f"{folder} holds the encoder after epoch {stop.run.epoch} of {how.epochs}"
        raise JobInterrupted(f"interrupted: {left}{checkpoints.cure()}") from None
    if not ranks.part():
        return {}
    keep(encoder, run)
    report = {
        "queries": len(queries),
        "ranks": together,
        "split": split_summary(split, before),
        "training": {"simcse": run.summary()},
        "seconds": {**seconds, "training": run.seconds, "total": time.perf_counter() - begin},
        **told,
    }
    save_metrics(folder, report)
    checkpoints.end()
    return report
