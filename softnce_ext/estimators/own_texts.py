"""Whether a table is of the texts that are trained on, told from the first rows of a training.

A row number says which row of a table a text has, not that this row was made of it. What a batch
holds are token ids; so the table's texts are tokenized by the trained model, too. A prompt, a
shorter length or another form of the code changes all texts alike: the ids are not held to be
equal, but a text and the table's text of its row must be no less like each other than like any of
the other rows'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .bm25 import token_ids
from .collate import ROW
from .frozen import TASKS
from .table import StaleTableError

_ROWS = 64  # that are looked at
_LEAST = 16  # among fewer even a wrong text is too often the most like
_IDS = "input_ids"
_ASTRAY = 1 / 8  # of rows may be astray: where forms differ, a near copy may be more alike


class OwnTexts:
    """The texts a table was made of, against which the first rows of a training are held.

    Args:
        texts: In the order of the table's rows.
        side: Which side of the pairs they are, "query" or "code".
    """

    def __init__(self, texts: Sequence[str], side: str) -> None:
        self._texts = texts
        self._side = side
        self.begin()

    def begin(self) -> None:
        """Begin anew, with another training: its rows may be others."""
        self._batch: list[set[int]] = []  # ids of a text in a batch, and of the table's
        self._table: list[set[int]] = []

    def check(self, features: Mapping[str, Any], student: Any) -> None:
        """Look at some rows of a batch.

        Args:
            features: Of a column, its row numbers among them.
            student: The model that is trained; one that does not tokenize is believed.

        Raises:
            StaleTableError: The texts of the rows looked at so far are not the table's.
        """
        if len(self._batch) == _ROWS or not hasattr(student, "preprocess") or _IDS not in features:
            return
        rows = features[ROW][: _ROWS - len(self._batch)].tolist()
        own = [self._texts[row] for row in rows]
        self._table += _words(student.preprocess(own, task=TASKS[self._side]))[: len(rows)]
        self._batch += _words(features)[: len(rows)]
        if len(self._batch) < _LEAST:
            return
        astray = count_astray(self._batch, self._table)
        if astray > _ASTRAY * len(self._batch):
            raise StaleTableError(
                f"the teacher's table of {self._side} texts must be of the texts that are trained "
                f"on, but {astray} of the first {len(self._batch)} are less like their own row of "
                "it than others are: number the rows of the data set the table was made of, before "
                "it is filtered or shuffled, or make a table of this one with cache"
            )


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


def _words(features: Mapping[str, Any]) -> list[set[int]]:
    texts = token_ids(features)
    return [set(part.tolist()) for part in np.split(texts.ids, texts.offsets[1:-1])]
