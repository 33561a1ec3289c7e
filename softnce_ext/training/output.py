"""The folder a trained model is written into: whole or not at all, and nobody else's."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..data.atomic import write_lines
from ..data.manifest import write_manifest
from ..data.split import Split
from ..encoders.saved import MANIFEST_FILE, SETTINGS_FILE

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

METRICS_FILE = "metrics.json"
LOG_FILE = "training.jsonl"
_READABLE = 0o644


def check_output(folder: Path, mark: str = SETTINGS_FILE, what: str = "a model") -> None:
    """Refuse a folder that is not ours to replace.

    Args:
        folder: The folder.
        mark: The file that makes it ours.
        what: What it then holds, in words.

    Raises:
        ValueError: It is a file, holds something else than what this package wrote, or cannot be
            renamed, as a model's is when the next takes its place.
        OSError: It cannot be written.
    """
    if folder.is_dir():
        if any(folder.iterdir()) and not (folder / mark).is_file():
            raise ValueError(
                f"output must be a new folder or one with {what} of softnce train, got {folder}, "
                f"which holds other files"
            )
        if mark == SETTINGS_FILE and (reason := _stays(Path(os.path.realpath(folder)))):
            raise ValueError(
                f"output must be a folder that can be renamed, got {folder}, which {reason}; a "
                f"folder below it, such as {folder / 'model'}, will do"
            )
    elif folder.exists() or folder.is_symlink():
        raise ValueError(f"output must be a folder, got {folder}, which is a file")
    place = next(each for each in folder.absolute().parents if os.path.lexists(each))
    if not place.is_dir():
        raise NotADirectoryError(f"output {folder} cannot be written: {place} is no folder")
    if not os.access(place, os.W_OK):
        raise PermissionError(f"output {folder} cannot be written: {place} is read-only")


def _stays(place: Path) -> str:
    """Return in words why a folder keeps its name or is wanted under it; "" where it need not."""
    if os.path.ismount(place):
        return "is a mount point"
    with suppress(FileNotFoundError):  # the current folder was deleted
        here = Path.cwd()
        if here.is_relative_to(place):
            return "is the current folder" if here == place else "holds the current folder"
    return ""


def save_model(
    folder: Path,
    model: SentenceTransformer,
    settings: dict[str, Any],
    split: Split,
    steps: Iterable[dict[str, float]],
) -> None:
    """Write the model and what belongs to it.

    What an earlier run wrote there is kept beside it, as NAME.previous (one of them; under a name
    that follows, where something else has this one), unless it is the same training.

    Args:
        folder: As `check_output` passed it.
        model: Saved as plain sentence-transformers.
        settings: Content of softnce.json.
        split: Written down as manifest.json.
        steps: Log of the training's steps, written as training.jsonl.

    Raises:
        OSError: The folder cannot be written; what was there is still there.
    """
    place = Path(os.path.realpath(folder))
    missing = [each for each in place.parents if not each.exists()]
    stage = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        new = stage / "new"
        try:
            model.save_pretrained(str(new), create_model_card=False)
        except Exception as error:  # safetensors has an error of its own for a full disk
            raise OSError(f"the model cannot be written into {folder}: {error}") from error
        (new / SETTINGS_FILE).write_text(json.dumps(settings, indent=2), encoding="utf-8")
        write_manifest(new / MANIFEST_FILE, split)
        write_lines(new / LOG_FILE, map(json.dumps, steps))
        for path in new.rglob("*"):  # safetensors files come readable by their owner alone
            path.chmod(path.stat().st_mode | _READABLE if path.is_file() else 0o755)
        if not place.exists():
            new.rename(place)
        elif _is_same(place, new):
            _exchange(new, place, stage / "old")
        else:
            _exchange(new, place, _free(previous(place)))
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for each in missing:
            with suppress(OSError):  # it holds the model, as it should
                each.rmdir()


def _exchange(new: Path, place: Path, kept: Path) -> None:
    """Give a folder its place; what stands there goes to `kept`, and comes back if that fails."""
    place.rename(kept)
    try:
        new.rename(place)
    except BaseException:
        kept.rename(place)
        raise


def _free(place: Path) -> Path:
    """Return a name that is free: this one, where it is or becomes so, else one that follows it."""
    if (place / SETTINGS_FILE).is_file():
        shutil.rmtree(place, ignore_errors=True)
    names = (place.with_name(f"{place.name}.{number}") for number in count(2))
    return next(each for each in chain([place], names) if not os.path.lexists(each))


def _is_same(folder: Path, other: Path) -> bool:
    """Tell whether two folders hold the same training, as when a killed run saves it again.

    What loading or training changes without a meaning may differ, as a tokenizer's last call.
    """
    files, others = (
        {path.relative_to(each) for path in each.rglob("*")} for each in (folder, other)
    )
    return files == others and all(
        filecmp.cmp(folder / path, other / path, shallow=False)
        for path in files
        if path.suffix == ".safetensors" or path.name in (SETTINGS_FILE, MANIFEST_FILE, LOG_FILE)
    )


def previous(folder: Path) -> Path:
    """Return where `save_model` keeps the model that stood in a folder before."""
    place = Path(os.path.realpath(folder))
    return place.with_name(f"{place.name}.previous")


def save_metrics(folder: Path, report: dict[str, Any]) -> None:
    """Add metrics.json to a saved model.

    Raises:
        OSError: The folder cannot be written.
    """
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    write_lines(folder / METRICS_FILE, [text])


def save_report(folder: Path, report: dict[str, Any], table: str) -> None:
    """Add metrics.json and README.md to a saved model.

    Raises:
        OSError: The folder cannot be written.
    """
    save_metrics(folder, report)
    is_ours = _OURS in (folder / "modules.json").read_text(encoding="utf-8")
    card = _CARD.format(
        kind="a backbone of the paper" if is_ours else "a plain sentence-transformers model",
        load=_LOAD_OURS if is_ours else _LOAD_PLAIN,
        table=table,
        version=__version__,
    )
    write_lines(folder / "README.md", [card])


_OURS = "softnce_ext."
_LOAD_PLAIN = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")"""
_LOAD_OURS = """from softnce_ext.encoders.load import load_model

model = load_model("path/to/this/folder")"""

_CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [code-search, sentence-transformers]
---

# Code search encoder

Trained by softnce_ext {version}. It is {kind}:

```python
{load}
query = model.encode_query(["read the lines of a file into a list"])
code = model.encode_document(["def lines(path): ..."])
print(model.similarity(query, code))
```

A function's text is its name, `name_boost` times (see softnce.json), then its source without the
documentation. What was measured (metrics.json has all of it):

```
{table}
```
"""
