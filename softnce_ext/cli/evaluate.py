"""`softnce evaluate`: how well an encoder ranks the code that belongs to a sentence."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .arguments import positive_int

if TYPE_CHECKING:
    from ..data.pairs import Pair
    from ..evaluation.files import Read
    from ..evaluation.judgements import Judgements


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="folder or hub name of an encoder")
    parser.add_argument(
        "--data",
        metavar="PATH",
        type=Path,
        help="queries and their codes: folder of source, .jsonl(.gz) file or folder,"
        " CodeSearchNet's included, or what `softnce prepare csn` wrote for a language",
    )
    parser.add_argument(
        "--partition",
        choices=("train", "valid", "test", "all"),
        help="the rows to use (default: test where the data names it, else all)",
    )
    parser.add_argument(
        "--form",
        choices=("source", "tokens"),
        help="of a prepared folder: code as it stands, or CodeSearchNet's tokens joined by blanks,"
        " as CodeBERT and UniXcoder were trained and measured on (default: what MODEL was trained"
        " on)",
    )
    parser.add_argument(
        "--codebase",
        metavar="PATH",
        type=Path,
        help="rank the codes among these functions too: folder of source or .jsonl(.gz)"
        " file of rows with code (and url)",
    )
    parser.add_argument(
        "--relevance",
        metavar="FILE",
        type=Path,
        help="rank for queries with several graded codes each: .csv or .jsonl of query, url and"
        " grade (0 to 3), as CodeSearchNet's annotations",
    )
    parser.add_argument(
        "--skip-unknown",
        action="store_true",
        help="leave out judged urls that the code base does not hold, instead of refusing them",
    )
    parser.add_argument(
        "--compare",
        metavar="MODEL",
        help="evaluate this encoder too, and say whether the first one is better",
    )
    parser.add_argument(
        "--recall",
        metavar="K",
        type=positive_int,
        nargs="+",
        help="how many codes recall looks at (default: 1 5 10)",
    )
    parser.add_argument(
        "--ndcg",
        metavar="K",
        type=positive_int,
        nargs="+",
        help="how many codes nDCG looks at (default: 10)",
    )
    parser.add_argument(
        "--cutoff",
        type=positive_int,
        help="count ranks beyond this as 0 in the MRR (default: none; 1000, the paper's, for what"
        " `softnce prepare csn` wrote, as `softnce train` does)",
    )
    parser.add_argument(
        "--ties",
        choices=("optimistic", "mean", "pessimistic"),
        default="mean",
        help="where a code stands among equal scores (default: mean)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        help="texts encoded at once (default: what suits the model)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the tables, or the same as JSON."""
    if args.data is None and (args.relevance is None or args.codebase is None):
        args.usage_error("needs --data, or --relevance with --codebase")
    from ..encoders.saved import settings_of
    from ..evaluation.files import read_task
    from ..evaluation.graded import check_depths
    from ..evaluation.judgements import judgements_of, read_judgements
    from .table import print_json

    start = time.perf_counter()
    form = args.form or settings_of(args.model).form
    read = read_task(args.data, args.codebase, partition=args.partition, form=form)
    if args.cutoff is None:
        args.cutoff = read.cutoff
    for name in ("recall", "ndcg"):
        check_depths(name, getattr(args, name) or (), len(read.base))
    judgements = None
    if args.relevance is not None:
        if not read.base.urls:
            raise ValueError(
                "--relevance needs --codebase or a prepared folder, whose functions the urls name"
            )
        rows = read_judgements(args.relevance)
        judgements = judgements_of(
            rows, read.base.urls, unknown="skip" if args.skip_unknown else "error"
        )
    theirs = read
    if args.compare is not None and args.form is None:
        form = settings_of(args.compare).form
        if form != settings_of(args.model).form:
            theirs = read_task(args.data, args.codebase, partition=args.partition, form=form)
    report = _evaluate(args, read, theirs, judgements)
    report["seconds"] = time.perf_counter() - start
    if args.json:
        print_json(report)
    else:
        _print(report)
    return 0


def _evaluate(
    args: argparse.Namespace, read: Read, theirs: Read, judgements: Judgements | None
) -> dict[str, Any]:
    """Return everything that is printed, ready for JSON; `theirs` is what --compare reads."""
    from ..evaluation.figures import difference_rows

    one = _rank(args, args.model, read, judgements)
    packages = read.task.packages if read.task else []
    report: dict[str, Any] = {
        "results": one.rows,
        "graded": None,
        "split": {
            "data": None if args.data is None else str(args.data),
            "partition": read.partition,
            "pairs": len(read.pairs),
            "functions": len(read.base),
            "packages": len(set(packages)),
            "repeated": dict(read.repeated),
            "trained_on": _count_trained_on(args.model, read.pairs),
        },
        "cutoff": args.cutoff,
        "ties": args.ties,
        "hybrid_weight": one.hybrid_weight,
        "comparison": None,
    }
    if judgements is not None:
        report["graded"] = {
            "results": one.graded_rows,
            "queries": len(judgements.queries),
            "judgements": len(judgements.query),
            "left_out": judgements.left_out,
        }
    if args.compare is not None:
        other = _rank(args, args.compare, theirs, judgements, ("dense", "hybrid"), args.compare)
        one.rows.extend(other.rows)
        one.graded_rows.extend(other.graded_rows)
        report["comparison"] = {
            "model": args.compare,
            "hybrid_weight": other.hybrid_weight,
            "trained_on": _count_trained_on(args.compare, theirs.pairs),
            "differences": {
                name: difference_rows(one.figures[name], other.figures[name], packages or None)
                for name in other.figures
            },
            "graded_differences": {
                name: difference_rows(one.graded[name], other.graded[name]) for name in other.graded
            },
        }
    return report


class _Ranked(NamedTuple):
    """One model's results; figures per query by system."""

    rows: list[dict[str, Any]]
    figures: dict[str, Mapping[str, Any]]
    graded_rows: list[dict[str, Any]]
    graded: dict[str, Mapping[str, Any]]
    hybrid_weight: float


def _rank(
    args: argparse.Namespace,
    model_name: str,
    read: Read,
    judgements: Judgements | None,
    names: Sequence[str] = ("dense", "lexical", "lexical+", "hybrid"),
    label: str = "",
) -> _Ranked:
    from ..encoders.saved import check_language, load_encoder
    from ..evaluation.evaluate import Systems
    from ..evaluation.figures import NDCG_AT, RECALL_AT, graded_figures, graded_row, result_row
    from ..evaluation.graded import judged_counts
    from ..evaluation.ranking import counts_from_scores

    model, settings = load_encoder(model_name)
    check_language(model, read.languages, f"model {model_name}")
    systems = Systems(
        model,
        read.base,
        name_boost=settings.name_boost,
        hybrid_weight=settings.hybrid_weight,
        batch_size=args.batch_size,
        progress=True,
    )
    options = {"cutoff": args.cutoff, "ties": args.ties, "recall": args.recall or RECALL_AT}
    found = _Ranked([], {}, [], {}, settings.hybrid_weight)
    if (task := read.task) is not None:
        for outcome in systems.rank(
            task.queries, lambda blocks: counts_from_scores(blocks, task.target), names
        ):
            row = result_row(outcome, task.packages or None, **options)
            found.rows.append(_labelled(row, label))
            found.figures[outcome.name] = outcome.figures(**options)
    if judgements is not None:
        for outcome in systems.rank(
            judgements.queries, lambda blocks: judged_counts(blocks, judgements), names
        ):
            figures = graded_figures(outcome, judgements, ndcg=args.ndcg or NDCG_AT, **options)
            found.graded_rows.append(_labelled(graded_row(outcome, figures), label))
            found.graded[outcome.name] = figures
    return found


def _labelled(row: dict[str, Any], label: str) -> dict[str, Any]:
    return {**row, "name": f"{row['name']} of {Path(label).name}"} if label else row


def _count_trained_on(model: str, pairs: Sequence[Pair]) -> int:
    """Return how many pairs the manifest beside a model of ours names as its training pairs."""
    from ..data.pairs import pair_hash
    from ..encoders.saved import trained_pairs

    trained = trained_pairs(model)
    return sum(pair_hash(pair) in trained for pair in pairs)


def _print(report: dict[str, Any]) -> None:
    from .table import counted, graded_table, metric_table

    split, graded, comparison = report["split"], report["graded"], report["comparison"]
    if report["results"]:
        packages = f" of {split['packages']} packages" if split["packages"] else ""
        print(f"{split['pairs']} queries against {split['functions']} functions{packages}")
        print(metric_table(report["results"]))
        if report["cutoff"] is not None:
            print(f"a rank beyond {report['cutoff']:,} counts as 0")
        if split["repeated"]:
            print(f"left out of the data: {counted(split['repeated'])}")
        for note in _notes(report["results"], split["packages"]):
            print(note)
        if split["trained_on"]:
            print(
                f"{split['trained_on']} of the {split['pairs']} pairs are ones the model was"
                " trained on."
            )
    if graded:
        print(
            f"{graded['queries']} queries with {graded['judgements']} judged codes"
            f" among {split['functions']} functions"
        )
        print(graded_table(graded["results"]))
        if graded["left_out"]:
            print(f"{graded['left_out']} judgements are of urls the code base does not hold.")
    if comparison:
        other = Path(comparison["model"]).name
        for part in ("differences", "graded_differences"):
            for name, figures in comparison[part].items():
                judged = "judged queries, " if part == "graded_differences" else ""
                for figure, gap in figures.items():
                    print(f"{judged}{name} minus {name} of {other}, {figure}: {gap['words']}")
        if comparison["trained_on"]:
            print(f"{comparison['trained_on']} of the pairs are ones {other} was trained on.")


def _notes(results: list[dict[str, Any]], packages: int) -> list[str]:
    """What a reader of the table should know about its figures."""
    from .table import rough

    notes = rough(packages)
    if packages == 1:
        notes.append(
            "Intervals resample queries, since all are of one package: they are too narrow."
        )
    for result in results:
        low, high = result["mrr_pessimistic"], result["mrr_optimistic"]
        if high - low > 1e-4:
            notes.append(
                f"Ties: {result['name']} has an MRR of {low:.4f} to {high:.4f} by their rule."
            )
    return notes
