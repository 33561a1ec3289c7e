"""`softnce search`: the functions of a code base that a sentence describes."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import positive_int, sentence

if TYPE_CHECKING:
    from ..search.index import Index
    from ..search.query import Hit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="folder or hub name of an encoder")
    parser.add_argument("query", metavar="QUERY", type=sentence, help="what the code should do")
    parser.add_argument(
        "--code",
        metavar="PATH",
        type=Path,
        required=True,
        help="folder of Python source (tests and vendored copies are left out), or one file",
    )
    parser.add_argument(
        "--top", type=positive_int, default=5, help="how many functions to show (default: 5)"
    )
    parser.add_argument(
        "--mode",
        choices=("hybrid", "dense", "lexical"),
        default="hybrid",
        help="compare vectors (dense), words (lexical) or both (default: hybrid)",
    )
    parser.add_argument(
        "--index",
        metavar="FOLDER",
        type=Path,
        help="where to keep the index (default: the user's cache folder)",
    )
    parser.add_argument("--json", action="store_true", help="print the functions as JSON")


def run(args: argparse.Namespace) -> int:
    """Search and print; the index is built on first use and whenever the code changed."""
    from ..data.mining import mine_folder
    from ..data.sources import folder_packages
    from ..encoders.saved import load_encoder
    from ..search.index import build_index, default_folder, index_name, open_index
    from ..search.query import search
    from .table import print_json

    start = time.perf_counter()
    files = [Path(each.root, path) for each in folder_packages(args.code) for path, _ in each.files]
    if not files:
        raise ValueError(f"{args.code} holds no Python source file")
    model, settings = load_encoder(args.model)
    name = index_name(args.model, args.code, files, name_boost=settings.name_boost)

    def build() -> Index:
        functions = mine_folder(args.code, keep_all=True)
        if not functions:
            raise ValueError(f"{args.code} holds no Python function")
        skipped = sum(
            functions.report[f"{why}_files"] for why in ("unreadable", "large", "unparsable")
        )
        if skipped:
            _tell(f"files left out, as they cannot be read or parsed or are too large: {skipped}")
        return build_index(functions, model, name_boost=settings.name_boost, progress=True)

    index, folder, reused = open_index(args.index or default_folder(), name, build, _tell)
    hits = search(
        index,
        model,
        args.query,
        top=args.top,
        mode=args.mode,
        hybrid_weight=settings.hybrid_weight,
    )
    root = args.code.parent if args.code.is_file() else args.code
    paths = [os.path.join(root, hit.function.path) for hit in hits]
    if args.json:
        results = [
            {
                "path": path,
                "line": hit.function.line,
                "name": hit.function.name,
                "score": hit.score,
                "documentation": hit.function.query,
                "code": hit.function.code,
            }
            for hit, path in zip(hits, paths, strict=True)
        ]
        print_json(
            {
                "query": args.query,
                "mode": args.mode,
                "results": results,
                "functions": len(index.records),
                "index": None if folder is None else str(folder),
                "reused": reused,
                "seconds": time.perf_counter() - start,
            }
        )
        return 0
    _print(hits, paths, args.query)
    return 0


def _print(hits: list[Hit], paths: list[str], query: str) -> None:
    from ..search.show import show

    if not hits:
        _tell("no function shares a word with the query")
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    shown = [
        show(hit, rank, query, path, color=color)
        for rank, (hit, path) in enumerate(zip(hits, paths, strict=True), 1)
    ]
    print("\n\n".join(shown))


def _tell(sentence: str) -> None:
    print(f"softnce search: {sentence}", file=sys.stderr)
