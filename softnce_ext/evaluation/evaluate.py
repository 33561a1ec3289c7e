"""Evaluate an encoder on pairs: dense, lexical and hybrid, each with its interval.

Built in three steps that can be taken apart: texts to vectors or scores, scores to an `Outcome`
(how many codes beat each query's own), outcomes to rows of a table.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoders.saved import encode
from ..encoders.text import code_text
from ..lexical import Lexical, blend
from .ranking import (
    RankCounts,
    Ties,
    counts_from_scores,
    metrics_from_ranks,
    reciprocal_ranks,
    score_blocks,
)
from .significance import bootstrap_interval

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.pairs import Pair
    from .ranking import Array

# Weights of the lexical part tried on validation data; 0 is the dense encoder alone.
HYBRID_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Outcome:
    """How one system ranked the gold codes, and the seconds it took."""

    name: str
    counts: RankCounts
    seconds: float

    def reciprocals(
        self, *, cutoff: int | None = None, ties: Ties = "mean"
    ) -> np.ndarray[Any, Any]:
        """Return each query's reciprocal rank, float64 [N]."""
        return reciprocal_ranks(self.counts.ranks(ties), cutoff)


def evaluate_model(
    model: SentenceTransformer,
    pairs: Sequence[Pair],
    *,
    name_boost: int,
    hybrid_weight: float,
    batch_size: int | None = None,
    progress: bool = False,
) -> list[Outcome]:
    """Rank every pair's code among all codes by four systems.

    Args:
        model: The encoder.
        pairs: Queries and codes; the gold code of a query is its own pair's.
        name_boost: How often a function's name is put before its code, as in training.
        hybrid_weight: Weight of the lexical score in the hybrid one, chosen on validation data.
        batch_size: Texts encoded at once; None for what suits the model.
        progress: Show progress on stderr.

    Returns:
        The outcomes "dense", "lexical" (BM25 over words), "lexical+" (name boosted, character
        4-grams) and "hybrid" (dense and lexical+).

    Raises:
        ValueError: There are no pairs.
    """
    if not pairs:
        raise ValueError("pairs must hold at least one pair, got none")
    queries = [pair.query for pair in pairs]
    start = time.perf_counter()
    query, code = encode_pairs(
        model, pairs, name_boost=name_boost, batch_size=batch_size, progress=progress
    )
    encoding_seconds = time.perf_counter() - start
    outcomes = [timed("dense", score_blocks(query, code), encoding_seconds)]
    for name, plus in (("lexical", False), ("lexical+", True)):
        start = time.perf_counter()
        lexical = lexical_of(pairs, plus=plus)
        indexing_seconds = time.perf_counter() - start
        outcomes.append(timed(name, lexical_blocks(lexical, queries), indexing_seconds))
    blocks = hybrid_blocks(score_blocks(query, code), lexical, queries, hybrid_weight)
    outcomes.append(timed("hybrid", blocks, encoding_seconds + indexing_seconds))
    return outcomes


def encode_pairs(
    model: SentenceTransformer,
    pairs: Sequence[Pair],
    *,
    name_boost: int,
    batch_size: int | None = None,
    progress: bool = False,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the query vectors and code vectors of pairs, float32 [N, D] both."""
    codes = [code_text(pair.name, pair.code, name_boost) for pair in pairs]
    return (
        encode(model, [pair.query for pair in pairs], "query", batch_size, progress),
        encode(model, codes, "code", batch_size, progress),
    )


def lexical_of(pairs: Sequence[Pair], *, plus: bool) -> Lexical:
    """Index the codes of pairs by their words."""
    return Lexical([pair.name for pair in pairs], [pair.code for pair in pairs], plus=plus)


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


def timed(
    name: str, blocks: Iterable[Array], seconds: float = 0.0, target: Array | None = None
) -> Outcome:
    """Rank by blocks of scores as they are made; `seconds` spent before count too."""
    start = time.perf_counter()
    counts = counts_from_scores(blocks, target)
    return Outcome(name, counts, seconds + time.perf_counter() - start)


def result_row(
    outcome: Outcome,
    packages: Sequence[str] | None = None,
    *,
    cutoff: int | None = None,
    ties: Ties = "mean",
    seed: int = 0,
) -> dict[str, Any]:
    """Return an outcome's figures, ready for a table or JSON.

    Keys: name, mrr, recall@1, recall@5, recall@10, seconds; mrr_low and mrr_high, the 95 %
    bootstrap interval over packages (over queries where `interval_over` says so); package_mrr,
    package_mrr_low and package_mrr_high, the mean of the packages' own means; mrr_optimistic and
    mrr_pessimistic, the MRR with the other rules for ties.
    """
    values = outcome.reciprocals(cutoff=cutoff, ties=ties)
    micro = bootstrap_interval(values, packages, seed=seed)
    macro = bootstrap_interval(values, packages, per_package=True, seed=seed)
    by_ties = {
        f"mrr_{rule}": float(outcome.reciprocals(cutoff=cutoff, ties=rule).mean())
        for rule in ("optimistic", "pessimistic")
    }
    return {
        "name": outcome.name,
        **metrics_from_ranks(outcome.counts.ranks(ties), cutoff=cutoff),
        "seconds": outcome.seconds,
        "mrr_low": micro.low,
        "mrr_high": micro.high,
        "package_mrr": macro.mean,
        "package_mrr_low": macro.low,
        "package_mrr_high": macro.high,
        "interval_over": micro.over,
        **by_ties,
    }


def _as_numpy(value: Array) -> np.ndarray[Any, Any]:
    return value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
