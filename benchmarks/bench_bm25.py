"""Time of in-batch BM25 on the CPU: N docstrings against each other, statistics included.

    python benchmarks/bench_bm25.py [--data ROWS.jsonl.gz] [--rows 32 512 2048] [--json OUT]

Texts are the first paragraphs of docstrings: of the standard library's, or of the rows' field
"docstring". Each contender gets token ids in the form it likes best, and in a call indexes the N
texts and scores them as queries. Contenders run in turn, round after round, in one process; who
is not installed is left out. Equality with rank_bm25 (okapi) and bm25s (lucene) is checked before
timing.

Times and ratios are medians, of CPU time for contenders of one thread, so that other work on the
machine does not count, and of wall time for ours on the pool.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import importlib.metadata
import json
import os
import random
import re
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import numpy as np

from softnce_ext.bm25 import BM25, TokenIds

try:
    import bm25s
except ImportError:
    bm25s = None
try:
    from rank_bm25 import BM25Okapi
except ImportError:
    BM25Okapi = None

K1, B = 1.5, 0.75
OURS, POOL, BM25S, RANK_BM25 = NAMES = (
    "ours, 1 thread",
    "ours, pool",
    "bm25s, numba",
    "rank_bm25",
)
DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
Batch = list[list[int]]


def docstrings(data: Path | None) -> Iterator[str]:
    if data is None:
        for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
            if {"site-packages", "test", "tests", "idlelib"} & set(path.parts):
                continue
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, DOCUMENTED):
                    yield ast.get_docstring(node) or ""
    else:
        with (gzip.open if data.suffix == ".gz" else open)(data, "rt", encoding="utf-8") as rows:
            for row in rows:
                yield json.loads(row)["docstring"]


def texts_of(data: Path | None) -> Batch:
    numbers: dict[str, int] = {}
    paragraphs = [text.strip().split("\n\n")[0].lower() for text in docstrings(data)]
    texts = (re.findall(r"\w+", paragraph) for paragraph in paragraphs)
    return [
        [numbers.setdefault(word, len(numbers)) for word in words]
        for words in texts
        if len(words) >= 3
    ]


def ours(batch: Batch, threads: int | None) -> Callable[[], np.ndarray]:
    ids = np.array([token for text in batch for token in text], np.int32)
    texts = TokenIds(ids, np.cumsum([0, *map(len, batch)]))
    model = BM25(K1, B, "okapi", threads=threads)
    return lambda: model.scores(texts)


def rank_bm25(batch: Batch) -> Callable[[], list[np.ndarray]]:
    def run() -> list[np.ndarray]:
        index = BM25Okapi(batch, k1=K1, b=B)
        return [index.get_scores(query) for query in batch]

    return run


def numba_bm25s(batch: Batch) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Index and retrieve the N - 1 best of N (this backend gives no whole rows)."""
    numbers: dict[int, int] = {}
    local = [[numbers.setdefault(token, len(numbers)) for token in text] for text in batch]
    vocabulary = {str(number): number for number in numbers.values()}

    def run() -> tuple[np.ndarray, np.ndarray]:
        index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numba")
        index.index((local, vocabulary), show_progress=False)
        found = index.retrieve(local, k=len(batch) - 1, show_progress=False, n_threads=1)
        return found.documents, found.scores

    return run


def contenders_of(batch: Batch) -> dict[str, Callable[[], Any]]:
    runs: dict[str, Callable[[], Any]] = {OURS: ours(batch, 1), POOL: ours(batch, None)}
    if bm25s is not None:
        runs[BM25S] = numba_bm25s(batch)
    if BM25Okapi is not None:
        runs[RANK_BM25] = rank_bm25(batch)
    return runs


def check(batch: Batch) -> dict[str, float]:
    """Return each contender's largest difference from ours, in parts of the largest score."""
    scores = ours(batch, 1)()
    errors = {POOL: float(np.abs(ours(batch, None)() - scores).max())}
    assert errors[POOL] == 0
    if BM25Okapi is not None:
        expected = np.array(rank_bm25(batch)())
        errors[RANK_BM25] = float(np.abs(scores - expected).max() / np.abs(expected).max())
    if bm25s is not None:
        documents, found = numba_bm25s(batch)()
        scores = BM25(K1, B, "lucene").scores(batch)
        wanted = np.take_along_axis(scores, documents.astype(np.int64), axis=1)
        errors[BM25S] = float(np.abs(wanted - found).max() / scores.max())
    assert max(errors.values()) < 1e-5, errors
    return errors


def time_rounds(batch: Batch, rounds: int) -> dict[str, Any]:
    errors = check(batch)
    runs = contenders_of(batch)
    clocks = {name: time.process_time for name in runs} | {POOL: time.perf_counter}
    inner = {}
    for name, run in runs.items():
        run()
        inner[name] = max(1, round(0.05 / _seconds(run, time.perf_counter, 3)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(_seconds(run, clocks[name], inner[name]))
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {
            "time_ms": 1e3 * median[name],
            "times_ms": [1e3 * value for value in times[name]],
            "clock": "wall" if name == POOL else "cpu",
            "ratio": median[name] / median[OURS],
            "error": errors.get(name, 0.0),
        }
        for name in runs
    }


def _seconds(run: Callable[[], Any], clock: Callable[[], float], calls: int) -> float:
    begin = clock()
    for _ in range(calls):
        run()
    return (clock() - begin) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="CodeSearchNet rows, .jsonl or .jsonl.gz")
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 512, 2048])
    parser.add_argument("--rounds", type=int, help="default: 15, 7 from 512 rows, 3 from 2048")
    parser.add_argument("--json", help="result file; default benchmarks/results/bm25_cpu.json")
    args = parser.parse_args()
    texts = texts_of(args.data)
    if len(texts) < max(args.rows):
        parser.error(f"--data must hold {max(args.rows)} docstrings, got {len(texts)}")
    random.Random(0).shuffle(texts)
    results = []
    for rows in args.rows:
        batch = texts[:rows]
        rounds = args.rounds or (15 if rows < 512 else 7 if rows < 2048 else 3)
        words = sum(map(len, batch)) / rows
        entry = {"rows": rows, "words_per_text": words, "rounds": rounds}
        entry["contenders"] = time_rounds(batch, rounds)
        results.append(entry)
        print(f"{rows} docstrings of {words:.1f} words")
        for name, facts in entry["contenders"].items():
            print(f"  {name:15} {facts['time_ms']:10.4f} ms {facts['ratio']:8.1f} x")
    packages = ["numba"] + ["bm25s"] * (bm25s is not None)
    packages += ["rank-bm25"] * (BM25Okapi is not None)
    versions = {name: importlib.metadata.version(name) for name in packages}
    data = args.data.name if args.data else "standard library"
    found = {"data": data, "versions": versions, "load": os.getloadavg()[0], "batches": results}
    machine.write(args.json, "bm25_cpu", found)


if __name__ == "__main__":
    main()
