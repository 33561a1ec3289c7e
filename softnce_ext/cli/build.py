"""`softnce build`: build the native ops ahead of the first call."""

from __future__ import annotations

import argparse
import json
import sys
import time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--cuda",
        action="store_true",
        help="build the CUDA kernels too where no GPU is found, for an image or another machine "
        "(needs nvcc; TORCH_CUDA_ARCH_LIST chooses the GPUs); beside a GPU they always are",
    )
    parser.add_argument(
        "--cpu-only", action="store_true", help="build the CPU kernels alone, also beside a GPU"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Build, and print where each library lies and how long it took."""
    from .. import native

    if args.cuda and args.cpu_only:
        raise ValueError("--cuda and --cpu-only exclude each other")
    names = ["_C"]
    if args.cuda or (native.gpus() and not args.cpu_only):
        names.append("_C_cuda")
    results = {}
    for name in names:
        print(f"building {name} (or finding it built) ...", file=sys.stderr)
        begin = time.perf_counter()
        path = native.library(name)
        results[name] = {"path": str(path), "seconds": round(time.perf_counter() - begin, 2)}
    if args.json:
        print(json.dumps({"libraries": results}))
    else:
        for name, result in results.items():
            print(f"{name}: {result['path']} ({result['seconds']} s)")
    return 0
