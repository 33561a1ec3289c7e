"""Every backbone, language, loss and estimator end to end on real pairs, backbones being small.

    python benchmarks/check_systems.py --data FOLDER [--rows 300] [--json OUT]

FOLDER holds real pairs, LANG/train.jsonl.gz for each of the six languages, in our rows or in
CodeSearchNet's. Of each language `--rows` pairs are taken evenly over the file, split by package
and trained on as `softnce train` does it: 3 backbones x 6 languages, InfoNCE first, which becomes
the trained estimator, then 6 losses with 3 estimators each; a SimCSE is trained for each language.
The backbones have two layers of random weights and few steps: what is shown is that every cell
reads its data, trains with finite losses that change, moves its weights, is saved, loaded again and
ranked, not how good it is.
A cell that fails is recorded with its error, and ends the run with status 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import torch
import transformers
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_tests"))
from tiny_backbones import save_tiny_backbone  # noqa: E402
from tiny_distilbert import distilbert  # noqa: E402

from softnce_ext.data.formats import read_pairs, write_pairs  # noqa: E402
from softnce_ext.data.pairs import Pair  # noqa: E402
from softnce_ext.encoders.saved import load_encoder  # noqa: E402
from softnce_ext.training.job import TrainingJob  # noqa: E402
from softnce_ext.training.settings import (  # noqa: E402
    LANGUAGES,
    LOSSES,
    UNWEIGHTED,
    TrainSettings,
)
from softnce_ext.training.simcse_job import run_simcse  # noqa: E402
from softnce_ext.training.systems import SYSTEMS  # noqa: E402

ESTIMATORS = ("bm25", "simcse", "trained")
WITH_ESTIMATOR = [name for name in LOSSES if name not in UNWEIGHTED]
COMMON = {"batch_size": 16, "epochs": 1, "learning_rate": 1e-3, "compare": False}
# To random weights all pairs are nearly as similar as the pair itself: only this ratio keeps some.
OF_LOSS = {"threshold": {"ratio": 1.0}}
ALL_BUT_FEW = 0.9  # of an encoder's tensors have a gradient
LENGTHS = {"query_length": 48, "code_length": 96}


def sample(folder: Path, language: str, count: int) -> list[Pair]:
    """Return `count` pairs of a language, spread evenly over its file."""
    pairs = read_pairs(folder / language / "train.jsonl.gz", progress=False)
    return [pairs[i * len(pairs) // count] for i in range(min(count, len(pairs)))]


def cell(output: Path, **options: Any) -> dict[str, Any]:
    """Train one cell; say what came of it, or its error."""
    begin = time.perf_counter()
    try:
        report = TrainingJob(TrainSettings(output=str(output), **options), progress=False).run()
        model, _ = load_encoder(str(output))
        name = report["settings"]["loss"]
        mrr = next(row["mrr"] for row in report["results"] if row["name"] == name)
        steps = (output / "training.jsonl").read_text().splitlines()
        losses = [json.loads(step)["loss"] for step in steps]
        start = load_file(Path(options["model"], "model.safetensors"))
        weights = model[0].encoder.state_dict()
        moved = [not torch.equal(value, start[name]) for name, value in weights.items()]
        found: dict[str, Any] = {
            "steps": len(losses),
            "finite": all(map(math.isfinite, losses)),
            "losses": len(set(losses)),
            "first_loss": round(losses[0], 4),
            "last_loss": round(losses[-1], 4),
            "mrr": round(mrr, 4),
            "moved": round(sum(moved) / len(moved), 3),
            "loaded": model[0].kind == options["preset"],
        }
    except (ValueError, TypeError, OSError, RuntimeError, ArithmeticError) as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    return {**found, "seconds": round(time.perf_counter() - begin, 2)}


def matrix(root: Path, languages: Sequence[str], max_steps: int) -> dict[str, dict[str, Any]]:
    """Train every cell on `root`/LANG.jsonl."""
    cells: dict[str, dict[str, Any]] = {}
    for language in languages:
        common = {**COMMON, "language": language, "data": str(root / f"{language}.jsonl")}
        simcse = {
            "model": str(root / "bert"),
            "loss": "simcse",
            "output": str(root / f"simcse-{language}"),
            "max_steps": max_steps,
        }
        run_simcse(TrainSettings(**{**common, **simcse}), progress=False)
        for preset in SYSTEMS:
            backbone = {"preset": preset, "model": str(root / "roberta"), **LENGTHS}
            teachers = {
                "simcse": str(root / f"simcse-{language}"),
                "trained": str(root / f"{preset}-{language}"),
            }
            todo = [("infonce", "none")]
            todo += [(loss, estimator) for loss in WITH_ESTIMATOR for estimator in ESTIMATORS]
            for loss, estimator in todo:
                output = teachers["trained"] if loss == "infonce" else str(root / "cell")
                name = f"{preset}, {language}, {loss}, {estimator}"
                cells[name] = cell(
                    Path(output),
                    **common,
                    **backbone,
                    max_steps=max_steps,
                    loss=loss,
                    estimator=estimator,
                    teacher=teachers.get(estimator),
                    **OF_LOSS.get(loss, {}),
                )
                print(name, cells[name], flush=True)
    return cells


def is_sound(found: dict[str, Any]) -> bool:
    """Say whether a cell trained: a step that drops every negative has loss 0 and moves nothing."""
    return bool(
        found.get("finite")
        and found["losses"] > 1
        and found["moved"] > ALL_BUT_FEW
        and found["loaded"]
        and found["mrr"] > 0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=300, help="of each language")
    parser.add_argument("--max-steps", type=int, default=6)
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=LANGUAGES)
    parser.add_argument("--json", help="result file; default benchmarks/results/systems.json")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    gc.freeze()  # a trainer ends by collecting garbage: not through all that is imported
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pairs = {each: sample(args.data, each, args.rows) for each in args.languages}
        queries = [pair.query for each in pairs.values() for pair in each]
        codes = [pair.code for each in pairs.values() for pair in each]
        for language, each in pairs.items():
            write_pairs(root / f"{language}.jsonl", each)
        save_tiny_backbone(root / "roberta", [*queries, *codes], vocab_size=2000)
        distilbert(queries, root / "bert")
        cells = matrix(root, args.languages, args.max_steps)
    failed = sorted(name for name, found in cells.items() if not is_sound(found))
    results = {
        "rows": args.rows,
        "threads": torch.get_num_threads(),
        "cells": cells,
        "sound": len(cells) - len(failed),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    machine.write(args.json, "systems", results)
    print(f"{results['sound']} of {len(cells)} cells in {results['seconds']:.0f} s")
    if failed:
        raise SystemExit(f"not sound: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
