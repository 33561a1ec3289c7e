"""Whether a disk holds what is going to be written, asked before the work that makes it."""

from __future__ import annotations

import errno
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Need(NamedTuple):
    """What is going to be written, where to, and how much it is."""

    what: str
    folder: Path
    bytes: int


def check_space(needs: Iterable[Need]) -> None:
    """Refuse what the disks have no room for; what goes to one disk is added up.

    Raises:
        OSError: A disk is too small.
    """
    by_disk: defaultdict[int, list[Need]] = defaultdict(list)
    for need in needs:
        by_disk[_disk(nearest_folder(need.folder))].append(need)
    for together in by_disk.values():
        free = shutil.disk_usage(nearest_folder(together[0].folder)).free
        if sum(need.bytes for need in together) > free:
            told = [f"{need.what} ({need.bytes:,} bytes in {need.folder})" for need in together]
            message = f"the disk must hold {' and '.join(told)}, but has {free:,} bytes free"
            raise OSError(errno.ENOSPC, message)


def _disk(folder: Path) -> int:
    return os.stat(folder).st_dev


def nearest_folder(path: Path) -> Path:
    """Return the nearest of a path and the folders it lies in that is there."""
    path = Path(os.path.realpath(path))
    while not path.is_dir():
        path = path.parent
    return path
