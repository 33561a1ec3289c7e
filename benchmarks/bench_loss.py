"""Time and memory of the whole loss step on the CPU: loss and both gradients.

    python benchmarks/bench_loss.py [--rows 512 2048] [--repeats 15] [--json OUT]

Contenders run in turn, round after round, in one process; a ratio is the median over rounds of a
contender's time by the GEMMs' time of the same round. `gemms` is the floor: the matrix products
alone (scores, similarities, two gradients), with outputs allocated beforehand. Equality of the
losses and gradients is checked before timing. Memory is what torch's allocator held at most, in a
pass of its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import machine
import torch
from torch.profiler import ProfilerActivity, profile

import softnce_ext as sx

RULE = {"alpha": 1.3, "beta": 0.7, "temperature": 5.0}
SCALE = 20.0


def inputs(rows: int, dimension: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize
    query, code, teacher_query, teacher_code = (
        unit(torch.randn(rows, dimension, generator=generator)) for _ in range(4)
    )
    return query.requires_grad_(), code.requires_grad_(), teacher_query * 8, teacher_code * 8


def native(query: Any, code: Any, teacher_query: Any, teacher_code: Any) -> torch.Tensor:
    similarity = (teacher_query, teacher_code)
    return sx.soft_info_nce(query, code, similarity, scale=SCALE, impl="native", **RULE)


def torch_path(query: Any, code: Any, teacher_query: Any, teacher_code: Any) -> torch.Tensor:
    similarity = (teacher_query, teacher_code)
    return sx.soft_info_nce(query, code, similarity, scale=SCALE, impl="torch", **RULE)


def eager(query: Any, code: Any, teacher_query: Any, teacher_code: Any) -> torch.Tensor:
    """Write the loss as a careful user of torch would."""
    n = len(query)
    scores = SCALE * query @ code.T
    with torch.no_grad():
        diagonal = torch.eye(n, dtype=torch.bool)
        z = (teacher_query @ teacher_code.T / RULE["temperature"]).masked_fill_(
            diagonal, float("-inf")
        )
        share = torch.softmax(z, dim=1)
        normaliser = RULE["beta"] - RULE["alpha"] / (n - 1)
        weight = ((RULE["beta"] - RULE["alpha"] * share) / normaliser).clamp_(min=0.1)
        weight.fill_diagonal_(1)
        bias = weight.log_()
    return torch.nn.functional.cross_entropy(scores + bias, torch.arange(n))


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "native": native,
    "torch path": torch_path,
    "eager": eager,
}


def step(loss: Callable[..., torch.Tensor], data: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    value = loss(*data)
    return [value.detach(), *torch.autograd.grad(value, data[:2])]


def accuracy(rows: int, dimension: int) -> dict[str, Any]:
    """Return each contender's error against float64, by type: loss, grad_query, grad_code.

    The loss's is relative, a gradient's in parts of its largest value. The truth is computed from
    the inputs as rounded to the type.
    """
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        data = [part.detach().to(dtype) for part in inputs(rows, dimension)]
        sides = [part.requires_grad_(i < 2) for i, part in enumerate(data)]
        wanted = step(
            eager, tuple(p.detach().double().requires_grad_(i < 2) for i, p in enumerate(data))
        )
        for name, loss in LOSSES.items():
            got = step(loss, tuple(sides))
            found[f"{name}, {str(dtype)[6:]}"] = [
                float((a.double() - b).abs().max() / b.abs().max())
                for a, b in zip(got, wanted, strict=True)
            ]
    return found


def gemms(data: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    query, code, teacher_query, teacher_code = (part.detach() for part in data)
    n = len(query)
    scores, similarity = torch.empty(n, n), torch.empty(n, n)
    grad_query, grad_code = torch.empty_like(query), torch.empty_like(code)

    def run() -> None:
        torch.mm(query, code.T, out=scores)
        torch.mm(teacher_query, teacher_code.T, out=similarity)
        torch.mm(scores, code, out=grad_query)
        torch.mm(scores.T, query, out=grad_code)

    return run


def time_rounds(rows: int, dimension: int, repeats: int) -> dict[str, Any]:
    data = inputs(rows, dimension)
    wanted = step(
        eager, tuple(part.detach().double().requires_grad_(i < 2) for i, part in enumerate(data))
    )
    errors = {}
    for name, loss in LOSSES.items():
        got = step(loss, data)
        errors[name] = [
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, wanted, strict=True)
        ]
        assert errors[name][0] < 2e-6 and max(errors[name][1:]) < 1e-5, (name, errors[name])
    runs = {"gemms": gemms(data)}
    runs |= {name: (lambda loss=loss: step(loss, data)) for name, loss in LOSSES.items()}
    inner = max(1, int(0.05 / _seconds(runs["gemms"])))  # a round lasts at least 50 ms
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(_seconds(lambda run=run: [run() for _ in range(inner)]) / inner)
    ratios = {
        name: sorted(a / b for a, b in zip(values, times["gemms"], strict=True))
        for name, values in times.items()
    }
    return {
        name: {
            "time_ms": 1e3 * statistics.median(times[name]),
            "over_gemms": statistics.median(ratios[name]),
            "over_gemms_quartiles": [ratios[name][repeats // 4], ratios[name][-1 - repeats // 4]],
            "relative_error": errors.get(name),
        }
        for name in runs
    }


def _seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def peak_bytes(name: str, rows: int, dimension: int) -> int:
    """Return the most that torch had allocated during a step, beside inputs and gradients."""
    data = inputs(rows, dimension)
    step(LOSSES[name], data)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        grads = step(LOSSES[name], data)[1:]
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak - sum(grad.nbytes for grad in grads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 512, 1024, 2048, 4096])
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", help="result file; default benchmarks/results/loss_cpu.json")
    args = parser.parse_args()
    results = []
    for rows in args.rows:
        entry: dict[str, Any] = {
            "rows": rows,
            "dimension": args.dimension,
            "threads": torch.get_num_threads(),
        }
        entry["contenders"] = time_rounds(rows, args.dimension, args.repeats)
        for name in LOSSES:
            peak = peak_bytes(name, rows, args.dimension)
            entry["contenders"][name]["peak_in_blocks"] = peak / (4 * 512 * rows)
            entry["contenders"][name]["peak_mib"] = peak / 2**20
        results.append(entry)
        print(f"N = M = {rows}, D = {args.dimension}, fp32, {entry['threads']} threads")
        for name, row in entry["contenders"].items():
            low, high = row["over_gemms_quartiles"]
            peak = row.get("peak_in_blocks")
            print(
                f"  {name:12s} {row['time_ms']:9.3f} ms   {row['over_gemms']:.3f} x the GEMMs "
                f"({low:.3f} to {high:.3f})"
                + (f"   peak {peak:.2f} x 512 x {rows} floats" if peak is not None else "")
            )
    errors = accuracy(max(args.rows), args.dimension)
    print(f"errors against float64 at N = {max(args.rows)}: loss, grad_query, grad_code")
    for name, values in errors.items():
        print(f"  {name:20s} " + " ".join(f"{value:.1e}" for value in values))
    machine.write(args.json, "loss_cpu", {"steps": results, "errors": errors})


if __name__ == "__main__":
    main()
