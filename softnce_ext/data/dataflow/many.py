"""The data flow of many functions, in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..grammars import grammar_folders
from ..processes import processes_work, run_workers, serve
from .extract import DataFlow, extract
from .languages import language_named
from .tree import Compat, check_compat

# Some 0.2 s of work: the step of a progress bar and of a Ctrl-C.
CHUNK_FUNCTIONS = 200
# Below this, starting processes costs more than they save.
ALONE_FUNCTIONS = 400

_COMMAND = (
    "import sys; sys.path += sys.argv[1:]; from softnce_ext.data.dataflow.many import work; work()"
)


def extract_many(
    codes: Sequence[str],
    language: str,
    receive: Callable[[int, list[DataFlow]], None],
    *,
    compat: Compat = "stable",
    workers: int = 1,
) -> None:
    """Extract the data flow of functions and hand it over chunk by chunk.

    Args:
        codes: The functions.
        language: Theirs.
        receive: Called in this process with the place of a chunk's first function and the data
            flow of its functions; chunks arrive in no fixed order.
        compat: As in `extract`.
        workers: Number of processes; 1 works in this process.

    Raises:
        ValueError: An argument is out of range.
        ImportError: The grammars are not installed.
        ChildProcessError: A worker died, as when memory ran out.
    """
    language_named(language)
    check_compat(compat)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if codes:
        extract(codes[0], language, compat=compat)  # a missing grammar is told here, once
    starts = iter(range(0, len(codes), CHUNK_FUNCTIONS))

    def next_chunk() -> list[Any] | None:
        start = next(starts, None)
        if start is None:
            return None
        return [start, language, compat, list(codes[start : start + CHUNK_FUNCTIONS])]

    if workers == 1 or len(codes) < ALONE_FUNCTIONS or not processes_work():
        while (chunk := next_chunk()) is not None:
            receive(chunk[0], [DataFlow(*each) for each in _extract_chunk(chunk)])
        return
    home = str(Path(__file__).resolve().parents[3])
    run_workers(
        ["-c", _COMMAND, home, *grammar_folders(language)],
        next_chunk,
        lambda chunk, flows: receive(chunk[0], [DataFlow(*each) for each in flows]),
        workers,
        lambda chunk: f"functions {chunk[0]} to {chunk[0] + len(chunk[3]) - 1}",
    )


def work() -> None:
    """Answer chunks until standard input ends: a worker's main."""
    serve(_extract_chunk)


def _extract_chunk(chunk: Sequence[Any]) -> list[DataFlow]:
    _, language, compat, codes = chunk
    return [extract(code, language, compat=compat) for code in codes]
