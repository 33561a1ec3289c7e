"""Time and memory of the loss part of a cached step: between gradient caching's two passes.

    python benchmarks/bench_cached.py [--rows 16384] [--repeats 3] [--json OUT]
    python benchmarks/bench_cached.py --device cuda [--rows 32768] [--dtype bfloat16]

The encoder's embeddings are drawn, in leaves of 32 rows: the mini-batches that both libraries have
by default. What is timed makes the loss and every leaf's gradient of them, cosines included:

  native       CachedSoftInfoNCELoss.calculate_loss
  cached MNRL  CachedMultipleNegativesRankingLoss.calculate_loss, which goes by slices of 32 rows
  eager        the whole N x N matrices in plain torch

cached MNRL has no weights; beside similarity "none", where all three compute the same, ours and
eager are weighed with a teacher's vectors. Contenders run in turn; a ratio is the median over
rounds of a contender's time by ours of the same round. Losses and gradients are checked before
anything is timed. Memory is what torch's allocator held at most, beside inputs and gradients, in a
pass of its own: of the CPU's and the GPU's memory alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import clocks
import contenders
import machine
import torch
import torch.nn.functional as F
from problem import KINDS, NONE, RULE, SCALE, TEACHER, Problem, make_problem
from truth import errors_of, truth, within

from softnce_ext.sentence_transformers import CachedSoftInfoNCELoss

MINI_BATCH = 32  # the default of both libraries
EAGER_TRUTH_ROWS = 4096  # beyond, a float64 matrix is too large to have several of


def native(problem: Problem) -> contenders.Step:
    model = torch.nn.Sequential(torch.nn.Identity())
    if problem.similarity is None:
        loss = CachedSoftInfoNCELoss(model, None, scale=SCALE, impl="native")
    else:
        loss = CachedSoftInfoNCELoss(model, lambda _: None, scale=SCALE, impl="native", **RULE)
    loss.mask_duplicates = False  # told from the token ids, before the embeddings

    def calculate(leaves: list[list[torch.Tensor]]) -> torch.Tensor:
        return loss.calculate_loss(leaves, with_backward=True, similarity=problem.similarity)

    return contenders.by_gradient_cache(calculate, problem, loss.mini_batch_size)


def eager(problem: Problem) -> contenders.Step:
    def calculate(leaves: list[list[torch.Tensor]]) -> torch.Tensor:
        query, code = (F.normalize(torch.cat(side), dim=-1) for side in leaves)
        loss = contenders.eager_loss(query, code, problem.similarity)
        loss.backward()
        return loss

    return contenders.by_gradient_cache(calculate, problem, MINI_BATCH)


def library(problem: Problem) -> contenders.Step:
    from sentence_transformers.util import cos_sim  # the loss's default

    if problem.kind != NONE:
        raise contenders.Absent(f"does not take similarity {problem.kind}")
    return contenders.cached_ranking(problem, similarity_fct=cos_sim)


CONTENDERS = {"native": native, "cached MNRL": library, "eager": eager}


def wanted(problem: Problem) -> list[torch.Tensor]:
    """Return the truth: of unit vectors, whose gradient through the cosine lies across them."""
    if problem.device.type == "cpu" and len(problem.query) > EAGER_TRUTH_ROWS:
        loss, *grads = contenders.torch_path(problem.to(torch.float64))()
    else:
        loss, *grads = truth(problem)
    units = [side.detach().to(grads[0].dtype) for side in (problem.query, problem.code)]
    across = [
        grad - (grad * unit).sum(1, keepdim=True) * unit
        for grad, unit in zip(grads, units, strict=True)
    ]
    return [loss, *across]


def measure(problem: Problem, repeats: int, budget_s: float) -> dict[str, Any]:
    """Check, weigh and time all contenders; return their figures, and why others have none."""
    device, facts, absent = problem.device.type, {}, {}
    found, clocks_of = wanted(problem), {}
    for name, make in CONTENDERS.items():
        progress(f"{name}: held to the truth and weighed")
        try:
            step = make(problem)
            errors = errors_of(step(), found)
            if not within(problem, errors):
                absent[name] = "differs from the truth: " + " ".join(f"{e:.1e}" for e in errors)
                continue
            peak = clocks.peak_bytes(step, device)
            facts[name] = {"relative_error": errors, "peak_mib": peak / 2**20}
            clocks_of[name] = clocks.make_clock(step, device, capture=False)
        except (contenders.Absent, RuntimeError, ImportError) as error:
            absent[name] = clocks.first_line(error)
        clocks.free()
    del found
    clocks.free()
    progress(f"{len(clocks_of)} contenders in turn, {repeats} rounds")
    times, failed = clocks.take_turns(clocks_of, repeats, budget_s)
    for name, taken in times.items():
        facts[name]["time_ms"] = 1e3 * statistics.median(taken.seconds)
        facts[name]["rounds"] = len(taken.seconds)
        facts[name]["clock"] = clocks_of[name].kind
        if "native" in times:
            ratio, quartiles = clocks.ratio(taken.seconds, times["native"].seconds)
            facts[name] |= {"over_native": ratio, "over_native_quartiles": quartiles}
    return {"contenders": {name: facts[name] for name in times}, "absent": absent | failed}


def progress(text: str) -> None:
    print(f"  ... {text}", file=sys.stderr, flush=True)


def show(entry: dict[str, Any]) -> None:
    print(f"N = {entry['rows']}, D = {entry['dimension']}, {entry['similarity']}, {entry['dtype']}")
    for name, row in entry["contenders"].items():
        line = f"  {name:12s} {row['time_ms']:12.2f} ms  peak {row['peak_mib']:10.1f} MiB"
        if "over_native" in row:
            low, high = row["over_native_quartiles"]
            line += f"  {row['over_native']:7.2f} x ours ({low:.2f} to {high:.2f})"
        print(line)
    for name, reason in entry["absent"].items():
        print(f"  {name:12s} not measured: {reason}")
    sys.stdout.flush()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", help="default: 16384, CUDA 32768")
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--similarity", choices=KINDS, nargs="+", default=[NONE, TEACHER])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=float, default=1200.0, help="seconds a contender")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: fp32, CUDA bf16")
    parser.add_argument("--json", help="result file; default benchmarks/results/cached[_cuda].json")
    args = parser.parse_args()
    on_gpu = args.device == "cuda"
    args.rows = args.rows or [32768 if on_gpu else 16384]
    args.dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
    return args


def main() -> int:
    import sentence_transformers

    args = parse()
    machine.need(args.device)
    torch.set_float32_matmul_precision("highest")
    name = "cached_cuda" if args.device == "cuda" else "cached"
    versions = {"sentence-transformers": sentence_transformers.__version__}
    results: dict[str, Any] = {"mini_batch": MINI_BATCH, "versions": versions, "steps": []}
    wrong = 0
    for rows in args.rows:
        for kind in args.similarity:
            progress(f"N = {rows}, {kind}")
            dtype = getattr(torch, args.dtype)
            problem = make_problem(rows, args.dimension, kind, dtype, args.device)
            entry = {
                "rows": rows,
                "dimension": args.dimension,
                "threads": torch.get_num_threads(),
                "similarity": kind,
                "dtype": args.dtype,
                "device": args.device,
                **measure(problem, args.repeats, args.budget),
            }
            del problem
            clocks.free()
            show(entry)
            results["steps"].append(entry)
            machine.write(args.json, name, results, quiet=True)
            wrong += "native" not in entry["contenders"]
    print(f"written to {machine.target(args.json, name)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
