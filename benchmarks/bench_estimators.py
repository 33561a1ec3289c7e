"""What each estimator adds to a training step of InfoNCE, in milliseconds and as a share.

    python benchmarks/bench_estimators.py [--encoder six] [--rows 32] [--tokens 32 256]
        [--repeats 5] [--json OUT]

The step: a transformer of random weights (bench_share.py), forward, InfoNCE, backward, optimizer.
Timed in turn, round after round, in one process: that step, and for each estimator all of
SoftInfoNCELoss but the encoder (similarities, duplicates, statistics, loss, gradients). An
estimator's extra time is its own less InfoNCE's of the same round; its share is that by the step.

  bm25     queries against queries, from the batch's token ids
  simcse   rows of a memory-mapped table of unit vectors (a one-time encoding of the queries)
  trained  rows of two tables, of queries and of codes
  online   the student's own vectors of the step
  live     the trained teacher run in every step, as the published code does: without a table
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import clocks
import machine
import numpy as np
import torch
from bench_share import LENGTH, SCALE, SHAPES, Given, Transformer, draw_batch
from torch import Tensor, nn

from softnce_ext.estimators.bm25 import InBatchBM25
from softnce_ext.estimators.cache import cached_table
from softnce_ext.estimators.encoder import SimCSEEstimator, TeacherEstimator
from softnce_ext.sentence_transformers import SoftInfoNCELoss

TABLE_ROWS, TABLE_WIDTH = 20_000, 768
ENCODERS = {"small": (6, 192, 6), "six": SHAPES["six"], "twelve": SHAPES["twelve"]}


class _Nothing(nn.Module):
    """Stands for the model whose vectors the tables hold; a step does not run it."""


def table(folder: str, side: str) -> Any:
    generator = torch.Generator().manual_seed(len(side))

    def encode(texts: Any) -> Tensor:
        vectors = torch.randn(len(texts), TABLE_WIDTH, generator=generator)
        return nn.functional.normalize(vectors)

    texts = [f"{side} {row}" for row in range(TABLE_ROWS)]
    return cached_table(encode, texts, {"side": side}, folder=folder)


def estimators(teacher: nn.Module, folder: str) -> dict[str, Any]:
    simcse, trained = SimCSEEstimator(_Nothing()), TeacherEstimator(_Nothing())
    simcse.tables = {"query": table(folder, "query")}
    trained.tables = {side: table(folder, side) for side in ("query", "code")}

    def live(features: list[dict[str, Tensor]]) -> tuple[Tensor, ...]:
        return tuple(teacher(column)["sentence_embedding"] for column in features)

    online = TeacherEstimator(mode="online")
    found = {"infonce": None, "bm25": InBatchBM25(), "simcse": simcse, "trained": trained}
    return {**found, "online": online, "live": live}


def calls(encoder: str, rows: int, folder: str) -> dict[str, Callable[[], Any]]:
    torch.manual_seed(0)
    model, teacher = Transformer(*ENCODERS[encoder]).train(), Transformer(*ENCODERS[encoder]).eval()
    features = draw_batch("six", rows, model.bert.config.vocab_size, "cpu")
    drawn = torch.from_numpy(np.random.default_rng(0).integers(0, TABLE_ROWS, rows))
    for column in features:
        column["row"] = drawn
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    info_nce = SoftInfoNCELoss(model, None, scale=SCALE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        info_nce(features).backward()
        optimizer.step()

    with torch.no_grad():
        plain = [{k: v for k, v in column.items() if k != "row"} for column in features]
        vectors = [teacher(column)["sentence_embedding"] for column in plain]
    leaves = [vector.clone().requires_grad_() for vector in vectors]
    rule = {"alpha": 1.3, "beta": 0.7, "temperature": 0.1}

    def loss_side(estimator: Any) -> Callable[[], Any]:
        loss = SoftInfoNCELoss(Given(leaves), estimator, scale=SCALE, **rule)
        return lambda: torch.autograd.grad(loss(features), leaves)

    sides = {name: loss_side(each) for name, each in estimators(teacher, folder).items()}
    return {"step": step, **sides}


def measure(encoder: str, rows: int, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        samples = {}
        for name, call in calls(encoder, rows, folder).items():
            one = min(clocks.once(call, "cpu") for _ in range(2))
            inner = max(1, int(clocks.ROUND_S / one))
            samples[name] = clocks.Clock(clocks.wall_sample(call, inner, "cpu"), "wall")
        times, failed = clocks.take_turns(samples, repeats, math.inf)
    if failed:
        raise RuntimeError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    step, base = times["step"].seconds, times["infonce"].seconds
    figures = {}
    for name, found in times.items():
        if name in ("step", "infonce"):
            continue
        extra = [a - b for a, b in zip(found.seconds, base, strict=True)]
        shares = [a / b for a, b in zip(extra, step, strict=True)]
        figures[name] = {
            "extra_ms": 1e3 * statistics.median(extra),
            "share": statistics.median(shares),
            "largest_share": max(shares),
        }
    return {
        "encoder": encoder,
        "rows": rows,
        "tokens": LENGTH["six"],
        "table": [TABLE_ROWS, TABLE_WIDTH],
        "rounds": len(step),
        "threads": torch.get_num_threads(),
        "step_ms": 1e3 * statistics.median(step),
        "info_nce_ms": 1e3 * statistics.median(base),
        "estimators": figures,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="six", choices=list(ENCODERS))
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, nargs=2, default=LENGTH["six"], help="at most")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--json", help="result file; default benchmarks/results/estimators_cpu.json"
    )
    options = parser.parse_args()
    LENGTH["six"] = tuple(options.tokens)
    found = measure(options.encoder, options.rows, options.repeats)
    print(f"InfoNCE's step {found['step_ms']:.0f} ms, its loss side {found['info_nce_ms']:.3f} ms")
    for name, each in found["estimators"].items():
        print(
            f"{name:8} + {each['extra_ms']:8.3f} ms  {each['share']:8.3%}  "
            f"at most {each['largest_share']:.3%}"
        )
    machine.write(options.json, "estimators_cpu", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
