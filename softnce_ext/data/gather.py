"""Rows read to pairs: each pair once, in one partition, and what a reader should know told."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

from .pairs import Pair, Pairs, in_order
from .rows import Row
from .source_files import SOURCE_FILES

# A pair that several partitions hold is the last one's: what is ranked is never trained on.
_STRENGTH = ("", "train", "valid", "test")


class Gathered:
    """Pairs as they are read, each (query, code) once.

    Of rows that repeat a pair the one in the strongest partition stands: test before valid before
    train; in one partition that of the least package, path and line, whatever the files' order.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._pairs: list[Pair] = []
        self._held: list[str] = []
        self._place: dict[tuple[str, str], int] = {}
        self._faults: Counter[str] = Counter()
        self._repeated: Counter[str] = Counter()
        self._unread: Counter[str] = Counter()
        self._with_query = self._without_language = 0

    def add(self, row: Row, partition: str) -> None:
        """Take a row, of a partition or of none ("")."""
        self.rows += 1
        pair = row.pair
        if pair is None:
            self._faults[row.fault] += 1
            return
        self._with_query += row.has_query
        self._without_language += not row.has_language
        if pair.language not in SOURCE_FILES:
            self._unread[pair.language] += 1
        key = pair.query, pair.code
        place = self._place.setdefault(key, len(self._pairs))
        if place == len(self._pairs):
            self._pairs.append(pair)
            self._held.append(partition)
            return
        there, held = self._pairs[place], self._held[place]
        if partition == held:
            self._repeated["exact duplicates"] += 1
            self._pairs[place] = min(there, pair, key=in_order)
            return
        weak, strong = sorted((held, partition), key=_STRENGTH.index)
        self._repeated[f"rows of {weak or 'no partition'} that {strong} holds too"] += 1
        if partition == strong:
            self._pairs[place], self._held[place] = pair, partition

    def finished(self, where: str, report: dict[str, Any]) -> Pairs:
        """Return the pairs with their report, and warn of what makes their figures doubtful.

        Args:
            where: What was read, as a warning names it.
            report: What else to report.
        """
        partitions = {
            pair: held for pair, held in zip(self._pairs, self._held, strict=True) if held
        }
        if self._with_query:
            warnings.warn(
                f"{where}: the query stands word for word in the code of {self._with_query:,} of"
                f" {self.rows:,} rows, and finding it there is no search",
                stacklevel=3,
            )
        if self._unread:
            named = ", ".join(f"{name} ({n:,})" for name, n in self._unread.most_common(8))
            warnings.warn(
                f"{where}: documentation was not cut out of the code of rows in {named}; languages"
                f" it is cut out of are {', '.join(SOURCE_FILES)}",
                stacklevel=3,
            )
        return Pairs(
            self._pairs,
            partitions=partitions,
            report={
                "pairs": len(self._pairs),
                **report,
                "dropped": dict((self._faults + self._repeated).most_common()),
                "repeated": dict(self._repeated.most_common()),
                "query_in_code": self._with_query,
                "python_by_default": self._without_language,
                "partitions": dict(Counter(partitions.values())),
            },
        )
