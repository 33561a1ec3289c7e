"""Whether a table is of the texts that are trained on, told from the first rows.

Evaluation's first rows are looked at too: their numbers are others, which may be wrong alone.

A row number says which row of a table a text has, not that this row was made of it. What a batch
holds are token ids; so the table's texts are tokenized by the trained model, too. A shorter length
or another form of the code changes all texts alike: the ids are not held to be equal, but a text
and the table's text of its row must be no less like each other than like any of the other rows'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..bm25 import TokenIds
from .bm25 import own_token_ids, token_ids
from .collate import ROW
from .frozen import TASKS
from .table import StaleTableError

_ROWS = 64  # that are looked at
_LEAST = 16  # among fewer even a wrong text is too often the most like
_IDS = "input_ids"
_ASTRAY = 1 / 8  # of rows may be astray: where forms differ, a near copy may be more alike


class _Looked(NamedTuple):
    """Token ids of the rows looked at, as sets: of a text in a batch, and of the table's."""

    batch: list[set[int]]
    table: list[set[int]]


class OwnTexts:
    """The texts a table was made of, against which first rows are held: training's, evaluation's.

    When enough rows of both have been looked at the texts are let go: a later training with the
    same table is believed.

    Args:
        texts: In the order of the table's rows.
        side: Which side of the pairs they are, "query" or "code".
    """

    def __init__(self, texts: Sequence[str], side: str) -> None:
        self._texts: Sequence[str] | None = texts
        self._side = side
        self.begin()

    def begin(self) -> None:
        """Begin anew, with another training: its rows may be others."""
        self._looked = {kind: _Looked([], []) for kind in ("training", "evaluation")}

    def check(self, features: Mapping[str, Any], student: Any, kind: str = "training") -> None:
        """Look at some rows of a batch.

        Args:
            features: Of a column, its row numbers among them.
            student: The model that is trained; one that does not tokenize is believed.
            kind: Of the batch, "training" or "evaluation".

        Raises:
            StaleTableError: The texts of the rows looked at so far are not the table's.
        """
        batch, table = self._looked[kind]
        if self._texts is None or len(batch) == _ROWS:
            return
        if not hasattr(student, "preprocess") or _IDS not in features:
            return
        rows = features[ROW][: _ROWS - len(batch)].tolist()
        own = [self._texts[row] for row in rows]
        table += _words(token_ids(student.preprocess(own, task=TASKS[self._side])))[: len(rows)]
        batch += _words(own_token_ids(features))[: len(rows)]
        if len(batch) < _LEAST:
            return
        astray = count_astray(batch, table)
        if astray > _ASTRAY * len(batch):
            cure = "" if kind == "training" else " (evaluation's from start=len(training) on)"
            raise StaleTableError(
                f"the teacher's table of {self._side} texts must be of the texts of {kind}, but "
                f"{astray} of the first {len(batch)} are less like their own row of it than others "
                "are: number the rows of the data set the table was made of, before it is filtered "
                f"or shuffled{cure}, or make a table of this one with cache"
            )
        if all(len(looked.batch) == _ROWS for looked in self._looked.values()):
            self._texts = None


def count_astray(found: Sequence[set[int]], wanted: Sequence[set[int]]) -> int:
    """Return how many of the sets are less like their partner than like another's, either way.

    Likeness is Jaccard's: the size of the intersection by that of the union.
    """
    ids = sorted(set().union(*found, *wanted))
    left, right = (
        np.array([[number in each for number in ids] for each in sets], dtype=np.float32)
        for sets in (found, wanted)
    )
    common = left @ right.T
    union = left.sum(1)[:, None] + right.sum(1)[None, :] - common
    likeness = common / np.maximum(union, 1)
    # Either way: with one number for all rows a text is no less like its own than like another.
    most = np.maximum(likeness.max(0), likeness.max(1))
    return int((likeness.diagonal() < most).sum())


def _words(texts: TokenIds) -> list[set[int]]:
    return [set(part.tolist()) for part in np.split(texts.ids, texts.offsets[1:-1])]
