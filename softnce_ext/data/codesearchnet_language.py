"""One language as `softnce prepare csn` wrote it: pairs and tasks, each file read once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
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
        language: Of the codes.
    """

    queries: list[str]
    query_urls: list[str]
    packages: list[str]
    codes: list[str]
    code_urls: list[str]
    names: list[str]
    target: np.ndarray[Any, Any]
    language: str


class PreparedLanguage:
    """A language's folder that `softnce prepare csn` wrote; each file is read once, when needed.

    Args:
        folder: The folder.
        form: As in `read_prepared`.

    Raises:
        FileNotFoundError: The folder was not prepared.
        ValueError: `form` is none of the two, or the manifest cannot be read.
    """

    def __init__(self, folder: str | Path, form: Form = "source") -> None:
        _check("form", form, ("source", "tokens"))
        self.folder = Path(folder)
        self._files = _files(self.folder)
        self._key = "code" if form == "source" else "tokens"
        self._held_out: dict[str, list[dict[str, Any]]] = {}

    def check_whole(self) -> None:
        """Refuse a folder without one of its files.

        Raises:
            FileNotFoundError: `softnce prepare csn` did not write it.
        """
        for name in FILES:
            if name not in self._files:
                raise _not_prepared(self.folder / f"{name}.jsonl.gz")

    def unlike_paper(self) -> str:
        """Say in words why the files are not what the paper used, "" where they are."""
        if any(facts.get("state") == "unfiltered" for facts in self._files.values()):
            return f"{self.folder.name} was prepared without the filter"
        short = [
            f"{name} {facts['rows']:,} of {facts['expected']:,}"
            for name, facts in self._files.items()
            if facts.get("state") == "incomplete"
        ]
        if not short:
            return ""
        return f"{self.folder.name} was prepared with too few rows: {', '.join(short)}"

    def pairs(self, partitions: Sequence[str] = PARTITIONS) -> Pairs:
        """Return pairs as `read_prepared` does."""
        return joined_pairs([self], partitions)

    def retrieval(self, partition: str = "test") -> Retrieval:
        """Return queries and code base as `read_retrieval` does; partitions share their lists."""
        import numpy as np

        _check("partition", partition, ("valid", "test"))
        base, rows = self._base, self._rows(partition)
        if len(base.place) < len(base.urls):
            twice = len(base.urls) - len(base.place)
            raise ValueError(f"{self.folder}: {twice} URLs are in the code base twice")
        urls = [row["url"] for row in rows]
        lost = [url for url in urls if url not in base.place]
        if lost:
            raise ValueError(
                f"{self.folder}: {len(lost):,} of {len(urls):,} {partition} queries have no code in"
                f" the code base, the first is {lost[0]}"
            )
        return Retrieval(
            [row["query"] for row in rows],
            urls,
            [row["package"] for row in rows],
            base.codes,
            base.urls,
            base.names,
            np.array([base.place[url] for url in urls], dtype=np.int64),
            next((row["language"] for row in rows), ""),
        )

    def each_pair(self, partitions: Iterable[str]) -> Iterator[tuple[str, Pair | None]]:
        """Yield (partition, pair); None where a query has no code in the code base."""
        for partition in partitions:
            if partition not in self._files:
                continue
            for row in self._rows(partition):
                code = row[self._key] if partition == "train" else self._code(row["url"])
                place = (row["name"], row["package"], row["path"], row["line"], row["language"])
                yield partition, None if code is None else Pair(row["query"], code, *place)

    def _code(self, url: str) -> str | None:
        if "codebase" not in self._files or url not in self._base.place:
            return None
        return self._base.codes[self._base.place[url]]

    def _rows(self, partition: str) -> Iterable[dict[str, Any]]:
        if partition == "train":  # large, and read by nobody else
            return _rows(self.folder, self._files, partition)
        if partition not in self._held_out:
            self._held_out[partition] = list(_rows(self.folder, self._files, partition))
        return self._held_out[partition]

    @cached_property
    def _base(self) -> _Base:
        found = _Base([], [], [], {})
        for number, row in enumerate(_rows(self.folder, self._files, "codebase")):
            found.urls.append(row["url"])
            found.codes.append(row[self._key])
            found.names.append(row["name"])
            found.place[row["url"]] = number
        return found


class _Base(NamedTuple):
    """A code base, and the place of each of its URLs."""

    urls: list[str]
    codes: list[str]
    names: list[str]
    place: dict[str, int]


def joined_pairs(languages: Sequence[PreparedLanguage], partitions: Sequence[str]) -> Pairs:
    """Return the pairs of languages one after the other, with their partitions.

    A pair that several partitions hold is the last one's: what is ranked is never trained on.
    """
    for partition in partitions:
        _check("partitions", partition, PARTITIONS)
    rows: list[tuple[Pair, str]] = []
    found: dict[Pair, str] = {}
    lost = 0
    for language in languages:
        for partition, pair in language.each_pair(partitions):
            if pair is None:
                lost += 1
                continue
            rows.append((pair, partition))
            found[pair] = max(found.get(pair, partition), partition, key=PARTITIONS.index)
    repeated = Counter(
        f"rows of {partition} that {found[pair]} holds too"
        for pair, partition in rows
        if partition != found[pair]
    )
    pairs = [pair for pair, partition in rows if partition == found[pair]]
    counts = Counter(found.values())
    report = {
        "pairs": len(pairs),
        "files": len(languages),
        "lines": len(rows) + lost,
        "bad_lines": 0,
        "bad_examples": [],
        "dropped": ({"no code in the code base": lost} if lost else {}) | repeated,
        "repeated": dict(repeated),
        "partitions": {name: counts[name] for name in partitions},
    }
    return Pairs(pairs, partitions=found, report=report)


def language_folders(path: Path) -> list[Path]:
    """Return the languages' folders that a path stands for: itself, those in it, or none."""
    if (path / MANIFEST).is_file():
        return [path]
    if not path.is_dir():
        return []
    return sorted(each for each in path.iterdir() if (each / MANIFEST).is_file())


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the files that a manifest says are there, with what it says of each."""
    path = folder / MANIFEST
    if not path.is_file():
        inner = ", ".join(each.name for each in language_folders(folder))
        cure = f"it holds {inner}: name one of them" if inner else "`softnce prepare csn` makes it"
        raise FileNotFoundError(f"{folder}: there is no {MANIFEST}; {cure}")
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(f"its format must be {FORMAT}, got {manifest['format']}")
        told = [(name, manifest["files"].get(name) or {}) for name in FILES]
        there = [(name, facts) for name, facts in told if "sha256" in facts]
        return {name: {**facts, "rows": int(facts["rows"])} for name, facts in there}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a manifest that can be read: {error}") from None


def _rows(folder: Path, files: dict[str, dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    """Yield a prepared file's rows, and hold their number against the manifest."""
    path = folder / f"{name}.jsonl.gz"
    if name not in files:
        raise _not_prepared(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: is gone, though {MANIFEST} tells of it; `softnce prepare csn` makes it again"
        )
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
    wanted = files[name]["rows"]
    if rows != wanted:
        raise ValueError(f"{path}: must have {wanted:,} rows, as {MANIFEST} says, got {rows:,}")


def _not_prepared(path: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"{path}: was not prepared; `softnce prepare csn` says why, and writes what there is with "
        "--allow-missing"
    )


def _check(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(allowed)}, got {value!r}")
