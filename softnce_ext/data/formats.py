"""Read pairs from what a user has: a folder of source, JSON lines, CodeSearchNet's files."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Literal

from .atomic import write_lines
from .gather import Gathered
from .mining import mine_folder
from .pairs import Pair, Pairs, of_language
from .rows import PARTITION_OF_WORD, BadRow, has_texts, read_row
from .source_files import SUFFIXES, language_of

MAX_LINE_BYTES = 16_000_000
MAX_BAD_FRACTION = 0.01
_FIRST_ROWS = 5  # that tell pairs from other data
JSON_LINES = (".jsonl", ".jsonl.gz", ".json.gz", ".ndjson")


def read_pairs(
    path: str | Path,
    *,
    language: str | None = None,
    on_bad_line: Literal["error", "skip"] = "error",
    max_per_package: int | None = None,
    workers: int = 2,
    progress: bool = True,
) -> Pairs:
    """Read pairs from a folder of source, a JSON lines file (".gz" too), or a folder of such files.

    A folder that `softnce prepare csn` wrote gives its queries their codes. Any other folder that
    holds JSON lines files is read as data. Where source files are there too, it is only if such a
    file at its top begins with rows of pairs, and other files are left alone. Rows are our own
    ({"query", "code", ...}) or CodeSearchNet's. A partition (train, valid, test) comes from a row's
    own field or from its file's name. Of rows that repeat a (query, code) pair one stands, in test
    before valid before train.

    Args:
        path: The folder or file.
        language: Whose pairs: "go", "java", "javascript", "php", "python" or "ruby"; None for all.
        on_bad_line: "error" stops at the first bad line; "skip" counts bad lines, and stops when
            more than 1 % of all lines are bad.
        max_per_package: Largest number of pairs mined per package of a folder of source.
        workers: Number of processes that mine source.
        progress: Show a progress bar on stderr.

    Returns:
        The pairs in file order; `partitions` and `report` say what the files said.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: A line is bad (named by file and line), a file is empty or cut off, or nothing
            readable, or of the language, is in the folder. Some files say a partition and others
            do not.
        ImportError: There is source, and all of it needs a grammar that is not installed.
    """
    from .codesearchnet_read import is_prepared, read_prepared

    path = Path(path)
    if on_bad_line not in ("error", "skip"):
        raise ValueError(f'on_bad_line must be "error" or "skip", got {on_bad_line!r}')
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if is_prepared(path):
        return of_language(read_prepared(path), language)
    files = _data_files(path)
    if files:
        return of_language(_read_files(path, files, on_bad_line == "skip", progress), language)
    if path.is_file() and language_of(path.name) is None:
        suffixes = ", ".join(SUFFIXES)
        raise ValueError(
            f"{path}: a data file must end in .jsonl or .jsonl.gz, source in {suffixes}"
        )
    pairs = mine_folder(
        path,
        language=language,
        max_per_package=max_per_package,
        workers=workers,
        progress=progress,
    )
    if not pairs.report["files"]:
        wanted = "source" if language is None else language
        raise ValueError(f"{path}: there are no {wanted}, .jsonl or .jsonl.gz files in this folder")
    return pairs


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSON lines, compressed where the path ends in ".gz"; whole or not at all.

    Args:
        path: The file.
        pairs: The pairs; those of a `Pairs` list are written with their partitions.

    Raises:
        OSError: The file cannot be written.
    """
    partitions: Mapping[Pair, str] = getattr(pairs, "partitions", {})
    write_lines(
        path,
        (
            json.dumps(
                {
                    "query": pair.query,
                    "code": pair.code,
                    "name": pair.name,
                    "package": pair.package,
                    "path": pair.path,
                    "line": pair.line,
                    "language": pair.language,
                    **({"partition": partitions[pair]} if pair in partitions else {}),
                },
                ensure_ascii=False,
            )
            for pair in pairs
        ),
    )


def _data_files(path: Path) -> list[Path]:
    """Return the JSON lines files that a path stands for; none where it is a folder of source."""
    if path.is_file():
        return [path] if path.name.endswith(JSON_LINES) else []
    top = [each for each in path.iterdir() if each.name.endswith(JSON_LINES) and each.is_file()]
    nested: list[Path] = []
    has_source = False
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = sorted(each for each in subfolders if not each.startswith("."))
        has_source = has_source or any(map(language_of, names))
        if has_source and not top:
            return []  # data files below a folder of source are its fixtures
        nested.extend(Path(folder, name) for name in sorted(names) if name.endswith(JSON_LINES))
    # "codebase" files repeat the rows of valid and test without their documentation.
    files = [each for each in nested if each.is_file() and not each.name.startswith("codebase.")]
    if not has_source:
        return files
    # Beside source they may be anything, such as a log.
    return list(filter(_holds_pairs, files)) if any(map(_holds_pairs, top)) else []


def _holds_pairs(file: Path) -> bool:
    """Say whether one of a file's first rows has the columns of a pair."""
    with open(file, "rb") as raw, suppress(ValueError):  # a broken archive
        for _, line in islice(stream_lines(raw, str(file), lambda _: None), _FIRST_ROWS):
            with suppress(BadRow):
                if has_texts(decode_line(line)):
                    return True
    return False


def _read_files(root: Path, files: list[Path], skip: bool, progress: bool) -> Pairs:
    from tqdm import tqdm

    gathered = Gathered()
    of_partition: dict[bool, Path] = {}  # whether a file says one -> the first such file
    bad: list[str] = []
    lines = bad_lines = 0
    total = sum(file.stat().st_size for file in files)
    with tqdm(
        total=total,
        desc="reading",
        unit="B",
        unit_scale=True,
        mininterval=0.3,
        disable=not progress,
    ) as bar:
        for file in files:
            named = _partition_of_name(file.relative_to(root) if root.is_dir() else Path(file.name))
            found, says = 0, named
            with open(file, "rb") as raw:
                for number, line in stream_lines(raw, str(file), bar.update):
                    found += 1
                    try:
                        row = read_row(decode_line(line))
                    except BadRow as error:
                        column = f":{error.column}" if error.column else ""
                        where = f"{file}:{number}{column}: {error}"
                        if not skip:
                            raise ValueError(where) from None
                        bad_lines += 1
                        bad = bad if len(bad) == 5 else [*bad, where]
                        continue
                    partition = row.partition or named
                    says = says or partition
                    gathered.add(row, partition)
            if not found:
                raise ValueError(f"{file}: the file is empty")
            lines += found
            of_partition.setdefault(bool(says), file)
            if len(of_partition) == 2:
                raise ValueError(
                    f"{of_partition[False]}: its name or its rows must say a partition, as those"
                    f" of {of_partition[True].name} do, by one of {', '.join(PARTITION_OF_WORD)}"
                )
    if bad_lines > MAX_BAD_FRACTION * lines:
        raise ValueError(
            f"{root}: {bad_lines:,} of {lines:,} lines are bad, more than"
            f" {MAX_BAD_FRACTION:.0%}; the first: {bad[0]}"
        )
    read = {"files": len(files), "lines": lines, "bad_lines": bad_lines, "bad_examples": bad}
    return gathered.finished(str(root), read)


def stream_lines(
    raw: IO[bytes], name: str, advance: Callable[[int], object]
) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, bytes) of the lines that are not blank, uncompressed where need be.

    A line past MAX_LINE_BYTES comes cut off, so that no file can fill the memory.

    Args:
        raw: A file or a member of a zip, open for reading and at its start.
        name: What errors call it.
        advance: Called with the bytes of `raw` that were read since the last call.

    Raises:
        ValueError: A gzip file is cut off or broken.
    """
    stream = raw
    if raw.peek(2)[:2] == b"\x1f\x8b":  # type: ignore[attr-defined]
        stream = gzip.GzipFile(fileobj=raw, mode="rb")  # type: ignore[assignment]
    number = done = 0
    try:
        while line := stream.readline(MAX_LINE_BYTES):
            number += 1
            whole = line
            while not whole.endswith(b"\n") and (more := stream.readline(MAX_LINE_BYTES)):
                whole = more
            if line.strip():
                yield number, line
            position = raw.tell()
            advance(position - done)
            done = position
    except EOFError:
        raise ValueError(f"{name}: the gzip file is cut off after line {number}") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name}: the gzip file is broken after line {number}: {error}") from None


def decode_line(line: bytes) -> object:
    """Return the JSON value of a line.

    Raises:
        BadRow: It has none, or is too long.
    """
    if len(line) >= MAX_LINE_BYTES:
        raise BadRow(f"must have less than {MAX_LINE_BYTES:,} bytes in a line")
    try:
        return json.loads(line.decode("utf-8-sig").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise BadRow(f"byte {byte:#04x} is not UTF-8", error.start + 1) from None
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON: {error.msg}", error.colno) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 10,000 brackets
        raise BadRow(f"not JSON that can be read: {error}") from None


def _partition_of_name(path: Path) -> str:
    """Return the partition that a file's name or folder says; the last word of it counts."""
    for part in reversed(path.parts):
        for word in reversed(re.split(r"[^a-z]+", part.lower())):
            if word in PARTITION_OF_WORD:
                return PARTITION_OF_WORD[word]
    return ""
