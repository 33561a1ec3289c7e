"""What each rank's CPU does beside the GPU in a step of SoftInfoNCELoss: seconds of all N rows.

    python benchmarks/bench_host.py [--rows 4096 65536] [--repeats 5] [--json OUT]

Texts are drawn, of 20 and 120 tokens on average. `fingerprints` is of a rank's own rows alone,
`duplicates` and `BM25` are of all ranks' rows, on every rank. Wall time, medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import machine
import numpy as np
import torch

from softnce_ext.bm25 import TokenIds
from softnce_ext.estimators.bm25 import InBatchBM25
from softnce_ext.estimators.duplicates import count_masked, duplicate_groups, fingerprints

LENGTHS = (20, 120)  # tokens of a query and of a code
VOCABULARY = 4000


def draw(rows: int, length: int, random: np.random.Generator) -> TokenIds:
    lengths = random.integers(length // 2, length * 3 // 2, rows)
    ids = random.zipf(1.3, lengths.sum()) % VOCABULARY + 1
    return TokenIds(ids.astype(np.int64), np.append(0, np.cumsum(lengths)))


def parts(rows: int) -> dict[str, Callable[[], Any]]:
    random = np.random.default_rng(0)
    columns = [draw(rows, length, random) for length in LENGTHS]
    prints = [fingerprints(column) for column in columns]
    query = columns[0]
    starts = torch.from_numpy(query.offsets[:-1])
    features = [{"input_ids": torch.from_numpy(query.ids), "offsets": starts}]
    estimator = InBatchBM25()
    return {
        "fingerprints": lambda: [fingerprints(column) for column in columns],
        "duplicates": lambda: count_masked(*duplicate_groups(prints)),
        "BM25": lambda: estimator(features),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[4096, 32768, 262144])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="result file; default benchmarks/results/host.json")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    for rows in args.rows:
        taken = {}
        for name, call in parts(rows).items():
            call()  # numba compiles
            seconds = []
            for _ in range(args.repeats):
                begin = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - begin)
            taken[name] = statistics.median(seconds)
        results.append({"rows": rows, "seconds": taken})
        print(rows, {name: f"{1e3 * each:.1f} ms" for name, each in taken.items()})
    machine.write(args.json, "host", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
