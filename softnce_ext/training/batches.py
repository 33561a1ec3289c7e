"""Batches for the trainer: texts tokenized once, not once per epoch and arm.

Of several ranks each has its part of every batch, so that the batch is what one process would have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoders.static import tokenize
from ..estimators.collate import ROW, add_rows
from .kept_rows import KeptRows

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer


SIDES = ("query", "document")  # sentence-transformers' words for the columns' texts


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
        """Tokenize texts as a static encoder does, with its prompts in front."""
        tokenizer: Any = model.tokenizer
        columns = []
        for side, texts in zip(SIDES, (queries, codes), strict=True):
            prompt = model.prompts.get(side) or ""
            columns.append(tokenize(tokenizer, [prompt + text for text in texts]))
        return cls(*columns)

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
    """Queries and codes as texts, tokenized when a batch first needs them.

    Args:
        queries: The queries.
        codes: Their codes.
        sides: What the texts of both columns are to the model, which may have prompts for it.
    """

    def __init__(
        self, queries: Sequence[str], codes: Sequence[str], sides: tuple[str, str] = SIDES
    ) -> None:
        self.columns = {"query": KeptRows(queries), "code": KeptRows(codes)}
        self.sides = sides

    def __len__(self) -> int:
        return len(self.columns["query"].texts)

    def dataset(self) -> Dataset:
        """Return the data set of row numbers that the trainer shuffles."""
        from datasets import Dataset

        return Dataset.from_dict({ROW: np.arange(len(self))})

    def collator(self, model: SentenceTransformer) -> TextBatches:
        """Return what makes batches of rows for a model, or for a copy of it."""
        return TextBatches(self.columns, self.sides, model)


class TextBatches:
    """The collator of `TextPairs`: each column is told its side, and has its prompt."""

    # What the trainer asks of a collator.
    valid_label_columns: Sequence[str] = ()

    def __init__(
        self, columns: dict[str, KeptRows], sides: tuple[str, str], model: SentenceTransformer
    ) -> None:
        self.columns = columns
        self.sides = sides
        self.model = model

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch of features, column by column."""
        numbers = [row[ROW] for row in rows]
        batch: dict[str, Any] = {}
        for column, side in zip(self.columns, self.sides, strict=True):
            read = partial(
                self.model.preprocess, prompt=self.model.prompts.get(side) or None, task=side
            )
            features = self.columns[column].batch(numbers, read)
            batch |= {f"{column}_{name}": value for name, value in features.items()}
            batch[f"{column}_task"] = side
        return add_rows(batch, numbers, self.columns)


TrainingPairs = TokenizedPairs | TextPairs


def pairs_hash(pairs: TrainingPairs) -> str:
    """Return a hash of the texts or word pieces of pairs and of their order."""
    digest = hashlib.sha256()
    for column in pairs.columns.values():
        for text in column.texts if isinstance(column, KeptRows) else column:
            data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


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
