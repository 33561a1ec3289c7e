"""What a user waits for before anything runs: build, load, import, help.

    python benchmarks/bench_start.py [--repeats 7] [--json OUT] [--cuda]

Each figure is the median over fresh processes. `first call` is timed inside the process, from the
call to its result, torch imported before; `import` is the import of the package and of every name
of the loss beside an import of torch alone, in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import machine

CALL = """
import time, torch
query, code = torch.randn(32, 64), torch.randn(32, 64)
query.requires_grad_()
import softnce_ext as sx
begin = time.perf_counter()
sx.soft_info_nce(query, code, impl="native", alpha=1.3, beta=0.7, temperature=5.0).backward()
print(time.perf_counter() - begin)
"""
IMPORT = "import time; begin = time.perf_counter(); {}; print(time.perf_counter() - begin)"
OURS = "import torch, softnce_ext as sx; sx.soft_info_nce, sx.SoftInfoNCE, sx.PRESETS"


def seconds(code: str, **env: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def spread(values: list[float]) -> dict[str, Any]:
    return {
        "median_s": round(statistics.median(values), 4),
        "range_s": [round(min(values), 4), round(max(values), 4)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cuda", action="store_true", help="build the CUDA library too")
    parser.add_argument("--json", help="result file; default benchmarks/results/start.json")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    build, load, plain, ours, help_ = [], [], [], [], []
    seconds(CALL)  # everything in the file cache
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as cache:
            build.append(seconds(CALL, SOFTNCE_CACHE=cache))
            load.append(seconds(CALL, SOFTNCE_CACHE=cache))
        plain.append(seconds(IMPORT.format("import torch")))
        ours.append(seconds(IMPORT.format(OURS)))
        begin = time.perf_counter()
        command = [os.path.join(os.path.dirname(sys.executable), "softnce"), "--help"]
        subprocess.run(command, check=True, capture_output=True)
        help_.append(time.perf_counter() - begin)
    results["first call, builds the CPU library"] = spread(build)
    results["first call, library built"] = spread(load)
    results["import torch"] = spread(plain)
    results["import added to torch's"] = spread([a - b for a, b in zip(ours, plain, strict=True)])
    results["softnce --help, whole process"] = spread(help_)
    if args.cuda:
        with tempfile.TemporaryDirectory() as cache:
            code = (
                "import time; from softnce_ext import native; begin = time.perf_counter();"
                "native.library('_C_cuda'); print(time.perf_counter() - begin)"
            )
            values = [seconds(code, SOFTNCE_CACHE=cache, TORCH_CUDA_ARCH_LIST="9.0")]
        results["build of the CUDA library, sm_90"] = spread(values)
    for name, value in results.items():
        low, high = value["range_s"]
        print(f"{name:40s} {value['median_s']:7.3f} s ({low:.3f} to {high:.3f})")
    machine.write(args.json, "start", results)


if __name__ == "__main__":
    main()
