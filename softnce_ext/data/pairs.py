"""The unit of data: one function and the documentation written for it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Pair:
    """One (documentation, function) pair.

    Attributes:
        query: The documentation's first paragraph, as one line of text.
        code: The function's source without its documentation, dedented.
        name: The bare function name.
        package: The unit a split keeps together: a distribution, a repository, a top folder.
        path: Where the function stands, relative to what was read.
        line: First line of the function in that file, counted from 1; 0 where unknown.
        language: The programming language, lower case.
    """

    query: str
    code: str
    name: str = ""
    package: str = ""
    path: str = ""
    line: int = 0
    language: str = "python"


class Pairs(list[Pair]):
    """A list of pairs that remembers what its source said about them.

    Attributes:
        partitions: "train", "valid" or "test" of the pairs whose file named one.
        versions: Package name -> version, where the pairs come from installed packages.
        report: What was read, kept and dropped, ready for JSON.
    """

    def __init__(
        self,
        pairs: Iterable[Pair] = (),
        *,
        partitions: dict[Pair, str] | None = None,
        versions: dict[str, str] | None = None,
        report: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(pairs)
        self.partitions = partitions or {}
        self.versions = versions or {}
        self.report = report or {}


def in_order(pair: Pair) -> tuple[str, str, int, str, str]:
    """Return what pairs are sorted by, so that nothing depends on how files were read."""
    return pair.package, pair.path, pair.line, pair.query, pair.code


def pair_hash(pair: Pair) -> str:
    """Return 16 hex digits that name a pair's query and code, the same on every machine."""
    text = f"{pair.query}\0{pair.code}".encode(errors="surrogatepass")
    return hashlib.sha256(text).hexdigest()[:16]


def of_language(pairs: Pairs, language: str | None) -> Pairs:
    """Return the pairs of one language, or all where it is None.

    Raises:
        ValueError: There are none of it.
    """
    if language is None:
        return pairs
    kept = [pair for pair in pairs if pair.language == language]
    if not kept:
        found = Counter(pair.language for pair in pairs)
        there = ", ".join(f"{name} ({count:,})" for name, count in found.most_common())
        raise ValueError(f"language must be one of the data's, {there or 'none'}, got {language}")
    if len(kept) == len(pairs):
        return pairs
    partitions = {
        pair: part for pair, part in pairs.partitions.items() if pair.language == language
    }
    return Pairs(kept, partitions=partitions, versions=pairs.versions, report=pairs.report)
