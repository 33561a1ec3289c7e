"""Parse files for mining, in worker processes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .functions import UNPARSABLE, Function, decode_source, functions_in
from .grammar_functions import grammar_functions, may_document, why_left_out
from .grammars import grammar_folders
from .processes import processes_work, run_workers
from .processes import serve as serve_requests
from .source_files import SOURCE_FILES, language_of

MAX_FILE_BYTES = 2_000_000  # beyond it a source file is generated data

_COMMAND = (
    "import sys; sys.path += sys.argv[1:]; from softnce_ext.data.workers import serve; serve()"
)


class Chunk(NamedTuple):
    """Files to parse together: `paths` are relative to `root`, `size` is their bytes."""

    package: str
    root: str
    paths: list[str]
    size: int
    keep_all: bool = False


class Parsed(NamedTuple):
    """What a chunk gave: rows of (query, code, name, path, line), and counts by reason."""

    rows: list[tuple[str, str, str, str, int]]
    counts: Counter[str]


def parse_chunk(chunk: Chunk) -> Parsed:
    """Return the pairs of a chunk's files; a file that cannot be read or parsed is counted."""
    rows: list[tuple[str, str, str, str, int]] = []
    counts: Counter[str] = Counter()
    for path in chunk.paths:
        counts["files"] += 1
        try:
            data = Path(chunk.root, path).read_bytes()
        except OSError:
            counts["unreadable files"] += 1
            continue
        if len(data) > MAX_FILE_BYTES:
            counts["large files"] += 1
            continue
        try:
            functions, seen = _functions(data, language_of(path), chunk.keep_all)
        except UNPARSABLE:
            counts["unparsable files"] += 1
            continue
        counts.update(seen)
        shown = path.replace(os.sep, "/").encode(errors="replace").decode()
        rows.extend((each.query, each.code, each.name, shown, each.line) for each in functions)
    return Parsed(rows, counts)


def _functions(
    data: bytes, language: str | None, keep_all: bool
) -> tuple[list[Function], Counter[str]]:
    """Return a file's functions and counts; most without documentation are told unparsed."""
    if language is None or language == "python":
        documented = b'"""' in data or b"'''" in data
        if b"def " not in data or not (documented or keep_all):
            return [], Counter()
        return functions_in(decode_source(data), keep_all=keep_all)
    reason = why_left_out(data, language)
    if reason or not (keep_all or may_document(data, language)):
        return [], Counter({reason: 1} if reason else {})
    return grammar_functions(data, language, keep_all=keep_all)


def parse_chunks(
    next_chunk: Callable[[], Chunk | None],
    receive: Callable[[Chunk, Parsed], None],
    workers: int,
) -> None:
    """Parse chunks until `next_chunk` gives None, and hand each result to `receive`.

    Results arrive in no fixed order. An exception, a Ctrl-C among them, ends the workers first.

    Args:
        next_chunk: Called for the next chunk whenever a worker is free.
        receive: Called in this process with a chunk and its result.
        workers: Number of processes; 1 parses in this process.

    Raises:
        ChildProcessError: A worker died, as when memory ran out.
    """
    if workers == 1 or not processes_work():
        while (chunk := next_chunk()) is not None:
            receive(chunk, parse_chunk(chunk))
        return

    def received(chunk: Chunk, answer: Any) -> None:
        rows, counts = answer
        receive(chunk, Parsed([tuple(row) for row in rows], Counter(counts)))

    home = str(Path(__file__).resolve().parents[2])
    run_workers(
        ["-c", _COMMAND, home, *grammar_folders(*SOURCE_FILES)],
        next_chunk,
        received,
        workers,
        lambda chunk: f"{chunk.package} ({chunk.paths[0]} and the files after it)",
    )


def serve() -> None:
    """Answer chunks until standard input ends: a worker's main."""
    serve_requests(lambda chunk: parse_chunk(Chunk(*chunk)))
