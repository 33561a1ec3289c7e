"""Mark a folder as whole, and tell one that is from what a crash or a fault of the disk left."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from .atomic import write_lines
from .codesearchnet_folder import sha256

MARKER = "whole.json"


def mark(folder: Path, told: dict[str, Any]) -> None:
    """Write a marker into a folder: size and hash of each file, and what else is told.

    The files are on the disk before it, so that after a loss of power it vouches for them.

    Raises:
        OSError: It cannot be written.
    """
    paths = sorted(folder.iterdir())
    for path in paths:
        sync(path)
    files = {path.name: _size_and_hash(path) for path in paths}
    write_lines(folder / MARKER, [json.dumps({**told, "files": files}, indent=2)])
    sync(folder)
    sync(folder.parent)


def read_marked(folder: Path) -> tuple[dict[str, Any], str]:
    """Return what a marker tells, and what is wrong with its folder in words, "" for nothing."""
    told = read_json(folder / MARKER)
    files = told.get("files")
    if not isinstance(files, dict):
        return {}, "it was not written to its end"
    try:
        found = {path.name: path for path in folder.iterdir() if path.name != MARKER}
        for name in sorted({*files, *found}):
            if name not in found or _size_and_hash(found[name]) != files.get(name):
                return {}, f"{name} is not as it was written"
    except OSError as error:
        return {}, str(error)
    return told, ""


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; an empty one where there is none."""
    with suppress(OSError, ValueError):
        read = json.loads(path.read_text(encoding="utf-8"))
        return read if isinstance(read, dict) else {}
    return {}


def sync(path: Path) -> None:
    """Have a file or the names of a folder on the disk before what is written next."""
    try:
        place = os.open(path, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)
    except OSError:
        if not path.is_dir():  # which some file systems do not sync
            raise


def _size_and_hash(path: Path) -> list[Any]:
    return [path.stat().st_size, sha256(path)]
