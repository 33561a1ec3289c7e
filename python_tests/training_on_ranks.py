"""What test_training_ranks.py starts on each rank: `training_on_ranks.py FOLDER PORT FLAGS...`.

First `softnce train FLAGS`; then, with another port to meet at, the same command with `work` in
place of its job, so that the command's own end is seen.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from models import tiny_rows

from softnce_ext.cli.main import main
from softnce_ext.training import job, ranks
from softnce_ext.training.batches import TextPairs
from softnce_ext.training.losses import make_loss
from softnce_ext.training.run import TrainingRun
from softnce_ext.training.settings import TrainSettings
from softnce_ext.training.trainer import train_encoder

SENTENCE = "this rank cannot go on"


def train_bert(folder: Path) -> tuple[Any, TrainingRun]:
    """Train the tiny BERT of a folder; 47 pairs in batches of 7 are shared unevenly."""
    from sentence_transformers import SentenceTransformer

    rows = tiny_rows()[:47]
    pairs = TextPairs([row["query"] for row in rows], [row["code"] for row in rows])
    settings = TrainSettings(
        model="bert", batch_size=7, epochs=2, learning_rate=1e-3, seed=3
    ).resolved(static=False)
    model = SentenceTransformer(str(folder), device="cpu")
    loss = make_loss(model, settings, "soft-infonce")
    figures = iter([0.25, 0.5])
    run = train_encoder(
        model, loss, pairs, settings, validate=lambda: next(figures), progress=False
    )
    return model, run


def talk(folder: Path) -> dict[str, Any]:
    """Do with the other rank what a job does; return what this rank got."""
    first = ranks.is_first()
    note = folder / "note"
    found = {"count": ranks.count(), "first": first}
    found["from_first"] = ranks.from_first(lambda: f"rank {0 if first else 1} did it")
    ranks.after_first(lambda: note.open("a").write("01"[not first]))
    found["any"] = [ranks.any_rank(not first), ranks.any_rank(False)]
    found["mean"] = ranks.mean({"a": 2.0 if first else 4.0, "b": 1.0})
    found["note"] = note.read_text()  # any_rank has met: both have written

    def fail() -> None:
        raise OSError("no")

    try:
        ranks.from_first(fail)
    except (OSError, SystemExit) as error:
        found["failure"] = repr(error)
    return found


def work(folder: Path) -> dict[str, Any]:
    number = 0 if ranks.is_first() else 1
    (folder / f"talk{number}.json").write_text(json.dumps(talk(folder)))
    model, run = train_bert(folder / "bert")
    told = {"steps": run.steps, "validation": run.validation, "epoch": run.epoch}
    torch.save({"weights": model.state_dict(), **told}, folder / f"found{number}")
    step = job.train_encoder.__globals__["_Trainer"].training_step

    def fail_on_second(trainer: Any, *args: Any, **options: Any) -> Any:
        if number == 1 and trainer.state.global_step == 1:
            raise ValueError(SENTENCE)
        return step(trainer, *args, **options)

    job.train_encoder.__globals__["_Trainer"].training_step = fail_on_second
    train_bert(folder / "bert")
    return {}


if __name__ == "__main__":
    folder, port, *flags = sys.argv[1:]
    if main(["train", *flags]):
        sys.exit("the first job failed")
    os.environ["MASTER_PORT"] = port
    job.TrainingJob.run = lambda self: work(Path(folder))
    sys.exit(main(["train"]))
