"""A lock on what a run writes: of two runs into one folder the model of one would stay, the figures
of the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import ranks


@contextmanager
def held(output: str) -> Iterator[None]:
    """Keep other runs out of a folder, by a locked file beside it that is gone at the end.

    The first rank holds it for all; of a run that is killed the kernel releases it. Where no lock
    is to be had, as on a read-only disk, nobody is kept out.

    Raises:
        ValueError: Another run holds it.
    """
    place = Path(os.path.realpath(output))
    file = place.parent / f".{place.name}.softnce-lock"
    lock: list[int] = []
    missing: list[Path] = []

    def take() -> None:
        try:
            missing.extend(each for each in place.parents if not each.exists())
            place.parent.mkdir(parents=True, exist_ok=True)
            lock.append(_locked(file))
        except BlockingIOError:
            raise ValueError(
                f"output must be a folder that no other run writes, got {output}, which another "
                "softnce train has taken"
            ) from None
        except (ImportError, OSError):
            pass

    try:
        ranks.from_first(take)
        yield
    finally:
        for descriptor in lock:
            with suppress(OSError):
                file.unlink()
            os.close(descriptor)
        for each in missing:
            with suppress(OSError):  # it holds the model, as it should
                each.rmdir()


def _locked(file: Path) -> int:
    """Return the descriptor of a file, locked; BlockingIOError where another process has it."""
    import fcntl  # which not every system has

    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                file.unlink()
            raise
        # Who held it before may have removed it meanwhile: nobody else would find this one.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                return descriptor
        os.close(descriptor)
