"""What test_training_checkpoint.py starts.

`training_killed.py PLACE N FLAGS...` is `softnce train FLAGS`, killed by SIGKILL at its N-th
checkpoint: "within" writing the weights, before its "marker" is written, or "after" it.

`training_killed.py ranks FOLDER PORT... -- FLAGS...` is one rank's part of three runs, each with a
port to meet at: a whole one, one that ends in its second checkpoint, and one that goes on with it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from softnce_ext.cli.main import main
from softnce_ext.training import checkpoint, ranks


class Killed(BaseException):
    """Ends a run as nothing in the package does, and leaves the process."""


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_killed(*_: Any, **__: Any) -> None:
    raise Killed


def end_at(place: str, number: int, end: Callable[[], None] = raise_killed) -> Any:
    """Have `end` called at the N-th checkpoint; return what undoes that."""
    save_file, mark, write = checkpoint.save_file, checkpoint.mark, checkpoint.Stage.write
    left = [number]

    def is_due() -> bool:
        left[0] -= 1
        return left[0] == 0

    def save_half(weights: Any, path: Path) -> None:
        save_file(weights, path)
        if path.name == checkpoint.WEIGHTS and is_due():
            os.truncate(path, path.stat().st_size // 2)
            end()

    def mark_or_end(*args: Any) -> None:
        if is_due():
            end()
        mark(*args)

    def write_and_end(*args: Any, **options: Any) -> None:
        write(*args, **options)
        if is_due():
            end()

    if place == "within":
        checkpoint.save_file = save_half
    elif place == "marker":
        checkpoint.mark = mark_or_end
    else:
        checkpoint.Stage.write = write_and_end

    def undo() -> None:
        checkpoint.save_file, checkpoint.mark, checkpoint.Stage.write = save_file, mark, write

    return undo


def three_runs(folder: Path, ports: list[str], flags: list[str]) -> None:
    def train(name: str, *more: str) -> None:
        os.environ["MASTER_PORT"] = ports.pop()
        if main(["train", *flags, f"--output={folder / name}", *more]):
            sys.exit(f"run {name} failed")

    train("whole", "--no-checkpoints")
    undo = end_at("after", 2)
    try:
        train("killed")
    except Killed:
        undo()
        dist.destroy_process_group()
        ranks._waiting = None
    train("killed", "--resume")


if __name__ == "__main__":
    if sys.argv[1] == "ranks":
        cut = sys.argv.index("--")
        three_runs(Path(sys.argv[2]), sys.argv[3:cut], sys.argv[cut + 1 :])
    else:
        end_at(sys.argv[1], int(sys.argv[2]), kill)
        main(["train", *sys.argv[3:]])
