"""Run the main job as README shows it, once per seed, and a search on its model.

    python benchmarks/bench_train.py [--seeds 0 1 2] [--json OUT]

Each run is `softnce train` in a folder of its own; the first seed's printed output is what README
shows. The search is over pip's own source, which is in every environment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

SEARCH = ["read the lines of a file into a list", "--code", "pip", "--top", "2"]


def softnce(*words: str, cwd: str) -> tuple[list[str], float]:
    command = [os.path.join(os.path.dirname(sys.executable), "softnce"), *words]
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout.rstrip().splitlines(), time.perf_counter() - begin


def one_seed(seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        printed, wall = softnce("train", "--seed", str(seed), cwd=folder)
        model = Path(folder) / "softnce-model"
        report = json.loads((model / "metrics.json").read_text())
        site = sysconfig.get_path("purelib")
        found, _ = softnce("search", str(model), *SEARCH, cwd=site)
    for part in ("train", "valid", "test"):
        report["split"][part]["packages"] = len(report["split"][part]["packages"])
    kept = ("results", "differences", "hybrid_weight", "training", "seconds", "settings", "split")
    return {
        "seed": seed,
        "wall_s": round(wall, 1),
        "printed": printed,
        "search": found,
        **{name: report[name] for name in kept},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", help="result file; default benchmarks/results/train.json")
    args = parser.parse_args()
    runs = []
    for seed in args.seeds:
        runs.append(one_seed(seed))
        print(f"seed {seed}: {runs[-1]['wall_s']} s")
        print("\n".join(runs[-1]["printed"]))
    first = runs[0]
    results = {"printed": first.pop("printed"), "search": first.pop("search"), "runs": runs}
    machine.write(args.json, "train", results)


if __name__ == "__main__":
    main()
