"""`softnce mine`: write the (documentation, function) pairs of packages or of a folder."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from ..data.source_files import SOURCE_FILES
from .arguments import positive_int
from .table import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `softnce mine`."""
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="a folder of source, or data files to convert with their partitions; without it, the"
        " standard library and the installed packages of this interpreter",
    )
    parser.add_argument(
        "--output", "-o", required=True, metavar="FILE", help="pairs.jsonl, or pairs.jsonl.gz"
    )
    parser.add_argument(
        "--language", choices=tuple(SOURCE_FILES), help="of FOLDER, read this language (all)"
    )
    parser.add_argument(
        "--max-per-package",
        type=positive_int,
        metavar="N",
        help="pairs per package (3000 without FOLDER)",
    )
    parser.add_argument(
        "--workers", type=positive_int, default=2, metavar="N", help="processes (2)"
    )
    parser.add_argument(
        "--on-bad-line", choices=("error", "skip"), default="error", help="for data files (error)"
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar on stderr")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Mine, write the pairs, print the summary."""
    from ..data.formats import read_pairs, write_pairs
    from ..data.mining import MAX_PER_PACKAGE, mine_interpreter

    if not args.output.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"--output must end in .jsonl or .jsonl.gz, got {args.output}")
    if not Path(args.output).absolute().parent.is_dir():  # known before the work, not after
        raise ValueError(f"--output must be in a folder that exists, got {args.output}")
    if args.folder is None and args.language not in (None, "python"):
        raise ValueError(f"--language {args.language} needs a FOLDER: an interpreter has Python")
    start = time.perf_counter()
    if args.folder is None:
        pairs = mine_interpreter(
            max_per_package=args.max_per_package or MAX_PER_PACKAGE,
            workers=args.workers,
            progress=not args.no_progress,
        )
    else:
        pairs = read_pairs(
            args.folder,
            language=args.language,
            on_bad_line=args.on_bad_line,
            max_per_package=args.max_per_package,
            workers=args.workers,
            progress=not args.no_progress,
        )
    if not pairs:
        raise ValueError(f"no documented function in {args.folder or 'this interpreter'}")
    write_pairs(args.output, pairs)
    seconds = time.perf_counter() - start
    summary = {"output": args.output, **pairs.report, "seconds": round(seconds, 2)}
    print(json.dumps(summary, indent=2) if args.json else "\n".join(_lines(summary)))
    return 0


def _lines(summary: dict[str, Any]) -> list[str]:
    """Return the summary as text for people."""
    lines = [f"{summary['pairs']:,} pairs in {summary['output']} after {summary['seconds']:.1f} s"]
    if "functions" in summary:
        lines.append(
            f"{summary['functions']:,} functions seen in {summary['files']:,} files of"
            f" {summary['packages']:,} packages"
        )
        lost = [f"{why}_files" for why in ("unparsable", "unreadable", "large")]
        lost += [f"{why}_files" for why in ("generated", "minified")]
        skipped = [f"{summary[key]:,} {key.replace('_', ' ')}" for key in lost if summary[key]]
        if skipped:
            lines.append(f"skipped: {', '.join(skipped)}")
    else:
        lines.append(f"{summary['lines']:,} lines read, {summary['bad_lines']:,} bad ones skipped")
        lines.extend(f"  {example}" for example in summary["bad_examples"])
    if summary["dropped"]:
        lines.append(f"left out: {counted(summary['dropped'])}")
    if by_default := summary.get("python_by_default"):
        lines.append(f"{by_default:,} rows name no language and were read as Python")
    if packages := summary.get("pairs_per_package"):
        largest = (f"{name} {count:,}" for name, count in list(packages.items())[:8])
        more = len(packages) - 8
        lines.append(f"packages: {', '.join(largest)}" + (f", {more} more" if more > 0 else ""))
    return lines
