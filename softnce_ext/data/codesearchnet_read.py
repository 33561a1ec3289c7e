"""Read what `softnce prepare csn` wrote: pairs to train on, and queries against a code base."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .codesearchnet_files import MANIFEST
from .codesearchnet_folder import FILES, FORMAT
from .codesearchnet_rows import FIELDS
from .formats import decode_line, stream_lines
from .pairs import Pair, Pairs
from .rows import BadRow

if TYPE_CHECKING:
    import numpy as np

Form = Literal["source", "tokens"]
PARTITIONS = ("train", "valid", "test")


class Retrieval(NamedTuple):
    """Queries, and the code base in which each has one gold code.

    Attributes:
        queries: Documentation, [N].
        query_urls: URL of each query's function, [N].
        packages: Repository of each query's function, [N]: the unit of a bootstrap.
        codes: The code base, [M], M >= N.
        code_urls: URL of each code, [M].
        names: Function name of each code, [M].
        target: Index in `codes` of each query's gold code, int64 [N].
    """

    queries: list[str]
    query_urls: list[str]
    packages: list[str]
    codes: list[str]
    code_urls: list[str]
    names: list[str]
    target: np.ndarray[Any, Any]


def is_prepared(path: str | Path) -> bool:
    """Say whether a folder holds a prepared language, or folders of them."""
    return bool(_language_folders(Path(path)))


def read_prepared(
    folder: str | Path, partitions: Sequence[str] = PARTITIONS, *, form: Form = "source"
) -> Pairs:
    """Read prepared pairs; a query of valid and test gets its code from the code base, by URL.

    Args:
        folder: A language's folder, or the folder of several: their pairs follow one another.
        partitions: Those to read, of "train", "valid" and "test". Left out where not prepared.
        form: "source" is the function's text without its docstring, "tokens" CodeSearchNet's
            tokens joined by blanks, which CodeBERT and UniXcoder were trained and measured on.

    Returns:
        The pairs in file order with their partitions.

    Raises:
        FileNotFoundError: The folder was not prepared.
        ValueError: An argument is not one of those named, or a file is not as the manifest says.
    """
    for partition in partitions:
        _check("partitions", partition, PARTITIONS)
    _check("form", form, ("source", "tokens"))
    folders = _language_folders(Path(folder))
    if not folders:
        raise FileNotFoundError(f"{folder}: there is no {MANIFEST}; `softnce prepare csn` makes it")
    pairs: list[Pair] = []
    found: dict[Pair, str] = {}
    lost = 0
    for each in folders:
        for partition, pair in _pairs(each, partitions, form):
            if pair is None:
                lost += 1
                continue
            pairs.append(pair)
            found.setdefault(pair, partition)
    counts = {name: 0 for name in partitions}
    for partition in found.values():
        counts[partition] += 1
    report = {
        "pairs": len(pairs),
        "files": len(folders),
        "lines": len(pairs) + lost,
        "bad_lines": 0,
        "bad_examples": [],
        "dropped": {"no code in the code base": lost} if lost else {},
        "partitions": counts,
    }
    return Pairs(pairs, partitions=found, report=report)


def read_retrieval(
    folder: str | Path, partition: str = "test", *, form: Form = "source"
) -> Retrieval:
    """Read what the paper evaluates on: a partition's queries against the whole code base.

    Args:
        folder: A language's folder.
        partition: "test" or "valid"; both have the same code base.
        form: As in `read_prepared`.

    Raises:
        FileNotFoundError: The folder was not prepared, or not this partition or the code base.
        ValueError: A query has no code in the code base, two codes have one URL, or a file is not
            as the manifest says.
    """
    import numpy as np

    _check("partition", partition, ("valid", "test"))
    _check("form", form, ("source", "tokens"))
    folder = Path(folder)
    files = _files(folder)
    key = "code" if form == "source" else "tokens"
    rows = _rows(folder, files, "codebase")
    base = [(row["url"], row[key], row["name"]) for row in rows]
    place = {url: i for i, (url, _, _) in enumerate(base)}
    if len(place) < len(base):
        raise ValueError(f"{folder}: {len(base) - len(place)} URLs are in the code base twice")
    asked = [(row["query"], row["url"], row["package"]) for row in _rows(folder, files, partition)]
    lost = [url for _, url, _ in asked if url not in place]
    if lost:
        raise ValueError(
            f"{folder}: {len(lost):,} of {len(asked):,} {partition} queries have no code in the"
            f" code base, the first is {lost[0]}"
        )
    return Retrieval(
        [query for query, _, _ in asked],
        [url for _, url, _ in asked],
        [package for _, _, package in asked],
        [code for _, code, _ in base],
        [url for url, _, _ in base],
        [name for _, _, name in base],
        np.array([place[url] for _, url, _ in asked], dtype=np.int64),
    )


def _pairs(
    folder: Path, partitions: Iterable[str], form: Form
) -> Iterator[tuple[str, Pair | None]]:
    """Yield (partition, pair) of one language; None where a query has no code."""
    files = _files(folder)
    key = "code" if form == "source" else "tokens"
    codes: dict[str, str] = {}
    if not {"valid", "test"}.isdisjoint(partitions) and "codebase" in files:
        codes = {row["url"]: row[key] for row in _rows(folder, files, "codebase")}
    for partition in partitions:
        if partition not in files:
            continue
        for row in _rows(folder, files, partition):
            code = row[key] if partition == "train" else codes.get(row["url"])
            place = (row["name"], row["package"], row["path"], row["line"], row["language"])
            yield partition, None if code is None else Pair(row["query"], code, *place)


def _language_folders(path: Path) -> list[Path]:
    if (path / MANIFEST).is_file():
        return [path]
    if not path.is_dir():
        return []
    return sorted(each for each in path.iterdir() if (each / MANIFEST).is_file())


def _files(folder: Path) -> dict[str, int]:
    """Return the files that a manifest says are there, and their rows."""
    path = folder / MANIFEST
    if not path.is_file():
        inner = ", ".join(each.name for each in _language_folders(folder))
        cure = f"it holds {inner}: name one of them" if inner else "`softnce prepare csn` makes it"
        raise FileNotFoundError(f"{folder}: there is no {MANIFEST}; {cure}")
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(f"its format must be {FORMAT}, got {manifest['format']}")
        told = [(name, manifest["files"].get(name) or {}) for name in FILES]
        return {name: int(facts["rows"]) for name, facts in told if "sha256" in facts}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a manifest that can be read: {error}") from None


def _rows(folder: Path, files: dict[str, int], name: str) -> Iterator[dict[str, Any]]:
    """Yield a prepared file's rows, and hold their number against the manifest."""
    path = folder / f"{name}.jsonl.gz"
    if name not in files:
        raise FileNotFoundError(f"{path}: was not prepared; `softnce prepare csn` says why")
    rows, fields = 0, dict.fromkeys(FIELDS[name]).keys()
    with open(path, "rb") as raw:
        for number, line in stream_lines(raw, str(path), lambda _: None):
            try:
                row = decode_line(line)
            except BadRow as error:
                raise ValueError(f"{path}:{number}: {error}") from None
            if not isinstance(row, dict) or not row.keys() >= fields:
                raise ValueError(f"{path}:{number}: must be a JSON object with {', '.join(fields)}")
            rows += 1
            yield row
    if rows != files[name]:
        raise ValueError(
            f"{path}: must have {files[name]:,} rows, as {MANIFEST} says, got {rows:,}"
        )


def _check(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(allowed)}, got {value!r}")
