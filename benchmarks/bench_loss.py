"""Time and memory of the whole loss step: loss and both gradients.

    python benchmarks/bench_loss.py [--rows 512 2048] [--repeats 15] [--json OUT]
    python benchmarks/bench_loss.py --device cuda [--dtype bfloat16] [--similarity none teacher]

Contenders (contenders.py) run in turn, round after round, each round beginning with another one,
in one process; a ratio is the median over rounds of a contender's time by another's of the same
round. `gemms` is the floor: the matrix products alone (scores, similarities, two gradients), with
outputs allocated beforehand. The process has freed a large tensor first. Losses and gradients are
checked before anything is timed; who is not measured is listed with the reason. Memory is what
torch's allocator held at most, in a pass of its own. The file is written after every size.
clocks.py says what the times are.

`--append` adds sizes, and contenders to sizes, to a file measured on the same kind of machine at
the same commit; ratios are always those of the run a contender took part in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import clocks
import contenders
import machine
import torch
from floor import floor_ms, gemms
from problem import KINDS, NONE, TEACHER, Problem, make_problem
from truth import accuracy, errors_of, truth, within


class Size:
    """One problem: its contenders checked, weighed and timed."""

    def __init__(self, problem: Problem, names: list[str], too_slow: dict[str, str]) -> None:
        self.problem, self.device = problem, problem.device.type
        self.facts: dict[str, dict[str, Any]] = {"gemms": {"relative_error": None}}
        self.steps, self.absent = contenders.steps(
            problem, [name for name in names if name not in too_slow]
        )
        self.absent |= too_slow

    def run(self, repeats: int, budget_s: float, graph_rows: int) -> None:
        wanted = truth(self.problem)
        clocks_of = {}
        run = gemms(self.problem)
        for _ in range(2):
            run()
        capture = self.device == "cuda" and len(self.problem.query) <= graph_rows
        clocks_of["gemms"] = clocks.make_clock(run, self.device, capture=capture)
        for name in self.steps:
            progress(f"{name}: held to the truth and weighed")
            reason = self._check(name, wanted)
            if reason is not None:
                self.absent[name] = reason
        del wanted
        clocks.free()
        for name in list(self.facts)[1:]:
            own = contenders.CONTENDERS[name].own_graphs
            progress(f"{name}: its clock is made")
            try:
                clocks_of[name] = clocks.make_clock(
                    self.steps[name], self.device, capture=capture and not own
                )
            except RuntimeError as error:
                self.absent[name] = clocks.first_line(error)
        progress(f"{len(clocks_of)} contenders in turn, {repeats} rounds")
        times, failed = clocks.take_turns(clocks_of, repeats, budget_s)
        self.absent |= failed
        self.facts = {
            name: self._figures(times, name, clocks_of[name]) | self.facts[name] for name in times
        }

    def _check(self, name: str, wanted: list[torch.Tensor]) -> str | None:
        """Hold a contender to the truth and weigh it; return why it is not to be timed."""
        step, reason = self.steps[name], None
        try:
            errors = errors_of(step(), wanted)
            peak = clocks.peak_bytes(step, self.device)
        except Exception as error:  # whatever a compiler or a foreign package throws
            reason = clocks.first_line(error)
        if reason is not None:
            clocks.free()  # only now: the error's frames held the tensors
            return reason
        if not within(self.problem, errors):
            return "differs from the truth: " + " ".join(f"{error:.1e}" for error in errors)
        self.facts[name] = {"relative_error": errors}
        if not contenders.CONTENDERS[name].own_graphs:  # whose memory a graph holds for good
            block = 4 * 512 * len(self.problem.query)
            self.facts[name] |= {"peak_in_blocks": peak / block, "peak_mib": peak / 2**20}
        return None

    def _figures(
        self, times: dict[str, clocks.Times], name: str, clock: clocks.Clock
    ) -> dict[str, Any]:
        mine = times[name]
        over_gemms, quartiles = clocks.ratio(mine.seconds, times["gemms"].seconds)
        figures: dict[str, Any] = {
            "time_ms": 1e3 * statistics.median(mine.seconds),
            "over_gemms": over_gemms,
            "over_gemms_quartiles": quartiles,
            "rounds": len(mine.seconds),
            "clock": clock.kind,
        }
        if clock.note is not None:
            figures["not_captured"] = clock.note
        if "native" in times:
            ours = times["native"]
            figures["over_native"], figures["over_native_quartiles"] = clocks.ratio(
                mine.seconds, ours.seconds
            )
            if mine.wall and ours.wall:
                figures["wall_over_native"], _ = clocks.ratio(mine.wall, ours.wall)
        if mine.wall:
            figures["wall_ms"] = 1e3 * statistics.median(mine.wall)
        return figures


def progress(text: str) -> None:
    """Say what is being done, beside the results: a size may take minutes."""
    print(f"  ... {text}", file=sys.stderr, flush=True)


def show(entry: dict[str, Any]) -> None:
    print(
        f"N = M = {entry['rows']}, D = {entry['dimension']}, {entry['similarity']}, "
        f"{entry['dtype']}, {entry['device']}, {entry['threads']} threads"
    )
    for name, row in entry["contenders"].items():
        low, high = row["over_gemms_quartiles"]
        line = f"  {name:24s} {row['time_ms']:10.4f} ms  {row['over_gemms']:7.3f} x the GEMMs "
        line += f"({low:.3f} to {high:.3f})"
        if "wall_ms" in row:
            line += f"  wall {row['wall_ms']:.4f} ms, {row['clock']}"
        if "peak_mib" in row:
            line += f"  peak {1024 * row['peak_mib']:,.0f} KiB"
        print(line)
    for name, reason in entry["absent"].items():
        print(f"  {name:24s} not measured: {reason}")
    sys.stdout.flush()


class Steps:
    """The entries of a result file, written anew after every size."""

    KEY = ("rows", "dimension", "similarity", "dtype", "device", "tf32")
    SAME = ("commit", "torch", "gpu", "driver", "processor")

    def __init__(self, path: str | None, device: str, append: bool) -> None:
        self.path, self.name = path, f"loss_{device}"
        self.results: dict[str, Any] = {"steps": [], "errors": {}}
        file = machine.target(path, self.name)
        if append and file.is_file():
            before, now = json.loads(file.read_text()), machine.facts()
            other = [key for key in self.SAME if before["machine"].get(key) != now[key]]
            if other:
                print(f"begun anew: {file} was measured with another {', '.join(other)}")
            else:
                self.results |= before["results"]

    def add(self, entry: dict[str, Any]) -> None:
        for old in self.results["steps"]:
            if all(old.get(key) == entry[key] for key in self.KEY):
                fresh = entry["contenders"].items()
                new = {name: row for name, row in fresh if name not in old["contenders"]}
                old["contenders"] |= new
                reasons = old["absent"] | entry["absent"]
                old["absent"] = {k: v for k, v in reasons.items() if k not in old["contenders"]}
                break
        else:
            self.results["steps"].append(entry)
        self.flush()

    def flush(self, quiet: bool = True) -> None:
        machine.write(self.path, self.name, self.results, quiet=quiet)


def slow(
    seen: dict[tuple[str, str], tuple[int, float]], kind: str, rows: int, limit: float
) -> dict[str, str]:
    """Return who would take longer than `limit` seconds a step, told from the largest size seen."""
    found = {}
    for (other, name), (last, seconds) in seen.items():
        guess = seconds * (rows / last) ** 2
        if other == kind and name != "gemms" and guess > limit:
            found[name] = f"a step would take about {guess:.0f} s, told from {last} rows"
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", help="default: 64 to 8192")
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", help="result file; default benchmarks/results/loss_DEVICE.json")
    parser.add_argument("--append", action="store_true", help="add to an existing result file")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: fp32, CUDA bf16"
    )
    parser.add_argument("--similarity", choices=KINDS, nargs="+", default=[TEACHER, NONE])
    names = list(contenders.CONTENDERS)
    parser.add_argument("--contenders", choices=names, nargs="+", default=names)
    parser.add_argument("--skip", choices=names, nargs="+", default=[])
    parser.add_argument("--budget", type=float, default=20.0, help="seconds a contender and size")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds a step may take")
    parser.add_argument("--graph-rows", type=int, default=2048, help="CUDA graphs up to this size")
    parser.add_argument("--tf32", action="store_true", help="fp32 products in TF32, for all")
    args = parser.parse_args()
    args.rows = args.rows or [64, 512, 1024, 2048, 4096, 8192]
    args.dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    return args


def main() -> int:
    args = parse()
    machine.need(args.device)
    torch.set_float32_matmul_precision("high" if args.tf32 else "highest")
    # As in any process that has trained a while: glibc takes from the largest block freed (of up to
    # 32 MiB) how much memory it keeps; until then steps of N = 512 hand theirs back each time, and
    # a thousand page faults are timed.
    torch.empty(31 << 20, dtype=torch.uint8)
    names = [name for name in args.contenders if name not in args.skip]
    steps = Steps(args.json, args.device, args.append)
    seen: dict[tuple[str, str], tuple[int, float]] = {}
    wrong = []
    for rows in args.rows:
        for kind in args.similarity:
            entry: dict[str, Any] = {
                "rows": rows,
                "dimension": args.dimension,
                "threads": torch.get_num_threads(),
                "similarity": kind,
                "dtype": args.dtype,
                "device": args.device,
                "tf32": args.tf32,
                "contenders": {},
                "absent": {},
            }
            progress(f"N = M = {rows}, {kind}")
            try:
                dtype = getattr(torch, args.dtype)
                problem = make_problem(rows, args.dimension, kind, dtype, args.device)
                size = Size(problem, names, slow(seen, kind, rows, args.limit))
                size.run(args.repeats, args.budget, args.graph_rows)
                entry |= {"contenders": size.facts, "absent": size.absent}
                entry["floor_ms"] = floor_ms(problem)
                for name, facts in size.facts.items():
                    last = seen.get((kind, name), (0, 0.0))
                    seen[kind, name] = max(last, (rows, facts["time_ms"] / 1e3))
                del problem, size
            except torch.OutOfMemoryError as error:  # not even the inputs and the truth fit
                entry["absent"] = dict.fromkeys(names, clocks.first_line(error))
            clocks.free()
            steps.add(entry)
            show(entry)
            if "native" in entry["absent"]:
                wrong.append(f"{rows} {kind}: {entry['absent']['native']}")
    rows = min(max(args.rows), 4096)
    steps.results["errors"] = accuracy(rows, args.dimension, args.device)
    print(f"errors against float64 at N = {rows}: loss, grad_query, grad_code")
    for name, values in steps.results["errors"].items():
        print(f"  {name:20s} " + " ".join(f"{value:.1e}" for value in values))
    steps.flush(quiet=False)
    for reason in wrong:
        print(f"ours was not measured at {reason}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
