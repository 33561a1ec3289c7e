"""A live teacher in the memory of a mini-batch: asked for some rows of the batch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..estimators.collate import TEXT, model_features
from .batch import row_count
from .mini_batches import Features, take
from .options import Estimator


class InPieces:
    """An estimator that encodes each text by itself, asked for `size` rows at a time.

    Args:
        estimator: Returns a pair of vectors: of the queries, of the codes column by column.
        size: How many rows of the batch it is given at once.
    """

    by_row = True

    def __init__(self, estimator: Estimator, size: int) -> None:
        self._estimator, self._size = estimator, size

    def __call__(self, columns: Sequence[Features]) -> tuple[Tensor, Tensor]:
        """Return what the estimator returns of the whole batch."""
        rows, pairs = row_count(columns[0]), []
        for begin in range(0, rows, self._size):
            end = min(begin + self._size, rows)
            pair: Any = self._estimator([_piece(column, begin, end) for column in columns])
            query, code = pair
            by_column = None if code is query else code.view(-1, end - begin, code.shape[1])
            pairs.append((query, by_column))
        query = torch.cat([each for each, _ in pairs])
        codes = [by_column for _, by_column in pairs if by_column is not None]  # [C, n, D]
        return query, torch.cat(codes, 1).flatten(0, 1) if codes else query


def _piece(column: Mapping[str, Any], begin: int, end: int) -> Features:
    found = take(model_features(column), begin, end)
    return {**found, TEXT: column[TEXT][begin:end]} if TEXT in column else found
