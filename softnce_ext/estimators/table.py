"""A table of vectors on disk: how it is written, resumed, checked and read.

A folder holds `vectors.npy`, and beside it `table.json` with its checksum and what it was made of;
while it is being written, `progress.json` with how far it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]
Encode = Callable[[Sequence[str]], "Tensor"]

_CHUNK_TEXTS = 2048  # what a stopped build loses at most
_BLOCK_BYTES = 1 << 22
_MANIFEST, _PROGRESS, _VECTORS = "table.json", "progress.json", "vectors.npy"


class StaleTableError(ValueError):
    """A table that is damaged, or was made of other texts or by another model."""


@dataclass(frozen=True)
class TeacherTable:
    """Vectors of a data set's texts, mapped into memory.

    Attributes:
        vectors: float32 or float16 [T, D], on disk.
        folder: Where it is kept.
        built: Whether it was made now; False where it had been made before.
        seconds: What making it took, then or now.
        megabytes: Its size on disk.
        texts: `text_hash` of what it was made of; "" where that is not known.
    """

    vectors: Array
    folder: Path
    built: bool
    seconds: float
    megabytes: float
    texts: str = ""

    def __len__(self) -> int:
        return len(self.vectors)

    def __deepcopy__(self, memo: dict[int, Any]) -> TeacherTable:
        return self  # a copy would be one of the mapped file, in memory

    def check_texts(self, texts: Sequence[str]) -> None:
        """Refuse to stand for other texts: rows of those would be found all the same.

        Raises:
            StaleTableError: The table was not made of these texts in this order.
        """
        if len(texts) != len(self) or text_hash(texts) != self.texts:
            raise StaleTableError(
                f"the table {self.folder} of {len(self):,} texts was made of other data than the "
                f"{len(texts):,} texts given, or of these in another order: make theirs with cache"
            )

    def take(self, rows: Tensor) -> Tensor:
        """Return the vectors of rows, float32 [N, D], on the rows' device.

        Raises:
            IndexError: The table has no such row.
        """
        import torch

        numbers = rows.detach().cpu().numpy()
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(
                f"row must be in [0, {len(self)}), got {numbers.min()} to {numbers.max()}: "
                f"the table {self.folder} is of other data"
            )
        found = np.asarray(self.vectors[numbers], dtype=np.float32)
        return torch.from_numpy(found).to(rows.device, non_blocking=True)


def open_table(
    folder: str | os.PathLike[str],
    identity: Mapping[str, Any] | None = None,
    *,
    built: bool = False,
) -> TeacherTable:
    """Open a finished table and hold it against its checksum and what it should be of.

    Args:
        folder: The table's own folder.
        identity: What decided its vectors; entries that differ make it stale. None: not compared.
        built: Whether it was made just now.

    Raises:
        StaleTableError: It is damaged, or of other texts or another model.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        size = (folder / _VECTORS).stat().st_size
        if size != manifest["bytes"]:
            raise ValueError(f"{_VECTORS} has {size} bytes instead of {manifest['bytes']}")
        if _digest(folder / _VECTORS, size).hexdigest() != manifest["sha256"]:
            raise ValueError(f"{_VECTORS} is not what was written")
        vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
        found, seconds = manifest["identity"], float(manifest["seconds"])
        made_of = str(found["texts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StaleTableError(
            f"the table {folder} is damaged ({error}): delete the folder to encode anew"
        ) from error
    for name, value in (identity or {}).items():
        if found.get(name) != value:
            raise StaleTableError(
                f"the table {folder} was made with {name} {found.get(name)!r}, not {value!r}: "
                "delete the folder to encode anew"
            )
    return TeacherTable(vectors, folder, built, seconds, size / 1e6, made_of)


def text_hash(texts: Sequence[str]) -> str:
    """Return a hash of texts and their order.

    Raises:
        TypeError: One is no text.
    """
    digest = hashlib.sha256()
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must hold texts, got {type(text).__name__} in row {row}")
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def write_table(
    part: Path, encode: Encode, texts: Sequence[str], identity: Mapping[str, Any], progress: bool
) -> None:
    """Encode texts into the folder `part`, from where an earlier call was stopped.

    The manifest comes last: a folder without it is not whole.

    Raises:
        ValueError: Vectors are not finite, or of changing width.
        OSError: A file cannot be written.
    """
    from tqdm import tqdm

    part.mkdir(exist_ok=True, mode=0o700)
    state, digest = _resumed(part)
    with (
        open(part / _VECTORS, "r+b" if state["rows"] else "wb") as file,
        tqdm(total=len(texts), initial=state["rows"], desc="encoding", disable=not progress) as bar,
    ):
        file.truncate(state["bytes"])
        file.seek(state["bytes"])
        for start in range(state["rows"], len(texts), _CHUNK_TEXTS):
            begin = time.perf_counter()
            chunk = texts[start : start + _CHUNK_TEXTS]
            with np.errstate(over="ignore"):  # what overflows in float16 is refused below
                vectors = encode(chunk).detach().float().cpu().numpy()
                vectors = vectors.astype(identity["dtype"], copy=False)
            _check_chunk(vectors, start, len(chunk), state["width"])
            data = vectors.tobytes()
            if start == 0:
                _check_space(part, len(data) // len(chunk) * len(texts))
                data = _header(vectors.dtype, (len(texts), vectors.shape[1])) + data
            file.write(data)  # not through a map, whose writes kill the process on a full disk
            file.flush()
            os.fsync(file.fileno())
            digest.update(data)
            state["rows"] += len(chunk)
            state["bytes"] += len(data)
            state["width"] = vectors.shape[1]
            state["sha256"] = digest.hexdigest()
            state["seconds"] += time.perf_counter() - begin
            _write_json(part / _PROGRESS, state)
            bar.update(len(chunk))
    facts = {name: state[name] for name in ("bytes", "sha256", "seconds")}
    _write_json(part / _MANIFEST, {"identity": dict(identity), **facts})
    (part / _PROGRESS).unlink()


def _resumed(part: Path) -> tuple[dict[str, Any], Any]:
    """Return how far an earlier call came, and the digest of what it wrote."""
    try:
        state = json.loads((part / _PROGRESS).read_text(encoding="utf-8"))
        digest = _digest(part / _VECTORS, state["bytes"])
        if digest.hexdigest() == state["sha256"]:
            return state, digest
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"rows": 0, "width": None, "bytes": 0, "seconds": 0.0}, hashlib.sha256()


def _check_chunk(vectors: Array, start: int, texts: int, width: int | None) -> None:
    width = width or vectors.shape[-1]
    if vectors.shape != (texts, width):
        raise ValueError(f"encode must return shape [{texts}, {width}], got {list(vectors.shape)}")
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise ValueError(
            f"the vectors must be finite in {vectors.dtype}, that of text "
            f"{start + int(broken.argmax())} is not"
        )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        reason = f"it needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free"
        raise OSError(errno.ENOSPC, reason)


def _header(dtype: np.dtype[Any], shape: tuple[int, int]) -> bytes:
    """Return how a .npy file of that type and shape begins."""
    buffer = io.BytesIO()
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _digest(path: Path, size: int) -> Any:
    """Return the digest of a file's first bytes; ValueError where it has fewer."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while size > 0:
            block = file.read(min(size, _BLOCK_BYTES))
            if not block:
                raise ValueError(f"{path.name} is shorter than was written")
            digest.update(block)
            size -= len(block)
    return digest
