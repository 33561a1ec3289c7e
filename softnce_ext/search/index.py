"""The index of a code base: vectors, words and places of its functions, kept between searches.

An index is a folder: `vectors.npy`, `lexical/`, `functions.jsonl` and `manifest.json` with the
size and checksum of each. Its name holds a hash of everything that decides its content, so that
an index is never stale; it is written elsewhere and renamed, so that it is never half there.

The vector of a function is that of its name and its code without the docstring, the text encoders
are trained on. Its docstring, where it has one, is indexed with its words.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..data.pairs import Pair
from ..encoders.saved import encode, local_folder
from ..encoders.text import code_text
from ..lexical import Lexical

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class Index:
    """The functions of a code base, ready to be searched.

    Attributes:
        vectors: One vector per function, float32 [M, D].
        lexical: The functions' words.
        records: One JSON text per function, read when it is shown.
    """

    vectors: np.ndarray[Any, Any]
    lexical: Lexical
    records: list[bytes]

    def function(self, number: int) -> Pair:
        """Return a function: name, code, path, line; `query` is its documentation, or ""."""
        return Pair(**json.loads(self.records[number]))


def build_index(
    functions: Sequence[Pair],
    model: SentenceTransformer,
    *,
    name_boost: int,
    batch_size: int | None = None,
    progress: bool = False,
) -> Index:
    """Encode and index functions.

    Args:
        functions: The functions; `query` is a function's documentation, or "".
        model: The encoder.
        name_boost: How often a function's name is put before its code, as in training.
        batch_size: Texts encoded at once; None for what suits the model.
        progress: Show progress on stderr.

    Raises:
        ValueError: There are no functions.
    """
    if not functions:
        raise ValueError("functions must hold at least one function, got none")
    texts = [code_text(each.name, each.code, name_boost) for each in functions]
    words = [f"{each.query}\n{each.code}" for each in functions]
    return Index(
        encode(model, texts, "code", batch_size, progress),
        Lexical([each.name for each in functions], words, plus=True),
        [json.dumps(asdict(each)).encode() for each in functions],
    )


def default_folder() -> Path:
    """Return where indexes are kept: in $SOFTNCE_CACHE, else in the user's cache folder."""
    if os.environ.get("SOFTNCE_CACHE"):
        return Path(os.environ["SOFTNCE_CACHE"], "index")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "softnce_ext", "index")


def index_name(
    model: str,
    code: Path,
    files: Iterable[Path],
    *,
    language: str | None = None,
    **settings: Any,
) -> tuple[str, str]:
    """Return the two parts of an index's folder name: which index it is, and of what state.

    The first part names model, code base and language; the second is a hash of the model's files,
    of the settings and of every source file's path, size and time of change.

    Args:
        model: Folder of the model, or its name.
        code: The code base.
        files: Its source files.
        language: The one that is read; None for all.
        **settings: Whatever else decides the index's content; JSON values.
    """
    folder = local_folder(model) or Path(model)
    name = str(folder.resolve()) if Path(model).exists() else model
    place = [name, str(code.resolve()), language]
    model_files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [__version__, settings, *(_state(path) for path in (*model_files, *sorted(files)))]
    readable = re.sub(r"\W+", "-", code.resolve().name, flags=re.ASCII).strip("-")[:40] or "code"
    return f"{readable}-{_hash(place)[:12]}", _hash(state)[:16]


def open_index(
    root: Path, name: tuple[str, str], build: Callable[[], Index], tell: Callable[[str], None]
) -> tuple[Index, Path | None, bool]:
    """Return the saved index of that name, or build and save it.

    Args:
        root: Folder that holds indexes.
        name: From `index_name`. Older states of the same index are removed.
        build: Makes the index where there is none that can be used.
        tell: Called with a sentence for the user where one is due.

    Returns:
        The index, its folder (None where it could not be saved) and whether it was there already.
    """
    which, state = name
    folder = root / f"{which}-{state}"
    older = [path for path in root.glob(f"{which}-*") if path != folder]
    if folder.exists():
        try:
            return load_index(folder), folder, True
        except Exception as error:  # it is but a cache: whatever is wrong, it can be made again
            tell(f"the index {folder} is damaged ({error}); building it again")
    elif older:
        tell("the code, the model or its settings changed since the last search; indexing again")
    index = build()
    try:
        save_index(index, folder)
    except OSError as error:  # a full or read-only disk is no reason not to answer
        tell(f"the index cannot be saved ({error}); choose another folder with --index")
        return index, None, False
    for path in older:
        shutil.rmtree(path, ignore_errors=True)
    return index, folder, False


def save_index(index: Index, folder: Path) -> None:
    """Write an index into a folder that appears whole or not at all; what was there goes.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        np.save(building / "vectors.npy", index.vectors, allow_pickle=False)
        index.lexical.save(building / "lexical")
        (building / "functions.jsonl").write_bytes(b"".join(line + b"\n" for line in index.records))
        files = {
            path.relative_to(building).as_posix(): [path.stat().st_size, _checksum(path)]
            for path in sorted(building.rglob("*"))
            if path.is_file()
        }
        manifest = {"files": files, "functions": len(index.records)}
        (building / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def load_index(folder: Path) -> Index:
    """Read a saved index; the vectors stay on disk until they are used.

    Raises:
        Exception: It is damaged; of what kind depends on where.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name, (size, checksum) in manifest["files"].items():
        path = folder / name
        if path.stat().st_size != size or _checksum(path) != checksum:
            raise ValueError(f"{name} is not as it was written")
    vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    records = (folder / "functions.jsonl").read_bytes().splitlines()
    if not len(vectors) == len(records) == manifest["functions"]:
        raise ValueError(f"{len(vectors)} vectors for {len(records)} functions")
    return Index(vectors, Lexical.load(folder / "lexical"), records)


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _state(path: Path) -> list[Any]:
    """What tells whether a file changed: its path, size and time of change."""
    try:
        status = path.stat()
    except OSError:  # gone, or a link to nothing
        return [str(path.absolute())]
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
