"""What each estimator adds to a training step of InfoNCE, in milliseconds and as a share.

    python benchmarks/bench_estimators.py [--encoder six] [--rows 32] [--tokens 32 256]
        [--repeats 5] [--pairs 2000] [--data PATH] [--json OUT]

The step: a transformer of random weights (bench_share.py), forward, InfoNCE, backward, optimizer.
Timed in turn, round after round, in one process: that step, and for each estimator all of
SoftInfoNCELoss but the encoder (similarities, duplicates, statistics, loss, gradients). An
estimator's extra time is its own less InfoNCE's of the same round; its share is that by the step.
Tables are made by an encoder of the same shape from real pairs (of --data, else of this Python's
packages), and what that one-time encoding cost is shown beside the shares.

  bm25     queries against queries, from the batch's token ids
  simcse   rows of a memory-mapped table of unit vectors of the queries
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
from pathlib import Path
from typing import Any

import clocks
import machine
import numpy as np
import torch
from bench_share import LENGTH, SCALE, SHAPES, Given, Transformer, draw_batch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_tests"))
from tiny_backbones import save_tiny_tokenizer, tiny_config  # noqa: E402

from softnce_ext.data.formats import read_pairs  # noqa: E402
from softnce_ext.data.mining import mine_interpreter  # noqa: E402
from softnce_ext.data.pairs import Pair  # noqa: E402
from softnce_ext.encoders.backbones import build_backbone  # noqa: E402
from softnce_ext.estimators.bm25 import InBatchBM25  # noqa: E402
from softnce_ext.estimators.encoder import SimCSEEstimator, TeacherEstimator  # noqa: E402
from softnce_ext.sentence_transformers import SoftInfoNCELoss  # noqa: E402

ENCODERS = {"small": (6, 192, 6), "six": SHAPES["six"], "twelve": SHAPES["twelve"]}


def real_pairs(data: Path | None, count: int) -> list[Pair]:
    """Return `count` pairs, spread evenly over all."""
    pairs = mine_interpreter(progress=False) if data is None else read_pairs(data, progress=False)
    return [pairs[i * len(pairs) // count] for i in range(min(count, len(pairs)))]


def text_encoder(encoder: str, pairs: list[Pair], folder: str) -> Any:
    """Return an encoder of the step's shape that reads texts, of random weights."""
    texts = [text for pair in pairs for text in (pair.query, pair.code)]
    tokenizer = save_tiny_tokenizer(Path(folder, "tokenizer"), texts, vocab_size=8000)
    layers, width, heads = ENCODERS[encoder]
    config = tiny_config(
        tokenizer,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    query, code = LENGTH["six"]
    options = {"query_length": query, "code_length": code, "device": "cpu"}
    return build_backbone("codebert", config, tokenizer=tokenizer, **options)


def cost(*tables: Any) -> dict[str, Any]:
    return {
        "texts": sum(map(len, tables)),
        "seconds": sum(table.seconds for table in tables),
        "megabytes": sum(table.megabytes for table in tables),
    }


def estimators(
    teacher: nn.Module, encoder: str, pairs: list[Pair], folder: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the estimators, and what the tables of two of them cost."""
    model = text_encoder(encoder, pairs, folder)
    simcse, trained = SimCSEEstimator(model), TeacherEstimator(model)
    queries, codes = [pair.query for pair in pairs], [pair.code for pair in pairs]
    costs = {
        "simcse": cost(simcse.cache(queries, folder=folder)),
        "trained": cost(*trained.cache(queries, codes, folder=folder)),
    }

    def live(features: list[dict[str, Tensor]]) -> tuple[Tensor, ...]:
        return tuple(teacher(column)["sentence_embedding"] for column in features)

    online = TeacherEstimator(mode="online")
    found = {"infonce": None, "bm25": InBatchBM25(), "simcse": simcse, "trained": trained}
    return {**found, "online": online, "live": live}, costs


def calls(
    encoder: str, rows: int, pairs: list[Pair], folder: str
) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    torch.manual_seed(0)
    model, teacher = Transformer(*ENCODERS[encoder]).train(), Transformer(*ENCODERS[encoder]).eval()
    features = draw_batch("six", rows, model.bert.config.vocab_size, "cpu")
    drawn = torch.from_numpy(np.random.default_rng(0).integers(0, len(pairs), rows))
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

    found, costs = estimators(teacher, encoder, pairs, folder)
    return {"step": step, **{name: loss_side(each) for name, each in found.items()}}, costs


def measure(encoder: str, rows: int, repeats: int, pairs: list[Pair]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        samples = {}
        timed, costs = calls(encoder, rows, pairs, folder)
        for name, call in timed.items():
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
        "table": [len(pairs), ENCODERS[encoder][1]],
        "encoding": costs,
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
    parser.add_argument("--pairs", type=int, default=2000, help="that the tables are made of")
    parser.add_argument("--data", type=Path, help="their files (default: this Python's packages)")
    parser.add_argument(
        "--json", help="result file; default benchmarks/results/estimators_cpu.json"
    )
    options = parser.parse_args()
    LENGTH["six"] = tuple(options.tokens)
    pairs = real_pairs(options.data, options.pairs)
    found = measure(options.encoder, options.rows, options.repeats, pairs)
    print(f"InfoNCE's step {found['step_ms']:.0f} ms, its loss side {found['info_nce_ms']:.3f} ms")
    for name, each in found["estimators"].items():
        print(
            f"{name:8} + {each['extra_ms']:8.3f} ms  {each['share']:8.3%}  "
            f"at most {each['largest_share']:.3%}"
        )
    for name, each in found["encoding"].items():
        print(
            f"{name:8} one-time encoding: {each['texts']} texts in {each['seconds']:.1f} s, "
            f"{each['megabytes']:.1f} MB"
        )
    machine.write(options.json, "estimators_cpu", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
