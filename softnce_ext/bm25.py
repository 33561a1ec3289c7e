"""BM25 scores of every query against every document, from token ids.

    score(q, d) = sum over the tokens t of q of  idf(t) * part(f(t, d), length of d)

`BM25.scores` takes the statistics from the batch it is given, so that it computes them anew in
each call, in time linear in the tokens. The scores are then a product of two sparse matrices: the
queries' term counts and the documents' weighted postings. `BM25.factors` returns these two in place
of their product, `BM25.index` keeps the postings.
"""

from __future__ import annotations

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .bm25_kernels import (
    VARIANTS,
    Array,
    batch_factors,
    count_terms,
    dense_rows,
    prepare_batch,
    score_batch,
    score_rows,
    weigh_postings,
)
from .token_ids import Texts, TokenIds, distinct, flat, renumbered

if TYPE_CHECKING:
    from .factors import BM25Factors as BM25Factors

__all__ = ["BM25", "VARIANTS", "BM25Index", "TokenIds"]

Scores = npt.NDArray[np.float32]

# Ids below this are looked up in a table (16 MiB a thread); where there are larger ones, all are
# renumbered first.
_TABLE_LIMIT = 1 << 22
# Fewer scores than this are not worth waking a thread for: on 2 cores the pool is 0.8 times as fast
# for 512 x 512 scores, 1.4 times for 1024 x 1024.
_POOL_SCORES = 1 << 20
# From this many queries on an index spreads frequent terms' postings, which a pass over them costs.
_DENSE_QUERIES = 8


class BM25:
    """BM25 of every query against every document of a batch.

    The variants, with N documents of which n hold a term, f times in a document of length L:

    * "reference": idf = log((N - n + 0.5) / (n + 0.5)), negative for frequent terms;
      part = f (k1 + 1) / (f + K) with K = k1 (1 - b + b L / avgdl).
    * "okapi": the same, but 0.25 times the mean idf stands for a negative idf: equal to
      rank_bm25.BM25Okapi 0.2.2, whose own default is k1 = 1.5.
    * "lucene": idf = log(1 + (N - n + 0.5) / (n + 0.5)), never negative; part = f / (f + K).

    A term counts as often as the query holds it. Documents without any text score 0 (rank_bm25
    raises ZeroDivisionError).

    Args:
        k1: Saturation of a term's count, >= 0.
        b: Share of the length normalisation, in [0, 1].
        variant: "reference", "okapi" or "lucene".
        avgdl: Mean document length of the data set, in tokens; None: that of each batch.
        threads: How many threads share the rows of a large batch; None: one per core this process
            may use. The scores do not depend on it. Set 1 in a data loader's workers.

    Raises:
        TypeError, ValueError: An argument is of another type or out of range.

    Source:
        Robertson et al., "Okapi at TREC-3", 1994; the variants are compared in Kamphuis et al.,
        "Which BM25 Do You Mean?", ECIR 2020.
    """

    def __init__(
        self,
        k1: float = 1.2,
        b: float = 0.75,
        variant: str = "reference",
        avgdl: float | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        self.k1 = _number("k1", k1)
        self.b = _number("b", b)
        self.avgdl = None if avgdl is None else _number("avgdl", avgdl)
        self.variant = variant
        self.threads = threads
        if self.k1 < 0:
            raise ValueError(f"k1 must be >= 0, got {k1}")
        if not 0 <= self.b <= 1:
            raise ValueError(f"b must be in [0, 1], got {b}")
        if self.avgdl is not None and self.avgdl <= 0:
            raise ValueError(f"avgdl must be > 0 or None, got {avgdl}")
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int)):
            raise TypeError(f"threads must be an int or None, got {type(threads).__name__}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be >= 1 or None, got {threads}")
        self._rule = (self.k1, self.b, self.avgdl or 0.0, VARIANTS.index(variant))

    def __repr__(self) -> str:
        return f"BM25(k1={self.k1}, b={self.b}, variant={self.variant!r}, avgdl={self.avgdl})"

    def scores(self, query_ids: Texts, document_ids: Texts | None = None) -> Scores:
        """Return the scores of all pairs, with the statistics of these documents.

        Args:
            query_ids: N texts: TokenIds, a list of 1-D integer sequences, or an integer array
                [N, L]. Negative ids are padding and skipped.
            document_ids: M texts, likewise; None: the queries are the documents.

        Returns:
            float32 [N, M].

        Raises:
            TypeError, ValueError: The texts are no integers, or their offsets do not fit.
        """
        texts, largest = _batch(query_ids, document_ids)
        _, offsets, _, q_offsets, _ = texts
        scores = np.empty((q_offsets.size - 1, offsets.size - 1), np.float32)
        table = _take_table(largest)
        if scores.size < _POOL_SCORES or self.threads == 1:
            score_batch(scores, *texts, table, *self._rule)
        else:
            _fill(scores, prepare_batch(*texts, table, *self._rule), self.threads)
        _scratch.table = table
        return scores

    def factors(self, query_ids: Texts, document_ids: Texts | None = None) -> BM25Factors:
        """Return the scores of all pairs as two sparse factors, without the matrix [N, M].

        The statistics and the float32 weights are those of `scores`: adding count * weight in the
        order of a query's terms gives its scores to the last bit, `factors(...).dense()` up to
        rounding. Time and memory are linear in the tokens, and one thread does it.

        Args:
            query_ids: N texts, as in `scores`.
            document_ids: M texts, likewise; None: the queries are the documents.

        Returns:
            The factors, on the CPU: the `similarity` of `softnce_ext.soft_info_nce`, after
            `.to(device)` where the embeddings are elsewhere. Query terms that no document holds
            are left out.

        Raises:
            TypeError, ValueError: The texts are no integers, or their offsets do not fit.
        """
        import torch

        from .factors import BM25Factors

        texts, largest = _batch(query_ids, document_ids)
        table = _take_table(largest)
        parts = batch_factors(*texts, table, *self._rule)
        _scratch.table = table
        return BM25Factors(*map(torch.from_numpy, parts))

    def index(self, document_ids: Texts) -> BM25Index:
        """Keep the statistics of documents, to score many queries against them.

        Args:
            document_ids: M texts, as in `scores`.

        Raises:
            TypeError, ValueError: The texts are no integers, or their offsets do not fit.
        """
        ids, offsets, largest = flat(document_ids, "document_ids")
        known = np.empty(0, np.int64)
        if largest >= _TABLE_LIMIT:
            known = distinct(ids)
            largest = known.size - 1
            ids = renumbered(ids, known)
        table = np.full(largest + 1, -1, np.int32)
        counts = count_terms(ids, offsets, table, np.empty(table.size, np.int64), 0, True)
        postings = weigh_postings(*counts, *self._rule)
        return BM25Index(known, table, *postings, offsets.size - 1, self.threads)


class BM25Index:
    """Documents' weighted postings, made by `BM25.index`. Safe to use from several threads.

    Attributes:
        documents: How many documents there are, M.
    """

    _ARRAYS = ("known", "table", "indptr", "document", "weight")

    def __init__(
        self,
        known: Array,
        table: Array,
        indptr: Array,
        document: Array,
        weight: Array,
        documents: int,
        threads: int | None = None,
    ) -> None:
        self._known = known  # sorted ids where ids were renumbered, else empty
        self._table = table
        self._postings = (indptr, document, weight)
        self._sparse = (np.full(indptr.size - 1, -1, np.int32), np.empty((0, documents), "f4"))
        self._dense: tuple[Array, Array] | None = None
        self._threads = threads
        self.documents = documents

    def scores(self, query_ids: Texts) -> Scores:
        """Return the scores of N queries against all documents; ids no document holds score 0.

        Memory is that of the result: call it for a block of queries at a time.

        Args:
            query_ids: N texts, as in `BM25.scores`.

        Returns:
            float32 [N, M].

        Raises:
            TypeError, ValueError: The texts are no integers, or their offsets do not fit.
        """
        ids, offsets, _ = flat(query_ids, "query_ids")
        if self._known.size:
            ids = renumbered(ids, self._known)
        n, terms = offsets.size - 1, self._sparse[0].size
        scores = np.empty((n, self.documents), np.float32)
        counts = count_terms(ids, offsets, self._table, self._known, terms, False)[:3]
        if n >= _DENSE_QUERIES and self._dense is None:
            self._dense = dense_rows(*self._postings, self.documents)
        rows = self._sparse if n < _DENSE_QUERIES or self._dense is None else self._dense
        _fill(scores, (*counts, *self._postings, *rows), self._threads)
        return scores

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index into a folder, as .npy files.

        Raises:
            OSError: The folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = (self._known, self._table, *self._postings)
        for name, array in zip(self._ARRAYS, arrays, strict=True):
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        np.save(folder / "documents.npy", np.int64(self.documents), allow_pickle=False)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> BM25Index:
        """Read a saved index; the postings stay on disk until they are used.

        Raises:
            OSError, ValueError, EOFError: A file is missing or damaged.
        """
        folder = Path(folder)
        arrays = [_load(folder / f"{name}.npy") for name in cls._ARRAYS]
        documents = int(np.load(folder / "documents.npy", allow_pickle=False))
        _check_index(folder, arrays, documents)
        known, table, indptr, document, weight = arrays
        return cls(known, table, indptr, document, weight, documents)


class _Scratch(threading.local):
    """A thread's own table from ids to terms, all -1 between calls."""

    table: Array = np.empty(0, np.int32)


_scratch = _Scratch()
_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # a forked child has the pool, but not its threads
    os.register_at_fork(after_in_child=_forget_pool)


def _batch(
    query_ids: Texts, document_ids: Texts | None
) -> tuple[tuple[Array, Array, Array, Array, bool], int]:
    """Return a batch's texts as the kernels take them, and the documents' largest id.

    These are the documents' ids and offsets, the queries', and whether both are the same.
    """
    same = document_ids is None
    q_ids, q_offsets, largest = flat(query_ids, "query_ids")
    ids, offsets = q_ids, q_offsets
    if document_ids is not None:
        ids, offsets, largest = flat(document_ids, "document_ids")
    if largest >= _TABLE_LIMIT:
        known = distinct(ids)
        largest = known.size - 1
        ids = renumbered(ids, known)
        q_ids = ids if same else renumbered(q_ids, known)
    return (ids, offsets, q_ids, q_offsets, same), largest


def _take_table(largest: int) -> Array:
    """Take this thread's table, for ids up to `largest`; put it back when it is all -1 again.

    Who fails half-way (out of memory, Ctrl-C) does not: it may still hold the batch's terms.
    """
    table, _scratch.table = _scratch.table, _Scratch.table
    if table.size <= largest:
        table = np.full(1 << max(largest, 1).bit_length(), -1, np.int32)
    return table


def _fill(scores: Scores, batch: tuple[Any, ...], threads: int | None) -> None:
    """Fill the scores, in blocks of rows, on this thread and on the pool's."""
    global _pool
    n = len(scores)
    threads = 1 if scores.size < _POOL_SCORES else min(threads or _cores(), n)
    edges = [n * i // threads for i in range(threads + 1)]
    waiting = []
    if threads > 1:
        pool = _pool = _pool or ThreadPoolExecutor(os.cpu_count(), "softnce-bm25")
        for first, last in zip(edges[1:], edges[2:], strict=False):
            waiting.append(pool.submit(score_rows, first, last, scores, *batch))
    score_rows(0, edges[1], scores, *batch)
    for block in waiting:
        block.result()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _number(name: str, value: Any) -> float:
    """Return a finite number as a float, or refuse."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def _load(path: Path) -> Array:
    """Map a saved array into memory, copied where it is written to.

    Read-only would be another type to numba, for which it would compile the kernels again.
    """
    try:
        return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except ValueError:  # an array without values cannot be mapped
        return np.asarray(np.load(path, allow_pickle=False))


def _check_index(folder: Path, arrays: list[Array], documents: int) -> None:
    """Hold a saved index against what the kernels rely on."""
    known, table, indptr, document, weight = arrays
    types = [np.int64, np.int32, np.int64, np.int32, np.float32]
    terms = indptr.size - 1
    sound = (
        all(array.ndim == 1 and array.dtype == t for array, t in zip(arrays, types, strict=True))
        and terms >= 0
        and indptr[0] == 0
        and indptr[-1] == document.size == weight.size
        and bool((np.diff(indptr) >= 0).all())
        and (not table.size or (table.min() >= -1 and table.max() < terms))
        and (not document.size or (document.min() >= 0 and document.max() < documents))
        and known.size in (0, table.size)
    )
    if not sound:
        raise ValueError(f"{folder} must hold an index as BM25Index.save writes it")
