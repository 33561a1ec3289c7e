"""`softnce evaluate`: how well an encoder ranks the code that belongs to a sentence."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import positive_int

if TYPE_CHECKING:
    from ..data.pairs import Pair, Pairs

# Below some ten clusters a bootstrap over them is known to promise too much.
_FEW_PACKAGES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="folder or hub name of an encoder")
    parser.add_argument(
        "--data",
        metavar="PATH",
        type=Path,
        required=True,
        help="folder of Python source, or .jsonl(.gz) file or folder, CodeSearchNet's included",
    )
    parser.add_argument(
        "--partition",
        choices=("train", "valid", "test", "all"),
        help="the rows to use (default: test where the data names it, else all)",
    )
    parser.add_argument(
        "--cutoff", type=positive_int, help="count ranks beyond this as 0 (the paper: 1000)"
    )
    parser.add_argument(
        "--ties",
        choices=("optimistic", "mean", "pessimistic"),
        default="mean",
        help="where the gold code stands among equal scores (default: mean)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        help="texts encoded at once (default: what suits the model)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table, or the same as JSON."""
    from ..data.formats import read_pairs
    from ..encoders.saved import load_encoder
    from ..evaluation.evaluate import evaluate_model, result_row
    from .table import metric_table, print_json

    start = time.perf_counter()
    read = read_pairs(args.data)
    partition, pairs = _choose(read, args.partition)
    if not pairs:
        raise ValueError(f"{args.data} holds no (documentation, function) pair to evaluate on")
    model, settings = load_encoder(args.model)
    outcomes = evaluate_model(
        model,
        pairs,
        name_boost=settings.name_boost,
        hybrid_weight=settings.hybrid_weight,
        batch_size=args.batch_size,
        progress=True,
    )
    seen = _count_trained_on(args.model, pairs)
    packages = [pair.package for pair in pairs]
    results = [
        result_row(outcome, packages, cutoff=args.cutoff, ties=args.ties) for outcome in outcomes
    ]
    split = {
        "data": str(args.data),
        "partition": partition,
        "pairs": len(pairs),
        "packages": len(set(packages)),
        "trained_on": seen,
    }
    if args.json:
        print_json(
            {
                "results": results,
                "split": split,
                "cutoff": args.cutoff,
                "ties": args.ties,
                "hybrid_weight": settings.hybrid_weight,
                "seconds": time.perf_counter() - start,
            }
        )
        return 0
    print(f"{len(pairs)} queries against {len(pairs)} functions of {split['packages']} packages")
    print(metric_table(results))
    for note in _notes(results, len(set(packages))):
        print(note)
    if seen:
        print(f"{seen} of the {len(pairs)} pairs are ones the model was trained on.")
    return 0


def _choose(pairs: Pairs, partition: str | None) -> tuple[str, list[Pair]]:
    """Return the name of the partition and its pairs."""
    if partition is None:
        partition = "test" if "test" in pairs.partitions.values() else "all"
    if partition == "all":
        return partition, list(pairs)
    return partition, [pair for pair in pairs if pairs.partitions.get(pair) == partition]


def _count_trained_on(model: str, pairs: list[Pair]) -> int:
    """Return how many pairs the manifest beside a model of ours names as its training pairs."""
    from ..data.manifest import read_manifest
    from ..data.pairs import pair_hash

    manifest = Path(model) / "manifest.json"
    if not manifest.is_file():
        return 0
    trained = set(read_manifest(manifest)["train"]["pairs"])
    return sum(pair_hash(pair) in trained for pair in pairs)


def _notes(results: list[dict[str, Any]], packages: int) -> list[str]:
    """What a reader of the table should know about its figures."""
    notes = []
    if packages == 1:
        notes.append(
            "Intervals resample queries, since all are of one package: they are too narrow."
        )
    elif packages < _FEW_PACKAGES:
        notes.append(f"Intervals over {packages} packages are rough.")
    for result in results:
        low, high = result["mrr_pessimistic"], result["mrr_optimistic"]
        if high - low > 1e-4:
            notes.append(
                f"Ties: {result['name']} has an MRR of {low:.4f} to {high:.4f} by their rule."
            )
    return notes
