"""In-batch BM25 against rank_bm25 and bm25s, N docstrings of the standard library each."""

from __future__ import annotations

import random

import bench_bm25
import pytest


@pytest.fixture(scope="module")
def texts():
    found = bench_bm25.texts_of(None)
    random.Random(0).shuffle(found)
    return found


@pytest.mark.parametrize("rows", [32, 512])
@pytest.mark.parametrize("name", bench_bm25.NAMES)
def test_scores(benchmark, texts, rows, name):
    batch = texts[:rows]
    runs = bench_bm25.contenders_of(batch)
    if name not in runs:
        pytest.skip(f"{name} is not installed")
    assert max(bench_bm25.check(batch).values()) < 1e-5
    benchmark.group = f"bm25, N = {rows}"
    benchmark(runs[name])
