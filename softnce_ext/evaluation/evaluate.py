"""Evaluate an encoder over a code base: dense, lexical and hybrid, each with its intervals.

Built in three steps that can be taken apart: texts to vectors or scores (`Systems`), scores to an
`Outcome` (how many codes beat each query's own, or each judged one), outcomes to rows of a table
(figures.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoders.saved import encode
from ..lexical import Lexical, blend
from .figures import RECALL_AT
from .figures import result_row as result_row
from .ranking import (
    RankCounts,
    Ties,
    counts_from_scores,
    recall_at,
    reciprocal_ranks,
    score_blocks,
)
from .retrieval import CodeBase, as_task

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.codesearchnet_read import Retrieval
    from ..data.pairs import Pair
    from .ranking import Array
    from .retrieval import RetrievalTask

SYSTEMS = ("dense", "lexical", "lexical+", "hybrid")

# Weights of the lexical part tried on validation data; 0 is the dense encoder alone.
HYBRID_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Outcome:
    """How one system ranked the gold codes, or the judged ones, and the seconds it took."""

    name: str
    counts: RankCounts
    seconds: float

    def reciprocals(
        self, *, cutoff: int | None = None, ties: Ties = "mean"
    ) -> np.ndarray[Any, Any]:
        """Return each query's reciprocal rank, float64 [N]."""
        return reciprocal_ranks(self.counts.ranks(ties), cutoff)

    def mrr(self, *, cutoff: int | None = None, ties: Ties = "mean") -> float:
        """Return the mean reciprocal rank; the paper's has `cutoff` 1000."""
        return float(self.reciprocals(cutoff=cutoff, ties=ties).mean())

    def figures(
        self,
        *,
        cutoff: int | None = None,
        ties: Ties = "mean",
        recall: Sequence[int] = RECALL_AT,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Return every query's "mrr" and "recall@k", float64 [N] each."""
        reciprocals = self.reciprocals(cutoff=cutoff, ties=ties)
        recalls = {f"recall@{k}": recall_at(self.counts, k, ties=ties) for k in recall}
        return {"mrr": reciprocals, **recalls}


class Systems:
    """Four ways to rank a code base: "dense", "lexical", "lexical+" and "hybrid".

    Lexical is BM25 over words; lexical+ boosts the name and adds character 4-grams; hybrid is
    dense and lexical+. The code base is encoded, and its words indexed, once for all queries; the
    queries that were ranked last are encoded once too. So the model must not change meanwhile.

    Args:
        model: The encoder. Scores are computed where it is, block by block.
        base: The code base.
        name_boost: How often a function's name is put before its code, as in training.
        hybrid_weight: Weight of the lexical score in the hybrid one, chosen on validation data.
        batch_size: Texts encoded at once; None for what suits the model.
        progress: Show progress on stderr.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        base: CodeBase,
        *,
        name_boost: int = 0,
        hybrid_weight: float = 0.0,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> None:
        self.model, self.base = model, base
        self.name_boost, self.hybrid_weight = name_boost, hybrid_weight
        self.batch_size, self.progress = batch_size, progress
        self._code: np.ndarray[Any, Any] | None = None
        self._code_seconds = 0.0
        self._queries: Sequence[str] | None = None
        self._query = np.empty((0, 0), np.float32)
        self._query_seconds = 0.0

    def rank(
        self,
        queries: Sequence[str],
        count: Callable[[Iterable[Array]], RankCounts],
        names: Sequence[str] = SYSTEMS,
    ) -> list[Outcome]:
        """Score queries against the code base and count.

        Args:
            queries: Their texts [N].
            count: Makes counts of blocks of scores [rows, M].
            names: Which of `SYSTEMS`, in order.
        """
        outcomes = []
        for name in names:
            spent = 0.0
            if name in ("dense", "hybrid"):
                blocks: Iterable[Array] = self.dense_blocks(queries)
                spent += self._query_seconds + self._code_seconds
            if name != "dense":
                lexical, indexing = self.base.lexical(plus=name != "lexical")
                spent += indexing
                if name == "hybrid":
                    blocks = hybrid_blocks(blocks, lexical, queries, self.hybrid_weight)
                else:
                    blocks = lexical_blocks(lexical, queries)
            start = time.perf_counter()
            counts = count(blocks)
            outcomes.append(Outcome(name, counts, spent + time.perf_counter() - start))
        return outcomes

    def dense_blocks(self, queries: Sequence[str]) -> Iterator[Array]:
        """Yield the encoder's scores of consecutive queries, [rows, M]."""
        vectors = self._encode_queries(queries)
        return score_blocks(vectors, self._encode_base(), self.model.device)

    def _encode_queries(self, queries: Sequence[str]) -> np.ndarray[Any, Any]:
        if self._queries is not queries:
            start = time.perf_counter()
            self._query = encode(self.model, queries, "query", self.batch_size, self.progress)
            self._query_seconds = time.perf_counter() - start
            self._queries = queries
        return self._query

    def _encode_base(self) -> np.ndarray[Any, Any]:
        if self._code is None:
            start = time.perf_counter()
            texts = self.base.texts(self.name_boost)
            self._code = encode(self.model, texts, "code", self.batch_size, self.progress)
            self._code_seconds = time.perf_counter() - start
        return self._code


def evaluate_model(
    model: SentenceTransformer,
    pairs: Sequence[Pair] | Retrieval | RetrievalTask,
    *,
    name_boost: int,
    hybrid_weight: float,
    batch_size: int | None = None,
    progress: bool = False,
) -> list[Outcome]:
    """Rank every query's gold code among all codes by the four systems.

    Args:
        model: The encoder.
        pairs: Pairs, whose codes are the code base; or queries with a code base of their own,
            such as `data.codesearchnet_read.read_retrieval` gives.
        name_boost: As in `Systems`.
        hybrid_weight: As in `Systems`.
        batch_size: As in `Systems`.
        progress: As in `Systems`.

    Returns:
        The outcomes of `SYSTEMS`, in order.

    Raises:
        ValueError: There are no pairs, or a vector is NaN.
    """
    task = as_task(pairs)
    systems = Systems(
        model,
        task.base,
        name_boost=name_boost,
        hybrid_weight=hybrid_weight,
        batch_size=batch_size,
        progress=progress,
    )
    return systems.rank(task.queries, lambda blocks: counts_from_scores(blocks, task.target))


def evaluate_pairs(
    model: SentenceTransformer,
    pairs: Sequence[Pair] | Retrieval | RetrievalTask,
    *,
    name_boost: int = 0,
    batch_size: int | None = None,
    progress: bool = False,
) -> Outcome:
    """Rank every query's gold code by the encoder alone: the figure a checkpoint is chosen by.

    ``evaluate_pairs(model, valid).mrr(cutoff=PAPER_CUTOFF)`` is the paper's metric. Args and
    raises: as in `evaluate_model`.
    """
    task = as_task(pairs)
    systems = Systems(
        model, task.base, name_boost=name_boost, batch_size=batch_size, progress=progress
    )
    return systems.rank(
        task.queries, lambda blocks: counts_from_scores(blocks, task.target), ["dense"]
    )[0]


def lexical_blocks(
    lexical: Lexical, queries: Sequence[str], rows: int = 256
) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the lexical scores of consecutive queries, float32 [rows, M]."""
    for start in range(0, len(queries), rows):
        yield lexical.scores(list(queries[start : start + rows]))


def hybrid_blocks(
    dense: Iterable[Array], lexical: Lexical, queries: Sequence[str], weight: float
) -> Iterator[np.ndarray[Any, Any]]:
    """Yield hybrid scores: blocks of dense scores, each with its queries' lexical ones added."""
    remaining = iter(queries)
    for scores in dense:
        part = _as_numpy(scores)
        yield blend(part, lexical.scores(list(islice(remaining, len(part)))), weight)


def choose_hybrid_weight(
    dense: Iterable[Array],
    lexical: Iterable[Array],
    target: Array | None = None,
    *,
    weights: Sequence[float] = HYBRID_WEIGHTS,
) -> tuple[float, dict[float, float]]:
    """Choose the lexical part's weight by the MRR on validation data.

    Args:
        dense: Blocks of dense scores [rows, M] of consecutive queries; ``[scores]`` for one.
        lexical: The same queries' lexical scores, in blocks of the same rows.
        target: Index [N] of each query's gold code; None: query i's gold code is column i.
        weights: The weights to try; of two as good the first wins.

    Returns:
        The chosen weight, and the MRR of every weight tried.

    Raises:
        ValueError: `weights` is empty, or the blocks differ in shape.
    """
    if not weights:
        raise ValueError("weights must hold at least one weight, got none")
    counts: dict[float, list[RankCounts]] = {weight: [] for weight in weights}
    start = 0
    for dense_block, lexical_block in zip(dense, lexical, strict=True):
        part, words = _as_numpy(dense_block), _as_numpy(lexical_block)
        if part.shape != words.shape:
            raise ValueError(
                f"dense and lexical blocks must have one shape, "
                f"got {list(part.shape)} and {list(words.shape)}"
            )
        rows = np.arange(start, start + len(part))
        gold = rows if target is None else _as_numpy(target)[rows]
        for weight in weights:
            counts[weight].append(counts_from_scores([blend(part, words, weight)], gold))
        start += len(part)
    mrr = {
        weight: float(np.concatenate([reciprocal_ranks(c.ranks()) for c in parts]).mean())
        for weight, parts in counts.items()
    }
    return max(mrr, key=lambda weight: mrr[weight]), mrr


def _as_numpy(value: Array) -> np.ndarray[Any, Any]:
    return value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
