"""Batches for the trainer: texts of a static encoder tokenized once, not once per epoch and arm.

Of several ranks each has its part of every batch, so that the batch is what one process would have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoders.static import tokenize
from ..estimators.collate import ROW, RowCollator, add_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer


class TokenizedPairs:
    """Queries and codes as word pieces, and the collator that joins rows of them to a batch.

    Args:
        queries: Piece ids of each query.
        codes: Piece ids of each code.
    """

    # What the trainer asks of a collator.
    valid_label_columns: Sequence[str] = ()

    def __init__(
        self, queries: list[np.ndarray[Any, Any]], codes: list[np.ndarray[Any, Any]]
    ) -> None:
        self.columns = {"query": queries, "code": codes}

    @classmethod
    def of(
        cls, model: SentenceTransformer, queries: Sequence[str], codes: Sequence[str]
    ) -> TokenizedPairs:
        """Tokenize texts as a static encoder does."""
        tokenizer: Any = model.tokenizer
        return cls(tokenize(tokenizer, queries), tokenize(tokenizer, codes))

    def __len__(self) -> int:
        return len(self.columns["query"])

    def texts(self) -> Iterator[np.ndarray[Any, Any]]:
        """Yield the piece ids of every query, then of every code."""
        return chain.from_iterable(self.columns.values())

    def dataset(self) -> Dataset:
        """Return the data set of row numbers that the trainer shuffles."""
        from datasets import Dataset

        return Dataset.from_dict({ROW: np.arange(len(self.columns["query"]))})

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch as a static encoder's features, column by column."""
        import torch

        batch = {}
        for name, texts in self.columns.items():
            chosen = [texts[row[ROW]] for row in rows]
            ends = np.cumsum([len(text) for text in chosen])
            batch[f"{name}_input_ids"] = torch.from_numpy(np.concatenate(chosen))
            batch[f"{name}_offsets"] = torch.from_numpy(np.append(0, ends[:-1]))
        return add_rows(batch, [row[ROW] for row in rows], self.columns)

    def collator(self, model: SentenceTransformer) -> TokenizedPairs:
        """Return what makes batches of rows: this."""
        return self


class TextPairs:
    """Queries and codes as texts, tokenized batch by batch.

    Args:
        queries: The queries.
        codes: Their codes.
    """

    def __init__(self, queries: Sequence[str], codes: Sequence[str]) -> None:
        self.queries, self.codes = list(queries), list(codes)

    def __len__(self) -> int:
        return len(self.queries)

    def dataset(self) -> Dataset:
        """Return the data set of texts and their row numbers, the query first."""
        from datasets import Dataset

        rows = np.arange(len(self.queries))
        return Dataset.from_dict({"query": self.queries, "code": self.codes, ROW: rows})

    def collator(self, model: SentenceTransformer) -> RowCollator:
        """Return what makes batches of rows: each column is told its side, and has its prompt."""
        from sentence_transformers.sentence_transformer.data_collator import (
            SentenceTransformerDataCollator,
        )

        sides = {"query": "query", "code": "document"}
        prompts = {column: model.prompts.get(side) or "" for column, side in sides.items()}
        return RowCollator(
            SentenceTransformerDataCollator(
                model.preprocess,
                router_mapping=sides,
                prompts={column: prompt for column, prompt in prompts.items() if prompt},
            )
        )


TrainingPairs = TokenizedPairs | TextPairs


def steps_per_epoch(rows: int, batch_size: int, ranks: int) -> int:
    """Return how many batches have a row for each rank; all but a very small last one do."""
    whole, left = divmod(rows, batch_size)
    return whole + (left >= ranks)


class RankBatches:
    """A rank's part of each batch: as many rows as the others have, or one more.

    A last batch with fewer rows than ranks is left out; its rows come in the next epoch.

    Args:
        batches: The sampler of all ranks' batches, of the trainer's kind.
        rows: How many rows it draws from.
        rank: The number of this rank.
        ranks: How many there are.
    """

    def __init__(self, batches: Any, rows: int, rank: int, ranks: int) -> None:
        # accelerate replaces the sampler of both by one that it seeds anew for each epoch.
        self.batch_sampler, self.sampler = batches, batches.sampler
        self.rows, self.rank, self.ranks = rows, rank, ranks

    def __len__(self) -> int:
        return steps_per_epoch(self.rows, self.batch_sampler.batch_size, self.ranks)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batch_sampler:
            begin, end = (len(batch) * each // self.ranks for each in (self.rank, self.rank + 1))
            if len(batch) >= self.ranks:
                yield batch[begin:end]

    def set_epoch(self, epoch: int) -> None:
        """Draw another order in each epoch, the same on all ranks."""
        self.batch_sampler.set_epoch(epoch)
