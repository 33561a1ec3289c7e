"""The BM25 estimator's ids and scores against the published code's loop, on random batches.

    python benchmarks/check_bm25.py [--batches 200] [--json OUT]

The loop is the one of python_tests/test_estimators_bm25_published.py, written out from its
description. Half of the batches have UniXcoder's mode token, which the published rules count as a
word. A batch whose ids differ or whose scores differ by more than 2e-5 of the largest ends the run
with status 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import machine
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_tests"))

from test_estimators_bm25_published import (  # noqa: E402
    PAD,
    Roberta,
    as_matrix,
    published_loop,
    random_batch,
)

from softnce_ext.estimators.bm25 import InBatchBM25, published_special_ids  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--json", help="result file")
    args = parser.parse_args()
    rng, skipped = np.random.default_rng(0), published_special_ids(Roberta())
    equal, largest = 0, 0.0
    for number in range(args.batches):
        rows, tokens = random_batch(rng, mode_token=bool(number % 2))
        avgdl = tokens / len(rows) + float(rng.random())  # of a larger training set
        ids = torch.tensor(rows)
        features = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
        estimator = InBatchBM25(skipped, avgdl=avgdl)
        words = estimator._words(features)
        spans = zip(words.offsets[:-1], words.offsets[1:], strict=True)
        kept = [[int(each) for each in words.ids[a:z] if each >= 0] for a, z in spans]
        wanted = np.array(published_loop(rows, avgdl))
        found = as_matrix(estimator([features, {}])).numpy()
        error = float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30))
        largest = max(largest, error)
        equal += kept == [[each for each in row if each > 3] for row in rows] and error <= 2e-5
    print(f"{equal} of {args.batches} batches equal, largest relative error {largest:.1e}")
    results = {"batches": args.batches, "equal": equal, "largest_relative_error": largest}
    machine.write(args.json, "bm25_published", results)
    return int(equal < args.batches)


if __name__ == "__main__":
    sys.exit(main())
