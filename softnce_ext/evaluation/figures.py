"""Outcomes to figures with intervals: rows of a table, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from . import graded
from .ranking import Ties, reciprocal_ranks
from .significance import Interval, bootstrap_interval, bootstrap_intervals, in_words

if TYPE_CHECKING:
    from .evaluate import Outcome
    from .judgements import Judgements

RECALL_AT = (1, 5, 10)
NDCG_AT = (10,)


def result_row(
    outcome: Outcome,
    packages: Sequence[str] | None = None,
    *,
    cutoff: int | None = None,
    ties: Ties = "mean",
    recall: Sequence[int] = RECALL_AT,
    seed: int = 0,
) -> dict[str, Any]:
    """Return an outcome's figures, ready for a table or JSON.

    Keys: name, seconds; mrr and recall@k, each with its 95 % bootstrap interval over packages
    (over queries where `interval_over` says so), such as mrr_low and mrr_high; package_mrr,
    package_mrr_low and package_mrr_high, the mean of the packages' own means; mrr_optimistic and
    mrr_pessimistic, the MRR with the other rules for ties.
    """
    figures = outcome.figures(cutoff=cutoff, ties=ties, recall=recall)
    found = bootstrap_intervals(figures, packages, seed=seed)
    macro = bootstrap_interval(figures["mrr"], packages, per_package=True, seed=seed)
    return {
        "name": outcome.name,
        "seconds": outcome.seconds,
        **_flat(found),
        **_flat({"package_mrr": macro}),
        "interval_over": macro.over,
        **{
            f"mrr_{rule}": outcome.mrr(cutoff=cutoff, ties=rule)
            for rule in ("optimistic", "pessimistic")
        },
    }


def graded_figures(
    outcome: Outcome,
    judgements: Judgements,
    *,
    cutoff: int | None = None,
    ties: Ties = "mean",
    recall: Sequence[int] = RECALL_AT,
    ndcg: Sequence[int] = NDCG_AT,
) -> dict[str, np.ndarray[Any, Any]]:
    """Return every judged query's figures, float64 [Q] each, NaN where it has none.

    Names: "ndcg@k" over all codes, "ndcg_within@k" over the judged ones, "pairwise" accuracy,
    "mrr" of the first relevant code, "recall@k" of the relevant ones.
    """
    counts = outcome.counts
    figures = {f"ndcg@{k}": graded.ndcg(counts, judgements, k, ties=ties) for k in ndcg}
    for k in ndcg:
        within = graded.ndcg(counts, judgements, k, over="within", ties=ties)
        figures[f"ndcg_within@{k}"] = within
    figures["pairwise"] = graded.pairwise_accuracy(counts, judgements, ties=ties)
    ranks = graded.first_relevant_ranks(counts, judgements, ties=ties)
    figures["mrr"] = reciprocal_ranks(ranks, cutoff)
    for k in recall:
        figures[f"recall@{k}"] = graded.recall(counts, judgements, k, ties=ties)
    return figures


def graded_row(
    outcome: Outcome, figures: Mapping[str, np.ndarray[Any, Any]], *, seed: int = 0
) -> dict[str, Any]:
    """Return figures of judged queries, ready for a table or JSON.

    Keys: name, seconds and, for each figure that a query has, its mean over the queries that
    have it, the 95 % bootstrap interval over them (`_low`, `_high`) and their number (`_queries`).
    """
    row: dict[str, Any] = {"name": outcome.name, "seconds": outcome.seconds}
    for name, values in figures.items():
        known = values[~np.isnan(values)]
        if len(known):
            row |= _flat({name: bootstrap_interval(known, seed=seed)})
        row[f"{name}_queries"] = len(known)
    return row


def difference_rows(
    first: Mapping[str, np.ndarray[Any, Any]],
    second: Mapping[str, np.ndarray[Any, Any]],
    packages: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Return the paired difference of each figure of two systems, with interval and in words.

    Args:
        first: Figures of the first system, by name, one value per query; NaN for none.
        second: The same queries' figures of the second system.
        packages: The package of each query [N], as in `bootstrap_interval`.
        seed: Seed of the draws.

    Raises:
        ValueError: The two do not hold the same figures of the same queries.
    """
    if first.keys() != second.keys():
        raise ValueError(f"both must have the same figures, got {[*first]} and {[*second]}")
    rows = {}
    for name, values in first.items():
        if values.shape != second[name].shape:
            raise ValueError(
                f"{name} must be of the same queries, "
                f"got {list(values.shape)} and {list(second[name].shape)}"
            )
        gap = values - second[name]
        known = ~np.isnan(gap)
        if known.any():
            whose = None if packages is None else list(compress(packages, known))
            found = bootstrap_interval(gap[known], whose, seed=seed)
            low, high = found.low, found.high
            words = in_words(found)
            rows[name] = {"difference": found.mean, "low": low, "high": high, "words": words}
    return rows


def _flat(intervals: Mapping[str, Interval]) -> dict[str, float]:
    return {
        key: value
        for name, found in intervals.items()
        for key, value in (
            (name, found.mean),
            (f"{name}_low", found.low),
            (f"{name}_high", found.high),
        )
    }
