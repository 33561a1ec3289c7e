"""The folder of a prepared language: its four files, and the manifest that says what they are."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .atomic import write_lines
from .codesearchnet_files import MANIFEST

FORMAT = 1  # another one where the rule that makes the rows changes
FILES = ("train", "valid", "test", "codebase")

# Rows after the filter, Table 6 of the paper ("Rethinking Negative Pairs in Code Search").
TABLE_6 = {
    "ruby": (24_927, 1_400, 1_261, 4_360),
    "python": (251_820, 13_914, 14_918, 43_827),
    "java": (164_923, 5_183, 10_955, 40_347),
    "javascript": (58_025, 3_885, 3_291, 13_981),
    "php": (241_241, 12_982, 14_014, 52_660),
    "go": (167_288, 7_325, 8_122, 28_120),
}

_WHOLE = ("complete", "unfiltered")  # states of files with all their rows
_STALE = re.compile(r"\.(?:[a-z]+\.jsonl\.gz|prepared\.json)\.(\d+)\.part")


class PreparedFolder:
    """What is in a language's folder, and how it comes there.

    A file takes its name when it is whole, and the manifest tells of it afterwards; so whatever
    stops a run, the manifest tells of whole files alone.

    Args:
        folder: The folder, made when the first file is written.
        language: The language.
        rule: "lists", "given" or "none".
        sources: What the files are made from. Files of an earlier run stand where this, the rule
            and the files' own hashes are still the same.
        allow_missing: Write, and keep, files whose rows are fewer than Table 6 says.

    Attributes:
        files: Per file its state and facts, of the files kept and written so far.

    Raises:
        ValueError: The folder holds such files and no manifest: they are not ours to replace.
    """

    def __init__(
        self,
        folder: Path,
        language: str,
        rule: str,
        sources: dict[str, Any],
        allow_missing: bool = False,
    ) -> None:
        self.folder = folder
        self._allow_missing = allow_missing
        self.files: dict[str, dict[str, Any]] = {}
        self._head = {"format": FORMAT, "language": language, "filter": rule, **sources}
        self._kept: set[str] = set()
        rows = TABLE_6[language]
        self._expected = dict(zip(FILES, rows, strict=True)) if rule != "none" else {}
        if not folder.is_dir():
            return
        _remove_stale(folder)
        if not (folder / MANIFEST).is_file():
            if there := [self.path(name).name for name in FILES if self.path(name).exists()]:
                raise ValueError(
                    f"{folder}: holds {there[0]} but no {MANIFEST}; choose another folder, since"
                    " files that were not made here are not replaced"
                )
            return
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
        except (ValueError, RecursionError):
            return
        if not isinstance(manifest, dict):
            return
        files = manifest.pop("files", None)
        if manifest == self._head and isinstance(files, dict):
            for name in FILES:
                if name in files and self._stands(name, files[name]):
                    self.files[name] = files[name]
                    self._kept.add(name)

    def path(self, name: str) -> Path:
        """Return a file's path."""
        return self.folder / f"{name}.jsonl.gz"

    def write(self, name: str, lines: Iterable[str], facts: dict[str, Any]) -> None:
        """Write a file and tell the manifest; without enough rows write it only where allowed.

        Raises:
            OSError: It cannot be written; nothing of it is left behind.
        """
        is_new = not self.folder.exists()
        expected = self._expected.get(name)
        rows = 0

        def counted() -> Iterator[str]:
            nonlocal rows
            for line in lines:
                rows += 1
                yield line
            if not rows or not (expected in (None, rows) or self._allow_missing):
                raise _NotWritten  # so that the writer drops what it has

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._tell()  # before the first file, for a run that is cut off after it
            try:
                write_lines(self.path(name), counted())
            except _NotWritten:
                state = "not written"
                self.path(name).unlink(missing_ok=True)  # of other sources, or incomplete
            else:
                path = self.path(name)
                facts = {"bytes": path.stat().st_size, "sha256": sha256(path), **facts}
                is_complete = rows == expected or expected is None
                state = "unfiltered" if expected is None else "complete"
                state = state if is_complete else "incomplete"
            self.files[name] = {"state": state, "rows": rows, "expected": expected, **facts}
            self._tell()
        except BaseException as error:
            if is_new and not self.path(name).exists():
                with suppress(OSError):
                    (self.folder / MANIFEST).unlink(missing_ok=True)
                    self.folder.rmdir()
            if not isinstance(error, OSError):
                raise
            raise OSError(
                f"{self.path(name)}: not written: {error.strerror or error}; files that were"
                " complete are kept, and the same command goes on from there"
            ) from error

    def report(self) -> dict[str, Any]:
        """Return what is there, ready for JSON."""
        files = {name: {**self.files[name], "kept": name in self._kept} for name in FILES}
        return {
            "language": self._head["language"],
            "filter": self._head["filter"],
            "folder": str(self.folder),
            "complete": all(each["state"] in _WHOLE for each in files.values()),
            "files": files,
        }

    def _tell(self) -> None:
        files = {name: self.files[name] for name in FILES if name in self.files}
        text = json.dumps({**self._head, "files": files}, indent=1)
        write_lines(self.folder / MANIFEST, [text])

    def _stands(self, name: str, facts: Any) -> bool:
        if not isinstance(facts, dict) or "sha256" not in facts:
            return False
        if facts.get("state") not in _WHOLE and not self._allow_missing:
            return False
        path = self.path(name)
        return (
            path.is_file()
            and path.stat().st_size == facts.get("bytes")
            and sha256(path) == facts["sha256"]
        )


class _NotWritten(Exception):
    """The rows are too few for the file to be written."""


def sha256(path: Path) -> str:
    """Return the hash of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _remove_stale(folder: Path) -> None:
    """Remove what a run that was killed had begun to write."""
    for path in folder.iterdir():
        match = _STALE.fullmatch(path.name)
        if match and not _is_running(int(match[1])):
            with suppress(OSError):
                path.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
