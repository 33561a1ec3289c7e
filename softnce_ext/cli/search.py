"""`softnce search`: the functions of a code base that a sentence describes."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.source_files import SOURCE_FILES
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
        help="folder of source (tests and vendored copies are left out), or one file",
    )
    parser.add_argument(
        "--language",
        choices=tuple(SOURCE_FILES),
        help="search this language only (default: all, or the one that MODEL reads)",
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
    from ..data.sources import readable_packages
    from ..encoders.saved import check_language, load_encoder
    from ..search.index import build_index, default_folder, index_name, open_index
    from ..search.query import search
    from .table import print_json

    start = time.perf_counter()
    language = args.language
    readable_packages(args.code, language)  # what is wrong with it is told before the model loads
    model, settings = load_encoder(args.model)
    check_language(model, [language] if language else [], f"model {args.model}")
    language = language or getattr(model[0], "language", None)  # GraphCodeBERT reads one
    packages, _ = readable_packages(args.code, language)
    files = [Path(each.root, path) for each in packages for path, _ in each.files]
    if not files:
        raise ValueError(f"{args.code} holds no {language or 'source'} file")
    boost = settings.name_boost
    name = index_name(args.model, args.code, files, language=language, name_boost=boost)

    def build() -> Index:
        functions = mine_folder(args.code, language=language, keep_all=True)
        if not functions:
            raise ValueError(f"{args.code} holds no function")
        reasons = ("unreadable", "large", "unparsable", "generated", "minified")
        skipped = {why: count for why in reasons if (count := functions.report[f"{why}_files"])}
        if skipped:
            _tell(f"files left out: {', '.join(f'{skipped[why]} {why}' for why in skipped)}")
        return build_index(functions, model, name_boost=boost, progress=True)

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
