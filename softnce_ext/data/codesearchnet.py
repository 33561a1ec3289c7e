"""CodeSearchNet as the paper uses it: a dump and the published URL lists to four files a language.

The filter (Guo et al. 2021, GraphCodeBERT) cannot be derived again from the dump: its outcome is
published as lists of URLs. A prepared file holds, in list order, the records whose URL is in the
list and in the pool; the pool of "codebase" is the whole valid and test partitions.

What is held while a file is made: the wanted URLs, and of the records found so far each one's line,
compressed. Archives are read as streams, one partition after the other.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .codesearchnet_files import (
    LANGUAGES,
    Part,
    find_parts,
    parts_of,
    read_url_lists,
)
from .codesearchnet_folder import FILES, PreparedFolder, sha256
from .codesearchnet_records import languages_in, read_records
from .codesearchnet_rows import empty_field, prepared_row
from .rows import BadRow

if TYPE_CHECKING:
    from tqdm import tqdm

_EXAMPLES = 3


class Dump:
    """The files of a dump, by language and partition.

    Args:
        sources: Zips, folders, JSON lines files (".gz" too) and parquet files.

    Raises:
        FileNotFoundError: A source does not exist.
        ValueError: A zip is broken, or nothing readable is there.
    """

    def __init__(self, sources: Iterable[str | Path]) -> None:
        self.parts = find_parts(map(Path, sources))
        self._digests: dict[Path, str] = {}

    def languages(self) -> list[str]:
        """Return the languages that are there; a file whose path names none is read for them."""
        found = set().union(*map(languages_in, self.parts))
        return [language for language in LANGUAGES if language in found]

    def pool(self, language: str, name: str) -> list[tuple[str, Part]]:
        """Return the (partition, file) pairs that a prepared file's records come from."""
        parts = parts_of(self.parts, language, name)
        if parts or name != "codebase":
            return [(name, part) for part in parts]
        return [*self.pool(language, "valid"), *self.pool(language, "test")]

    def describe(self, language: str) -> list[dict[str, Any]]:
        """Return the path, size and hash of every file of a language."""
        entries = {
            (part.entry.origin, part.entry.file)
            for name in FILES
            for _, part in self.pool(language, name)
        }
        return [
            {"file": origin, "bytes": file.stat().st_size, "sha256": self._digest(file)}
            for origin, file in sorted(entries)
        ]

    def _digest(self, file: Path) -> str:
        if file not in self._digests:
            self._digests[file] = sha256(file)
        return self._digests[file]


def prepare_language(
    dump: Dump,
    language: str,
    output: str | Path,
    *,
    lists: str | Path | None = None,
    use_filter: bool = True,
    allow_missing: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write a language's train, valid, test and codebase files, and say whether they are complete.

    A whole file that a run before made from the same sources and lists is kept, once its hash is
    that of the manifest. Each file takes its name when it is whole, and the manifest is written
    after it.

    Args:
        dump: The records.
        language: One of `LANGUAGES`.
        output: Folder of all languages; the files go into ``output/language``.
        lists: Folder or zip of the URL lists. None for a dump that is filtered already (one with
            codebase files).
        use_filter: False writes the dump's own partitions whole, in the dump's order.
        allow_missing: Write files whose rows are fewer than Table 6 says. Without it, those that a
            run with it left are made anew, and are gone where their rows are still too few.
        progress: Show a progress bar on stderr.

    Returns:
        "language", "filter" ("lists", "given" or "none"), "folder", "complete" (True where all
        four files have their rows), and "files": per file its state, "complete", "incomplete" or
        "not written", its rows, expected rows and what is missing.

    Raises:
        ValueError: A source is broken or of another language, or lists are needed and not given.
        OSError: A file cannot be written; what was complete is kept.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, got {language!r}")
    if not any(dump.pool(language, name) for name in FILES):
        raise ValueError(f"language {language} must be in the dump, got no file of it")
    is_filtered = bool(parts_of(dump.parts, language, "codebase"))
    if use_filter and lists is None and not is_filtered:
        raise ValueError(
            f"lists (--lists) are needed for {language}: the paper's filter cannot be derived again"
            " from the dump, its outcome is published as lists of URLs, {train,valid,test,codebase}"
            ".txt per language, by GraphCodeBERT (dataset.zip) and CoCoSoDa; use_filter=False"
            " (--no-filter) writes the dump's partitions whole, which are no data for the paper's"
            " figures"
        )
    if lists is not None and not use_filter:
        raise ValueError("lists (--lists) must not be given without the filter (--no-filter)")
    rule = "lists" if lists is not None else "given" if use_filter else "none"
    urls = read_url_lists(Path(lists), language) if lists is not None else {}
    folder = Path(output) / language
    sources = {
        "sources": dump.describe(language),
        "lists": {
            name: {"urls": len(each), "sha256": hashlib.sha256(b"\n".join(each)).hexdigest()}
            for name, each in urls.items()
        },
    }
    made = PreparedFolder(folder, language, rule, sources, allow_missing)
    # Train by itself, the others in one pass over their common pool.
    for group in (("train",), ("valid", "test", "codebase")):
        names = [name for name in group if name not in made.files]
        if names and urls:
            wanted = {name: urls[name] for name in names}
            _write_listed(dump, language, made, wanted, progress)
        else:
            for name in names:
                _write_whole(dump, language, made, name, progress)
    return made.report()


class _Target:
    """One file on its way: the URLs it wants, in order, and the lines found for them."""

    def __init__(self, name: str, urls: list[bytes]) -> None:
        self.name = name
        self.urls = urls
        self.place = {url: i for i, url in enumerate(urls)}
        # Compressed one by one, since list order is no order of the dump: a third of the memory.
        self.lines: list[bytes | None] = [None] * len(urls)
        self.counts: Counter[str] = Counter()

    def take(self, where: str, url: bytes, record: Mapping[str, Any], language: str) -> None:
        """Keep a record that is wanted; of two with one URL the first."""
        place = self.place.get(url)
        if place is None:
            return
        if self.lines[place] is not None:
            self.counts["duplicate URL"] += 1
            return
        row = _row(where, record, language, self.name)
        if field := empty_field(row):
            self.counts[f"no {field}"] += 1
            return
        self.lines[place] = zlib.compress(_text(row).encode(), 1)

    def missing(self) -> list[str]:
        """Return the URLs without a record."""
        absent = (url for url, line in zip(self.urls, self.lines, strict=True) if line is None)
        return [url.decode("utf-8", "replace") for url in absent]


def _write_listed(
    dump: Dump,
    language: str,
    made: PreparedFolder,
    urls: dict[str, list[bytes]],
    progress: bool,
) -> None:
    """Write files of listed records, from one pass over the partitions they come from."""
    pools: dict[tuple[str, Part], list[_Target]] = {}
    targets = [_Target(name, each) for name, each in urls.items()]
    for target in targets:
        for each in dump.pool(language, target.name):
            pools.setdefault(each, []).append(target)
    with _bar(f"{language}: {', '.join(urls)}", pools, progress) as bar:
        for (partition, part), into in pools.items():
            wanted = set().union(*(target.place for target in into))
            for where, url, record in read_records(part, language, partition, wanted, bar.update):
                for target in into:
                    target.take(where, url, record, language)
    for target in targets:
        missing = target.missing()
        facts = {
            "listed": len(target.urls),
            "missing": len(missing),
            "missing_examples": missing[:_EXAMPLES],
            "left_out": dict(target.counts),
        }
        lines = (zlib.decompress(line).decode() for line in target.lines if line is not None)
        made.write(target.name, lines, facts)
        target.lines.clear()


def _write_whole(
    dump: Dump, language: str, made: PreparedFolder, name: str, progress: bool
) -> None:
    """Write a file of all records of its pool, in the dump's order."""
    pool = dump.pool(language, name)
    counts: Counter[str] = Counter()

    def lines() -> Iterator[str]:
        seen: set[bytes] = set()
        with _bar(f"{language}: {name}", pool, progress) as bar:
            for partition, part in pool:
                for where, url, record in read_records(part, language, partition, None, bar.update):
                    if url in seen:
                        counts["duplicate URL"] += 1
                        continue
                    seen.add(url)
                    row = _row(where, record, language, name)
                    if field := empty_field(row):
                        counts[f"no {field}"] += 1
                        continue
                    yield _text(row)

    facts: dict[str, Any] = {"left_out": counts}
    made.write(name, lines(), facts)


def _row(where: str, record: Mapping[str, Any], language: str, name: str) -> dict[str, Any]:
    try:
        return prepared_row(record, language, name)
    except BadRow as error:
        raise ValueError(f"{where}: {error}") from None


def _text(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def _bar(title: str, pool: Iterable[tuple[str, Part]], progress: bool) -> tqdm[Any]:
    from tqdm import tqdm

    return tqdm(
        total=sum(part.entry.size for _, part in pool),
        desc=title,
        unit="B",
        unit_scale=True,
        mininterval=0.3,
        disable=not progress,
    )
