"""`softnce train --loss simcse`: the queries of some data to a SimCSE encoder in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.split import Split
from ..encoders.saved import load_encoder
from . import ranks
from .corpus import read_corpus, split_corpus
from .job import library_versions
from .output import check_output, save_model
from .settings import TrainSettings
from .simcse import SIMCSE_MODEL, SIMCSE_SETTINGS, train_simcse


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
        TrainingDivergedError, TrainingInterrupted: As in `train_encoder`; nothing is written.
    """
    with ranks.joined():
        return _run(settings, progress and ranks.is_first())


def _run(settings: TrainSettings, progress: bool) -> dict[str, Any]:
    folder, together = Path(settings.output), ranks.count()

    def read() -> Split:
        check_output(folder)
        pairs, prepared = read_corpus(settings, progress=progress)
        return split_corpus(pairs, prepared, settings).split

    split = ranks.from_first(read)
    model, _ = load_encoder(settings.model or SIMCSE_MODEL)
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
    how = SIMCSE_SETTINGS[settings.simcse_settings]._replace(**given)
    queries = [pair.query for pair in split.train]
    encoder, run = train_simcse(model, queries, how, progress=progress)
    if not ranks.part():
        return {}
    content = {
        "name_boost": 0,
        "settings": {**settings.to_json(), "simcse": how._asdict()},
        "versions": library_versions(),
    }
    save_model(folder, encoder, content, split, run.steps)
    return {
        "queries": len(queries),
        "ranks": together,
        "training": {"simcse": run.summary()},
        "settings": content["settings"],
        "versions": content["versions"],
    }
