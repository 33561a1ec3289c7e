"""Figures of queries that several codes answer, better or worse: nDCG, pairwise accuracy, recall.

All are made of two counts of each judged code: how many codes of the code base score higher than
it, and how many the same. The order of equal scores is arbitrary, so a figure is its expected
value over all their orders (``ties="mean"``), or that of the best or the worst one.

A query without a relevant code has no figure: NaN, to be left out of the mean. Relevant is a
code with a grade above 0.

Source: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002 (nDCG);
McSherry and Najork, "Computing information retrieval performance measures efficiently in the
presence of tied scores", 2008; Husain et al., "CodeSearchNet Challenge", 2019, and its script.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .judgements import Judgements
from .ranking import RankCounts, Ties, as_scores, check_ties, mean_of_ties, refuse_nan

if TYPE_CHECKING:
    from .ranking import Array

Over = Literal["all", "within"]
Gain = Literal["exponential", "linear"]


def judged_counts(blocks: Iterable[Array], judgements: Judgements) -> RankCounts:
    """Count, for each judged code, the other codes that score higher for its query, and the same.

    Args:
        blocks: Scores [rows, M] of consecutive queries, as in `ranks_from_scores`.
        judgements: The judged codes of these queries, J in all.

    Returns:
        Two arrays, int64 [J].

    Raises:
        ValueError: A judged code is not in the code base, there are not as many rows as queries,
            or a score is NaN.
    """
    queries = len(judgements.queries)
    ends = np.searchsorted(judgements.query, np.arange(queries), side="right")
    higher, equal = (np.empty(len(judgements.query), np.int64) for _ in range(2))
    start = 0
    for block in blocks:
        scores = as_scores(block)
        if start + len(scores) > queries:
            raise ValueError(f"scores must have {queries} rows, one per judged query, got more")
        if int(judgements.code.max()) >= scores.shape[1]:
            raise ValueError(
                f"code must be in [0, {scores.shape[1]}), got {int(judgements.code.max())}"
            )
        refuse_nan(scores, start)
        # A row at a time, in one thread: a query has some tens of judged codes, no more.
        for number, row in enumerate(scores.cpu().numpy(), start):
            here = slice(ends[number - 1] if number else 0, ends[number])
            if here.start < here.stop:
                higher[here], equal[here] = _row_counts(row, judgements.code[here])
        start += len(scores)
    if start < queries:
        raise ValueError(f"scores must have {queries} rows, one per judged query, got {start}")
    return RankCounts(higher, equal)


def ndcg(
    counts: RankCounts,
    judgements: Judgements,
    k: int | None = None,
    *,
    over: Over = "all",
    gain: Gain = "exponential",
    ties: Ties = "mean",
) -> np.ndarray[Any, Any]:
    """Return each query's normalised discounted cumulative gain, float64 [Q], from 0 to 1.

    ``DCG = sum of gain(grade) / log2(rank + 1)`` over the query's judged codes of rank <= k, and
    nDCG is DCG over the DCG of the ideal ranking: the judged codes alone, best grades first.

    Args:
        counts: From `judged_counts`.
        judgements: The judged codes.
        k: Ranks beyond this gain nothing, here and in the ideal; None: every rank counts.
        over: "all" ranks a judged code among all codes of the code base, and a code nobody judged
            takes a rank and gains nothing; "within" ranks it among the query's judged codes
            alone, as if the others were not there. (CodeSearchNet's script prints "within" as
            NDCG and "all" as NDCG (full ranking), both of a system's first 300 codes; k=300 is
            its "all".)
        gain: "exponential" is ``2 ** grade - 1``, CodeSearchNet's; "linear" is the grade.
        ties: "mean" is the expected value over all orders of equal scores; "optimistic" and
            "pessimistic" put a query's better grades first or last among them.

    Raises:
        ValueError: An option is out of range.
    """
    _check_k(k)
    if gain not in ("exponential", "linear"):
        raise ValueError(f"gain must be exponential or linear, got {gain!r}")
    places = _Places(counts, judgements, over)
    worth = 2.0**judgements.grade - 1 if gain == "exponential" else judgements.grade
    sums = _discount_sums(int((places.before + places.size).max()), k)
    if check_ties(ties) == "mean":
        last = places.before + places.size
        discount = (sums[last] - sums[places.before]) / places.size
    else:
        rank = places.ranks(worth, ties)
        discount = sums[rank] - sums[rank - 1]
    found = places.per_query(worth * discount)

    order = np.lexsort((-worth, judgements.query))
    rank = 1 + np.arange(len(order)) - places.first[judgements.query[order]]
    ideal_sums = _discount_sums(int(rank.max()), k)
    ideal = places.per_query((ideal_sums[rank] - ideal_sums[rank - 1]) * worth[order])
    return _shares(found, ideal)


def pairwise_accuracy(
    counts: RankCounts, judgements: Judgements, *, ties: Ties = "mean"
) -> np.ndarray[Any, Any]:
    """Return each query's share of rightly ordered pairs, float64 [Q], NaN where it has no pair.

    The pairs are those of a query's judged codes with different grades; one is right if the
    better grade has the higher score. Equal scores count half ("mean"), all or nothing.
    """
    share = 1.0 - mean_of_ties(ties)
    found = np.full(len(judgements.queries), np.nan)
    ends = np.searchsorted(judgements.query, np.arange(len(found)), side="right")
    for number, end in enumerate(ends):
        here = slice(ends[number - 1] if number else 0, end)
        grade, higher = judgements.grade[here], counts.higher[here]
        better = grade[:, None] > grade  # [j, j]
        if better.any():
            right = (higher[:, None] < higher) + share * (higher[:, None] == higher)
            found[number] = right[better].mean()
    return found


def recall(
    counts: RankCounts, judgements: Judgements, k: int, *, ties: Ties = "mean"
) -> np.ndarray[Any, Any]:
    """Return the share of each query's relevant codes that are among the first k, float64 [Q]."""
    _check_k(k)
    places = _Places(counts, judgements, "all")
    relevant = (judgements.grade > 0).astype(float)
    if check_ties(ties) == "mean":
        inside = np.clip((k - places.before) / places.size, 0, 1)
    else:
        inside = (places.ranks(relevant, ties) <= k).astype(float)
    total = places.per_query(relevant)
    found = places.per_query(relevant * inside)
    return _shares(found, total)


def first_relevant_ranks(
    counts: RankCounts, judgements: Judgements, *, ties: Ties = "mean"
) -> np.ndarray[Any, Any]:
    """Return the rank of each query's first relevant code, float64 [Q]; NaN where it has none.

    "mean" is the mean rank over all orders of equal scores: of r relevant codes among t equal
    ones the first has the mean rank (t + 1) / (r + 1), by symmetry of the gaps between them.
    """
    places = _Places(counts, judgements, "all")
    relevant = judgements.grade > 0
    together = np.bincount(places.group, weights=relevant)[places.group]
    inside: np.ndarray[Any, Any]
    if check_ties(ties) == "mean":
        inside = (places.size + 1) / (together + 1)
    elif ties == "optimistic":
        inside = np.ones(len(relevant))
    else:
        inside = places.size - together + 1.0
    ranks = np.full(len(judgements.queries), np.inf)
    np.minimum.at(ranks, judgements.query[relevant], (places.before + inside)[relevant])
    ranks[np.isinf(ranks)] = np.nan
    return ranks


class _Places:
    """Where judged codes stand: `before` others, in a tie of `size`; ties of a query by `group`."""

    def __init__(self, counts: RankCounts, judgements: Judgements, over: Over) -> None:
        if over not in ("all", "within"):
            raise ValueError(f"over must be all or within, got {over!r}")
        if len(counts.higher) != len(judgements.query):
            raise ValueError(
                f"counts must be of the {len(judgements.query)} judgements, "
                f"got {len(counts.higher)}"
            )
        self.query, self.queries = judgements.query, len(judgements.queries)
        # Codes of a query have the same score if and only if as many others score higher.
        order = np.lexsort((counts.higher, self.query))
        new = np.ones(len(order), bool)
        new[1:] = np.diff(self.query[order]).astype(bool) | np.diff(counts.higher[order]).astype(
            bool
        )
        self.group = np.empty(len(order), np.int64)
        self.group[order] = np.cumsum(new) - 1
        self.first = np.searchsorted(self.query, np.arange(self.queries))  # judgement of a query
        if over == "all":
            self.before, self.size = counts.higher, counts.equal + 1
        else:
            self.before = np.flatnonzero(new)[self.group] - self.first[self.query]
            self.size = np.bincount(self.group)[self.group]

    def ranks(self, worth: np.ndarray[Any, Any], ties: Ties) -> np.ndarray[Any, Any]:
        """Ranks [J] where a tie's worthiest codes come first (optimistic) or last of it."""
        order = np.lexsort((-worth if ties == "optimistic" else worth, self.group))
        members = np.bincount(self.group)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order)) - (np.cumsum(members) - members)[self.group[order]]
        if ties == "pessimistic":  # behind the codes of the tie that nobody judged
            place += self.size - members[self.group]
        return np.asarray(self.before + place + 1)

    def per_query(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Sums [Q] of values [J] in the order of the judgements' queries."""
        return np.bincount(self.query, weights=values, minlength=self.queries)


def _row_counts(
    row: np.ndarray[Any, Any], codes: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Count the scores [M] above, and beside, each of the codes' own: O(M log J), not M J."""
    levels, level = np.unique(row[codes], return_inverse=True)
    higher, at_least = (
        # Of how many levels a score is above, or at, makes M scores a few bins.
        np.bincount(np.searchsorted(levels, row, side), minlength=len(levels) + 1)[:0:-1].cumsum()[
            ::-1
        ][level]
        for side in ("left", "right")
    )
    return higher, at_least - higher - 1


def _shares(found: np.ndarray[Any, Any], whole: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Quotients [Q], NaN where there is nothing to be found."""
    return np.asarray(np.divide(found, whole, out=np.full(len(whole), np.nan), where=whole > 0))


def _discount_sums(last: int, k: int | None) -> np.ndarray[Any, Any]:
    """Sums of the discounts of ranks up to 0, 1, ..., last; 0 is added beyond k."""
    discount = 1.0 / np.log2(np.arange(2, last + 2))
    if k is not None:
        discount[k:] = 0.0
    return np.concatenate([[0.0], np.cumsum(discount)])


def _check_k(k: int | None) -> None:
    if k is not None and k < 1:
        raise ValueError(f"k must be >= 1, got {k}")


def check_depths(name: str, depths: Sequence[int], codes: int) -> None:
    """Refuse to look at more codes than there are.

    Raises:
        ValueError: A depth is below 1 or above the number of codes.
    """
    for k in depths:
        if not 1 <= k <= codes:
            raise ValueError(f"{name} must be from 1 to the {codes} codes there are, got {k}")
