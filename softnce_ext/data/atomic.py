"""Write a file whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines of text as UTF-8; the file takes its name only when it is whole.

    A path that ends in ".gz" is compressed; the same lines give the same bytes.

    Raises:
        FileNotFoundError: The folder to write into does not exist.
        OSError: The file cannot be written; nothing is left behind.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent} to write into")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, not a file to write")
    if path.exists() and not path.is_file():  # a pipe or a terminal cannot be renamed into place
        with open(path, "wb") as file:
            _write(file, lines, zipped=path.suffix == ".gz")
        return
    # In the same folder, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            _write(file, lines, zipped=path.suffix == ".gz")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _write(file: IO[bytes], lines: Iterable[str], *, zipped: bool) -> None:
    if not zipped:
        file.writelines(f"{line}\n".encode() for line in lines)
        return
    # Without the time and the name of the file, which would differ from run to run.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as stream:
        for line in lines:
            stream.write(f"{line}\n".encode())
