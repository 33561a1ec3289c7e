"""Worker processes that nothing of the caller's can disturb.

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
from collections.abc import Callable, Sequence
from typing import IO, Any, TypeVar

T = TypeVar("T")


def processes_work() -> bool:
    """Return whether this system can run such workers."""
    return os.name == "posix" and bool(sys.executable)


def run_workers(
    arguments: Sequence[str],
    next_request: Callable[[], T | None],
    receive: Callable[[T, Any], None],
    workers: int,
    describe: Callable[[T], str],
) -> None:
    """Have worker processes answer requests until `next_request` gives None.

    Answers arrive in no fixed order. An exception, a Ctrl-C among them, ends the workers first.

    Args:
        arguments: What a worker's Python runs: its arguments behind `-I -S` (isolated from the
            environment and from site-packages: no start-up file can write to the pipe, and a
            worker is ready after some 30 ms); the code must end in `serve`.
        next_request: Called for the next request, ready for JSON, whenever a worker is free.
        receive: Called in this process with a request and its answer.
        workers: Number of processes.
        describe: Says of a request what a worker's death should be blamed on.

    Raises:
        ChildProcessError: A worker died, as when memory ran out.
    """
    processes: list[subprocess.Popen[str]] = []
    with selectors.DefaultSelector() as selector:
        try:
            for _ in range(workers):
                if (request := next_request()) is None:
                    break
                processes.append(_start(arguments))
                selector.register(_output(processes[-1]), selectors.EVENT_READ, None)
                _send(selector, processes[-1], request)
            while selector.get_map():
                for key, _ in selector.select():
                    process, request = key.data
                    # One answer is under way per worker, so the buffer never hides a second one.
                    answer = _output(process).readline()
                    if not answer:
                        raise ChildProcessError(
                            f"a worker process ended with status {process.wait()} in "
                            f"{describe(request)}; if memory ran out, use workers=1"
                        )
                    receive(request, json.loads(answer))
                    following = next_request()
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


def serve(answer: Callable[[Any], Any]) -> None:
    """Answer requests from standard input, one JSON line each, until it ends: a worker's main."""
    gc.disable()  # syntax trees hold no cycles; collecting them costs a fifth of the time
    for line in sys.stdin:
        answered = json.dumps(answer(json.loads(line)))
        try:
            sys.stdout.write(answered + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # the parent was killed; nobody is left to tell
            os._exit(1)


def _start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Start a worker in a session of its own, so that a Ctrl-C reaches the parent alone."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )


def _output(process: subprocess.Popen[str]) -> IO[str]:
    """Return a worker's standard output, which `_start` made a pipe."""
    if process.stdout is None:
        raise TypeError("the worker has no output pipe")
    return process.stdout


def _send(selector: Any, process: subprocess.Popen[str], request: Any) -> None:
    """Send a request to a worker and note that its answer is awaited."""
    if process.stdin is None:
        raise TypeError("the worker has no input pipe")
    selector.modify(_output(process), selectors.EVENT_READ, (process, request))
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # the worker died; reading its answer says so
