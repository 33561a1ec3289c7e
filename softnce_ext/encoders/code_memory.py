"""Prepared codes found again by their text, in memory and, where asked, in a folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .code_inputs import CodeInputs, CodeRow
from .tokenizer_state import tokenizer_state

_FORMAT = 1  # raise when the same code gives other rows


class CodeMemory:
    """Rows of codes by a hash of their text; all were prepared with the same settings.

    Copies of a model share it, so that twins prepare their codes once.
    """

    def __init__(self) -> None:
        self._settings: tuple[Any, ...] | None = None
        self._rows: dict[bytes, int] = {}
        self._inputs = CodeInputs.of([])

    def __deepcopy__(self, memo: dict[int, Any]) -> CodeMemory:
        return self

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, text: str, settings: tuple[Any, ...]) -> CodeRow | None:
        """Return the row of a code, None where it is not known with these settings."""
        if settings != self._settings:
            return None
        row = self._rows.get(_digest(text))
        return None if row is None else self._inputs.row(row)

    def missing(self, texts: Sequence[str], settings: tuple[Any, ...]) -> list[str]:
        """Return the distinct codes that are not known with these settings, in order."""
        known = self._rows if settings == self._settings else {}
        return [text for text in dict.fromkeys(texts) if _digest(text) not in known]

    def add(self, texts: Sequence[str], inputs: CodeInputs, settings: tuple[Any, ...]) -> None:
        """Add prepared codes; what was prepared with other settings is forgotten."""
        if settings != self._settings:
            self._rows, self._inputs, self._settings = {}, CodeInputs.of([]), settings
        start = self._inputs.rows
        self._inputs = CodeInputs.joined([self._inputs, inputs])
        self._rows.update((_digest(text), start + row) for row, text in enumerate(texts))


def reading(grammar: str) -> list[Any]:
    """Return what a code's row depends on beside its encoder: our format, and what parses it."""
    # Python's comments are cut by its own tokenizer.
    python = list(sys.version_info[:2]) if grammar == "tree_sitter_python" else []
    grammars = [version(name.replace("_", "-")) for name in ("tree_sitter", grammar)]
    return [_FORMAT, *python, *grammars]


def key_of(texts: Sequence[str], settings: Sequence[Any], tokenizer: Any, grammar: str) -> str:
    """Return a hash of all that prepared codes depend on.

    Args:
        texts: The codes.
        settings: Of the encoder, ready for JSON.
        tokenizer: A tokenizer of transformers.
        grammar: The grammar's Python package.
    """
    about = [*reading(grammar), list(settings), tokenizer_state(tokenizer), repr(tokenizer)]
    found = hashlib.sha256(json.dumps(about).encode())
    for text in texts:
        found.update(_digest(text))
    return found.hexdigest()[:32]


def write_inputs(path: Path, inputs: CodeInputs) -> None:
    """Write prepared codes; the file takes its name only when it is whole.

    Raises:
        OSError: The file cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, **inputs._asdict())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_inputs(path: Path, rows: int) -> CodeInputs | None:
    """Read prepared codes; None where there are none, or the file is broken."""
    try:
        with np.load(path) as file:
            inputs = CodeInputs(**{name: file[name] for name in CodeInputs._fields})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return inputs if inputs.rows == rows else None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
