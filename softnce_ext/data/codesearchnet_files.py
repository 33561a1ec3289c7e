"""Where a CodeSearchNet dump and its URL lists lie: files, folders and zips, read as streams."""

from __future__ import annotations

import codecs
import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from .formats import JSON_LINES
from .rows import PARTITION_OF_WORD

LANGUAGES = ("ruby", "python", "java", "javascript", "php", "go")
MANIFEST = "prepared.json"

_FILE_OF_WORD = {**PARTITION_OF_WORD, "codebase": "codebase"}
_LISTS = (".txt", ".txt.gz")
PARQUET = (".parquet",)


class Entry(NamedTuple):
    """A file, or a member of a zip; `inside` are its path's parts from the given source on."""

    file: Path
    member: str
    size: int
    inside: tuple[str, ...]

    @property
    def name(self) -> str:
        """What an error calls it."""
        return f"{self.file}:{self.member}" if self.member else str(self.file)

    @property
    def origin(self) -> str:
        """The file's path from the given source on, the same wherever the source lies."""
        count = len(PurePosixPath(self.member).parts) if self.member else 0
        return "/".join(self.inside[: len(self.inside) - count])


class Part(NamedTuple):
    """A file of records: its language and partition where its path says them, else ""."""

    entry: Entry
    language: str
    partition: str


def find_parts(sources: Iterable[Path]) -> list[Part]:
    """Return the files of records below files, folders and zips, in name order.

    Raises:
        FileNotFoundError: A source does not exist.
        ValueError: A zip is broken, or there is nothing to read.
    """
    parts: list[Part] = []
    sources = list(sources)
    for source in sources:
        for entry in find_entries(source, (*JSON_LINES, *PARQUET)):
            # Of the source's own name the language alone counts: a folder may be called anything.
            below = entry.inside if source.is_file() else entry.inside[1:]
            partition = _nearest(below, _FILE_OF_WORD)
            parts.append(Part(entry, _nearest(entry.inside, _LANGUAGE_OF_WORD), partition))
    if not parts:
        given = ", ".join(map(str, sources))
        raise ValueError(f"{given}: there is no .jsonl, .jsonl.gz or .parquet file, zipped or not")
    return parts


def parts_of(parts: Iterable[Part], language: str, partition: str) -> list[Part]:
    """Return the parts that hold a partition of a language, of one kind where kinds repeat it.

    An archive beside its unpacked copy would give every record twice, so zips go before JSON lines
    and these before parquet; what no path names is read only where nothing is named.
    """
    found: dict[tuple[bool, int], list[Part]] = {}
    for part in parts:
        is_codebase = "codebase" in (part.partition, partition)
        if part.language not in ("", language) or part.partition not in (
            (partition,) if is_codebase else ("", partition)
        ):
            continue
        file = part.entry.file.name
        kind = 2 if file.endswith(PARQUET) else 0 if part.entry.member else 1
        found.setdefault((not part.language, kind), []).append(part)
    return found[min(found)] if found else []


def find_entries(source: Path, suffixes: tuple[str, ...]) -> list[Entry]:
    """Return the files below a source whose names end so, members of zips among them."""
    if not source.exists():
        raise FileNotFoundError(f"{source}: there is no such file or folder")
    if source.is_file():
        return _entries_of_file(source, (source.name,), suffixes)
    root = source.resolve().name
    found: list[Entry] = []
    for folder, subfolders, names in os.walk(source):
        if MANIFEST in names:  # what an earlier run wrote is no source
            subfolders.clear()
            continue
        subfolders[:] = sorted(each for each in subfolders if not each.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                inside = (root, *path.relative_to(source).parts)
                found.extend(_entries_of_file(path, inside, suffixes))
    return found


def read_url_lists(source: Path, language: str) -> dict[str, list[bytes]]:
    """Return the URL lists of a language: train, valid, test and codebase.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: A list is absent, there twice, empty or broken, or names a URL twice.
    """
    found: dict[str, Entry] = {}
    for entry in find_entries(source, _LISTS):
        name = _nearest(entry.inside, _FILE_OF_WORD)
        if not name or _nearest(entry.inside, _LANGUAGE_OF_WORD) != language:
            continue
        if name in found:
            raise ValueError(f"{source}: two {name} lists for {language}: {found[name].name} and"
                             f" {entry.name}")  # fmt: skip
        found[name] = entry
    lists: dict[str, list[bytes]] = {}
    for name in ("train", "valid", "test", "codebase"):
        if name not in found:
            raise ValueError(f"{source}: there is no list {language}/{name}.txt")
        lists[name] = _read_list(found[name])
    return lists


def _entries_of_file(path: Path, inside: tuple[str, ...], suffixes: tuple[str, ...]) -> list[Entry]:
    if path.suffix.lower() != ".zip":
        whole = Entry(path, "", path.stat().st_size, inside)
        return [whole] if path.name.endswith(suffixes) else []
    found = []
    with _zip(path) as archive:
        for member in sorted(archive.infolist(), key=lambda each: each.filename):
            parts = PurePosixPath(member.filename.replace("\\", "/")).parts
            hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
            if member.filename.endswith(suffixes) and not hidden:
                found.append(Entry(path, member.filename, member.file_size, (*inside, *parts)))
    return found


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path}: not a whole zip file, cut off perhaps: {error}") from None


class opened:
    """Open an entry; an error of the zip around it becomes a sentence that names the member."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.archive: zipfile.ZipFile | None = None

    def __enter__(self) -> IO[bytes]:
        if not self.entry.member:
            self.stream: IO[bytes] = open(self.entry.file, "rb")
            return self.stream
        self.archive = _zip(self.entry.file)
        try:
            self.stream = self.archive.open(self.entry.member)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            self.archive.close()
            raise ValueError(f"{self.entry.name}: cannot be opened: {error}") from None
        return self.stream

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.stream.close()
        if self.archive is not None:
            self.archive.close()
        if isinstance(error, (zipfile.BadZipFile, zlib.error, EOFError)):
            raise ValueError(f"{self.entry.name}: the zip is broken here: {error}") from None


def _read_list(entry: Entry) -> list[bytes]:
    with opened(entry) as raw:
        data = raw.read()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{entry.name}: the gzip file is cut off or broken: {error}") from None
    data = data.removeprefix(codecs.BOM_UTF8)  # as Windows' editors write it
    urls: dict[bytes, int] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        url = line.strip()
        if not url:
            continue
        if url in urls:
            text = url.decode("utf-8", "replace")
            raise ValueError(
                f"{entry.name}:{number}: a list must name a URL once, got {text} again after line"
                f" {urls[url]}"
            )
        urls[url] = number
    if not urls:
        raise ValueError(f"{entry.name}: the list is empty")
    return list(urls)


def _nearest(parts: Iterable[str], words: Mapping[str, str]) -> str:
    """Return what the last of a path's words says that is among the given ones."""
    for part in reversed(list(parts)):
        for word in reversed(re.split(r"[^a-z]+", part.lower())):
            if word in words:
                return words[word]
    return ""


_LANGUAGE_OF_WORD = {language: language for language in LANGUAGES}
