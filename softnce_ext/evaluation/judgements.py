"""Relevance judgements: which codes answer a query, and how well; read from CSV or JSON lines.

CodeSearchNet's file of 99 queries is such a file: Language, Query, GitHubUrl, Relevance 0 to 3.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

MAX_GRADE = 3.0  # CodeSearchNet's "exact match"

# The first of these names that a row has, in whatever case, is read.
_FIELDS = {
    "query": ("query",),
    "url": ("url", "githuburl"),
    "grade": ("grade", "relevance"),
    "language": ("language",),
}


class Judgement(NamedTuple):
    """One person's grade of one code for one query; 0 is irrelevant."""

    query: str
    url: str
    grade: float
    language: str = ""


@dataclass(frozen=True)
class Judgements:
    """The judged codes of Q queries, J in all.

    Attributes:
        queries: The queries' texts [Q].
        query: Index of each judgement's query, int64 [J], ascending.
        code: Index of its code in the code base, int64 [J]; a query's codes are distinct.
        grade: How well the code answers the query, float64 [J], >= 0; 0 is irrelevant.
        left_out: Judgements of codes that the code base does not hold.

    Raises:
        ValueError: Lengths, order or a value does not fit.
    """

    queries: Sequence[str]
    query: np.ndarray[Any, Any]
    code: np.ndarray[Any, Any]
    grade: np.ndarray[Any, Any]
    left_out: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("query", np.int64), ("code", np.int64), ("grade", np.float64)):
            values = np.asarray(getattr(self, name))
            if values.ndim != 1 or len(values) != len(self.query) or len(values) == 0:
                raise ValueError(
                    f"{name} must have one entry per judgement, got {list(values.shape)} "
                    f"for {len(self.query)}"
                )
            if kind is np.int64 and values.dtype.kind not in "iu":
                raise TypeError(f"{name} must hold integers, got {values.dtype}")
            object.__setattr__(self, name, values.astype(kind))
        if (np.diff(self.query) < 0).any():
            raise ValueError("query must be ascending")
        if self.query[0] < 0 or self.query[-1] >= len(self.queries):
            raise ValueError(
                f"query must be in [0, {len(self.queries)}), "
                f"got {self.query[0]} to {self.query[-1]}"
            )
        if int(self.code.min()) < 0:
            raise ValueError(f"code must be >= 0, got {int(self.code.min())}")
        if not (np.isfinite(self.grade).all() and (self.grade >= 0).all()):
            raise ValueError("grade must be finite and >= 0")
        if len(np.unique(np.stack([self.query, self.code]), axis=1).T) < len(self.query):
            raise ValueError("a query's codes must be distinct, got one judged twice")


def judgements_of(
    rows: Iterable[Judgement],
    urls: Sequence[str],
    *,
    unknown: Literal["error", "skip"] = "error",
    max_grade: float = MAX_GRADE,
) -> Judgements:
    """Match judgements with the codes of a code base.

    Several grades of one code for one query are averaged, as in CodeSearchNet's own script.
    Judgements of a language none of whose urls is in the code base are for other code bases.

    Args:
        rows: The judgements, in any order; queries keep the order of their first one.
        urls: The codes' urls [M], distinct.
        unknown: What to do with a judgement whose url is not among them: "error" refuses it;
            "skip" leaves it out, so that the ideal ranking is of the codes that can be found.
        max_grade: The best grade there is.

    Raises:
        ValueError: A url is unknown or stands for two codes, a grade is out of range, or no
            judgement is left.
    """
    if unknown not in ("error", "skip"):
        raise ValueError(f'unknown must be "error" or "skip", got {unknown!r}')
    numbers = number_urls(urls)
    rows = list(rows)
    for row in rows:
        if not 0 <= row.grade <= max_grade:  # false for NaN too
            raise ValueError(
                f"grade must be from 0 to {max_grade:g}, got {row.grade:g} for {row.url}"
            )
    here = {row.language.lower() for row in rows if row.url in numbers}
    rows = [row for row in rows if row.language.lower() in here]
    missing = [row for row in rows if row.url not in numbers]
    if not here:
        raise ValueError("the code base holds no url that is judged")
    if missing and unknown == "error":
        raise ValueError(
            f"every judged url must be in the code base, got {missing[0].url}"
            + (f" and {len(missing) - 1} more that are not" if len(missing) > 1 else "")
        )
    grades: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row.url in numbers:
            judged = grades.setdefault(row.query, {})
            judged.setdefault(numbers[row.url], []).append(row.grade)
    flat = [
        (number, code, sum(several) / len(several))
        for number, judged in enumerate(grades.values())
        for code, several in judged.items()
    ]
    query, code, grade = zip(*flat, strict=True)
    return Judgements(
        list(grades), np.array(query), np.array(code), np.array(grade, float), len(missing)
    )


def number_urls(urls: Sequence[str]) -> dict[str, int]:
    """Return url -> index of its code.

    Raises:
        ValueError: There are none, or two codes have one url.
    """
    if len(urls) == 0:
        raise ValueError("urls must hold one url per code, got none")
    numbers = {url: number for number, url in enumerate(urls)}
    if len(numbers) < len(urls):
        again = next(url for number, url in enumerate(urls) if numbers[url] != number)
        raise ValueError(f"urls must be distinct, got {again!r} twice")
    return numbers


def read_judgements(path: str | Path) -> list[Judgement]:
    """Read judgements from a CSV file with a heading, or JSON lines (".jsonl").

    Fields: query; url or GitHubUrl; grade or Relevance; Language, which may be missing.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A row lacks a field or holds what is none, or there is no row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    read = _json_rows if path.suffix in (".jsonl", ".ndjson") else _csv_rows
    found = [_judgement(row, f"{path}:{line}") for line, row in read(path)]
    if not found:
        raise ValueError(f"{path}: there is no judgement in this file")
    return found


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, text in enumerate(path.read_bytes().splitlines(), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}:{line}: not JSON: {error}") from None
        if not isinstance(row, Mapping):
            raise ValueError(f"{path}:{line}: must be a JSON object, got {type(row).__name__}")
        yield line, row


def _judgement(row: Mapping[str, Any], where: str) -> Judgement:
    named = {str(key).strip().lower(): value for key, value in row.items()}
    found: dict[str, Any] = {}
    for field, names in _FIELDS.items():
        value = next((named[name] for name in names if named.get(name) is not None), None)
        if value is None and field != "language":
            raise ValueError(f"{where}: must have {names[-1]!r}, got {', '.join(named)}")
        found[field] = "" if value is None else value
    try:
        grade = float(found["grade"])
    except (TypeError, ValueError):
        grade = math.nan
    if math.isnan(grade):
        raise ValueError(f"{where}: the grade must be a number, got {found['grade']!r}")
    query = " ".join(str(found["query"]).split())
    url = str(found["url"]).strip()
    if not query or not url:
        raise ValueError(f"{where}: query and url must not be empty")
    return Judgement(query, url, grade, str(found["language"]).strip())
