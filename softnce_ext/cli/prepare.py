"""`softnce prepare csn`: CodeSearchNet to the files that the paper trains and evaluates on."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

_INDENT = " " * 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `softnce prepare`."""
    parser.add_argument("dataset", metavar="csn", choices=("csn",), help="CodeSearchNet")
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="the dump: LANGUAGE.zip as on Zenodo (record 7857872), a folder of such zips or of"
        " unpacked ones, .jsonl(.gz) files, or Hugging Face's parquet files",
    )
    parser.add_argument(
        "--lists",
        metavar="PATH",
        help="GraphCodeBERT's or CoCoSoDa's URL lists: a folder or dataset.zip with"
        " LANGUAGE/{train,valid,test,codebase}.txt",
    )
    parser.add_argument("--output", "-o", required=True, metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--languages",
        nargs="+",
        metavar="LANGUAGE",
        help="ruby, python, java, javascript, php, go (default: those the dump holds)",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="write files with fewer rows than the paper's Table 6 too, and exit with 0",
    )
    parser.add_argument(
        "--no-filter",
        action="store_true",
        help="without lists: write the dump's partitions whole; no data for the paper's figures",
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar on stderr")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Prepare each language; return 0 where every file is complete, 1 where one is not."""
    from ..data.codesearchnet import Dump, prepare_language

    start = time.perf_counter()
    dump = Dump(args.source)
    languages = args.languages or dump.languages()
    if not languages:
        raise ValueError(f"no record of one of its six languages in {', '.join(args.source)}")
    reports = []
    for language in dict.fromkeys(languages):
        report = prepare_language(
            dump,
            language,
            args.output,
            lists=args.lists,
            use_filter=not args.no_filter,
            allow_missing=args.allow_missing,
            progress=not args.no_progress,
        )
        reports.append(report)
        if not args.json:
            print("\n".join(_lines(report)), flush=True)
    is_complete = all(report["complete"] for report in reports)
    if args.json:
        summary = {"output": args.output, "complete": is_complete, "languages": reports}
        summary["seconds"] = round(time.perf_counter() - start, 2)
        print(json.dumps(summary, indent=2))
    elif not is_complete and not args.allow_missing:
        print("not complete; --allow-missing writes what is there")
    return 0 if is_complete or args.allow_missing else 1


def _lines(report: dict[str, Any]) -> list[str]:
    """Return a language's report as text for people."""
    lines = [f"{report['language']} in {report['folder']}"]
    for name, facts in report["files"].items():
        rows, expected, state = facts["rows"], facts["expected"], facts["state"]
        of = f" of {expected:,}" if expected not in (None, rows) else ""
        text = f"  {name:<9} {state}: {rows:,}{of} rows"
        if facts["kept"]:
            text += ", from an earlier run"
        lines.append(text)
        if missing := facts.get("missing"):
            of_list = f"{_INDENT}{missing:,} of {facts['listed']:,} listed URLs"
            if state == "complete":
                lines.append(f"{of_list} are not of valid and test, as in the published data")
            else:
                lines.append(f"{of_list} have no record in the dump that can be used, such as")
                lines.extend(f"{_INDENT}  {url}" for url in facts["missing_examples"])
        elif "listed" in facts and state != "complete":
            lines.append(f"{_INDENT}the list has {facts['listed']:,} URLs, all are there")
        if left_out := facts.get("left_out"):
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
            lines.append(f"{_INDENT}left out: {reasons}")
    if report["filter"] == "none":
        lines.append("  unfiltered: no data for the paper's figures")
    return lines
