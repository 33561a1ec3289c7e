"""Time and memory of ranking every query's gold code in a whole code base, beside the GEMM alone.

    python benchmarks/bench_evaluation.py [--device cuda] [--queries 14918] [--codes 43827]

The sizes are CodeSearchNet-Python's (Table 6 of the paper). Vectors are random: a query is its
code plus noise, one code in a hundred repeats an earlier one. Contenders run in turn, round after
round, in one process:

* GEMM: the same blocks of `query @ code.T`, nothing counted;
* ours: `mean_reciprocal_rank`, checks, duplicates and counts included;
* published: what the papers' code does, NumPy: all scores, a full argsort reversed, a loop that
  looks for the gold code among the first 1000. It is run on --subset queries, and its time times
  queries / subset is an extrapolation; its memory is that of scores and order, by formula.

Equality with the published ranks is checked on the subset before timing. Ratios are medians over
rounds. Memory of ours is the peak resident size of a process of its own, vectors included. Beside
it: 99 queries with 20 graded codes each, and the bootstrap of one system's figures.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import clocks
import machine
import numpy as np
import torch

from softnce_ext.evaluation import figures, graded, ranking
from softnce_ext.evaluation.evaluate import Outcome
from softnce_ext.evaluation.judgements import Judgements

GEMM, OURS, PUBLISHED = "GEMM", "ours", "published"
CUTOFF = ranking.PAPER_CUTOFF
NOISE = 6.0  # of a unit vector's length over sqrt(D): an MRR about that of a trained encoder
ANNOTATED, JUDGED = 99, 20  # queries of CodeSearchNet's annotations, and about as many codes each


def vectors(queries: int, codes: int, dimension: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    code = rng.standard_normal((codes, dimension), dtype=np.float32)
    again = rng.choice(codes, size=codes // 100, replace=False)
    code[again] = code[(again + 1) % codes]
    code /= np.linalg.norm(code, axis=1, keepdims=True)
    target = rng.permutation(codes)[:queries]
    noise = rng.standard_normal((queries, dimension), dtype=np.float32)
    query = code[target] + noise * (NOISE / dimension**0.5)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    return query, code, target


def published_ranks(query: np.ndarray, code: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Reciprocal ranks by a full sort, and a loop over the first places."""
    order = np.argsort(np.matmul(query, code.T), axis=-1, kind="quicksort")[:, ::-1]
    found = []
    for row, gold in zip(order, target, strict=True):
        reciprocal = 0.0
        for place, index in enumerate(row[:CUTOFF], 1):
            if index == gold:
                reciprocal = 1 / place
                break
        found.append(reciprocal)
    return np.array(found)


def gemm(query: torch.Tensor, code: torch.Tensor) -> None:
    """The blocks that `score_blocks` makes, and nothing else."""
    rows = ranking.rows_at_once(len(query), len(code), code.element_size())
    buffer = torch.empty(rows, len(code), dtype=code.dtype, device=code.device)
    for start in range(0, len(query), rows):
        block = query[start : start + rows]
        torch.mm(block, code.T, out=buffer[: len(block)])


def peak_mib(args: argparse.Namespace) -> float:
    """Peak resident size of a process that ranks once."""
    command = [sys.executable, __file__, "--only-rank"]
    for name in ("queries", "codes", "dimension"):
        command += [f"--{name}", str(getattr(args, name))]
    return float(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))


def judged(queries: int, codes: int) -> Judgements:
    rng = np.random.default_rng(1)
    code = np.concatenate([rng.choice(codes, JUDGED, replace=False) for _ in range(queries)])
    grade = rng.integers(0, 4, len(code)).astype(float)
    names = [f"query {i}" for i in range(queries)]
    return Judgements(names, np.repeat(np.arange(queries), JUDGED), code, grade)


def seconds(call: Any) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--queries", type=int, default=14_918)
    parser.add_argument("--codes", type=int, default=43_827)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--subset", type=int, default=200, help="queries of the published method")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", help="result file; default benchmarks/results/evaluation_*.json")
    args = parser.parse_args()
    machine.need(args.device)
    query, code, target = vectors(args.queries, args.codes, args.dimension)
    if args.only_rank:
        ranking.mean_reciprocal_rank(query, code, target, cutoff=CUTOFF)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return

    subset = slice(min(args.subset, args.queries))
    counts = ranking.counts_from_scores(ranking.score_blocks(query[subset], code), target[subset])
    alone = counts.equal == 0  # a sort orders ties as it likes
    ours = ranking.reciprocal_ranks(counts.ranks(), CUTOFF)
    gap = np.abs(ours - published_ranks(query[subset], code, target[subset]))[alone]
    # Another rounding of the GEMM may swap two neighbours.
    if (gap > 0).mean() > 0.02:
        raise SystemExit(f"ranks differ from the published method's in {(gap > 0).mean():.1%}")

    on_device = [torch.from_numpy(each).to(args.device) for each in (query, code)]
    calls = {
        GEMM: lambda: gemm(*on_device),
        OURS: lambda: ranking.mean_reciprocal_rank(*on_device, target, cutoff=CUTOFF),
        PUBLISHED: lambda: published_ranks(query[subset], code, target[subset]),
    }
    made = {
        name: clocks.Clock(clocks.wall_sample(call, 1, args.device), "wall")
        for name, call in calls.items()
    }
    times, failed = clocks.take_turns(made, args.rounds, float("inf"))
    if failed:
        raise SystemExit(f"failed: {failed}")
    found = {name: each.seconds for name, each in times.items()}
    found[PUBLISHED] = [each * args.queries / len(ours) for each in found[PUBLISHED]]
    beyond = [a - b for a, b in zip(found[OURS], found[GEMM], strict=True)]

    annotated = judged(min(ANNOTATED, args.queries), args.codes)
    first = on_device[0][: len(annotated.queries)]
    whole = ranking.counts_from_scores(ranking.score_blocks(*on_device), target)
    outcome = Outcome(OURS, whole, 0.0)
    extra = {
        "graded_s": seconds(
            lambda: graded.ndcg(
                graded.judged_counts(ranking.score_blocks(first, on_device[1]), annotated),
                annotated,
                10,
            )
        ),
        "bootstrap_s": seconds(lambda: figures.result_row(outcome, None, cutoff=CUTOFF)),
    }
    results = {
        "queries": args.queries,
        "codes": args.codes,
        "dimension": args.dimension,
        "device": args.device,
        "threads": torch.get_num_threads(),
        "rounds": args.rounds,
        "mrr": outcome.mrr(cutoff=CUTOFF),
        "contenders": {
            name: {
                "time_s": median(each),
                "times_s": each,
                "over_gemm": clocks.ratio(each, found[GEMM])[0],
            }
            for name, each in found.items()
        },
        "beyond_gemm_s": median(beyond),
        "published_extrapolated_from": len(ours),
        "published_memory_mib": args.queries * args.codes * (4 + 8) / 2**20,
        "peak_resident_mib": peak_mib(args) if args.device == "cpu" else None,
        **extra,
    }
    for name, row in results["contenders"].items():
        note = f" (extrapolated from {len(ours)} queries)" if name == PUBLISHED else ""
        print(f"{name:10s} {row['time_s']:8.2f} s  {row['over_gemm']:6.2f} x the GEMM{note}")
    print(f"ours beyond the GEMM: {results['beyond_gemm_s']:.2f} s")
    if results["peak_resident_mib"]:
        print(f"peak resident size: {results['peak_resident_mib']:.0f} MiB", end="; ")
    print(f"published, scores and order alone: {results['published_memory_mib']:.0f} MiB")
    print(f"99 queries of 20 graded codes: {extra['graded_s']:.2f} s", end="; ")
    print(f"bootstrap of a system's figures: {extra['bootstrap_s']:.2f} s")
    machine.write(args.json, f"evaluation_{args.device}", results)


if __name__ == "__main__":
    main()
