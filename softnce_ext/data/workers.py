"""Parse files in worker processes that nothing of the caller's can disturb.

The workers are plain `python -c` children that speak JSON lines, not a `multiprocessing` pool:
they never import the caller's `__main__` (which may be a script without a guard, a notebook or
stdin), inherit no threads or locks, and hold nothing that outlives their parent: a worker ends
when its standard input does, also after a SIGKILL of the parent.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

from .functions import UNPARSABLE, decode_source, functions_in

MAX_FILE_BYTES = 2_000_000  # beyond it a source file is generated data

# Isolated from the environment (-I) and from site-packages (-S): no start-up file can write to
# the pipe, and a worker is ready after some 30 ms.
_COMMAND = (
    "import sys; sys.path.append(sys.argv[1]); from softnce_ext.data.workers import serve; serve()"
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
        # Most files without documentation are told without parsing them.
        documented = b'"""' in data or b"'''" in data
        if b"def " not in data or not (documented or chunk.keep_all):
            continue
        try:
            functions, seen = functions_in(decode_source(data), keep_all=chunk.keep_all)
        except UNPARSABLE:
            counts["unparsable files"] += 1
            continue
        counts.update(seen)
        shown = path.replace(os.sep, "/").encode(errors="replace").decode()
        rows.extend((each.query, each.code, each.name, shown, each.line) for each in functions)
    return Parsed(rows, counts)


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
    if workers == 1 or os.name != "posix" or not sys.executable:
        while (chunk := next_chunk()) is not None:
            receive(chunk, parse_chunk(chunk))
        return
    processes: list[subprocess.Popen[str]] = []
    with selectors.DefaultSelector() as selector:
        try:
            for _ in range(workers):
                if (chunk := next_chunk()) is None:
                    break
                processes.append(_start())
                selector.register(_output(processes[-1]), selectors.EVENT_READ, None)
                _send(selector, processes[-1], chunk)
            while selector.get_map():
                for key, _ in selector.select():
                    process, chunk = key.data
                    # One answer is under way per worker, so the buffer never hides a second one.
                    answer = _output(process).readline()
                    if not answer:
                        raise ChildProcessError(
                            f"a mining worker ended with status {process.wait()} in {chunk.package}"
                            f" ({chunk.paths[0]} and the files after it); if memory ran out, use"
                            " workers=1"
                        )
                    rows, counts = json.loads(answer)
                    receive(chunk, Parsed([tuple(row) for row in rows], Counter(counts)))
                    following = next_chunk()
                    if following is None:
                        selector.unregister(_output(process))
                    else:
                        _send(selector, process, following)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                with process:  # closes its pipes and waits for it
                    pass


def serve() -> None:
    """Answer chunks from standard input, one JSON line each, until it ends: a worker's main."""
    gc.disable()  # syntax trees hold no cycles; collecting them costs a fifth of the time
    for line in sys.stdin:
        parsed = parse_chunk(Chunk(*json.loads(line)))
        try:
            sys.stdout.write(json.dumps(parsed) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # the parent was killed; nobody is left to tell
            os._exit(1)


def _start() -> subprocess.Popen[str]:
    """Start a worker in a session of its own, so that a Ctrl-C reaches the parent alone."""
    home = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _COMMAND, home],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _output(process: subprocess.Popen[str]) -> IO[str]:
    """Return a worker's standard output, which `_start` made a pipe."""
    if process.stdout is None:
        raise TypeError("the worker has no output pipe")
    return process.stdout


def _send(selector: Any, process: subprocess.Popen[str], chunk: Chunk) -> None:
    """Send a chunk to a worker and note that its answer is awaited."""
    if process.stdin is None:
        raise TypeError("the worker has no input pipe")
    selector.modify(_output(process), selectors.EVENT_READ, (process, chunk))
    try:
        process.stdin.write(json.dumps(chunk) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # the worker died; reading its answer says so
