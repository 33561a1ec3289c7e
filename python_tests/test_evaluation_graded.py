from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from softnce_ext.evaluation.graded import (
    check_depths,
    first_relevant_ranks,
    judged_counts,
    ndcg,
    pairwise_accuracy,
    recall,
)
from softnce_ext.evaluation.judgements import Judgements
from softnce_ext.evaluation.ranking import RankCounts, recall_at, score_blocks

TIES = ("optimistic", "mean", "pessimistic")
PICK = {"optimistic": max, "mean": lambda values: sum(values) / len(values), "pessimistic": min}


def make(judged: list[dict[int, float]]) -> Judgements:
    """Of each query, code -> grade."""
    flat = [(q, c, g) for q, each in enumerate(judged) for c, g in each.items()]
    query, code, grade = (np.array(column) for column in zip(*flat, strict=True))
    return Judgements([f"q{i}" for i in range(len(judged))], query, code, grade.astype(float))


def orders(scores: list[float]) -> list[tuple[int, ...]]:
    """All rankings of the codes that the scores allow."""
    best = sorted(scores, reverse=True)
    everything = permutations(range(len(scores)))
    return [each for each in everything if [scores[code] for code in each] == best]


def literal_ndcg(order, judged, k, over, gain) -> float:
    worth = {c: 2**g - 1 if gain == "exponential" else g for c, g in judged.items()}
    dcg, rank = 0.0, 0
    for code in order:
        if code in judged or over == "all":
            rank += 1
        if code in judged and (k is None or rank <= k):
            dcg += worth[code] / math.log2(rank + 1)
    ideal = sum(
        w / math.log2(i + 1)
        for i, w in enumerate(sorted(worth.values(), reverse=True), 1)
        if k is None or i <= k
    )
    return dcg / ideal if ideal else math.nan


def literal_recall(order, judged, k) -> float:
    relevant = {code for code, grade in judged.items() if grade > 0}
    return len(relevant & set(order[:k])) / len(relevant) if relevant else math.nan


def literal_first(order, judged) -> float:
    ranks = [rank for rank, code in enumerate(order, 1) if judged.get(code, 0) > 0]
    return ranks[0] if ranks else math.nan


def literal_pairs(order, judged) -> float:
    pairs = [(a, b) for a in judged for b in judged if judged[a] > judged[b]]
    right = [order.index(a) < order.index(b) for a, b in pairs]
    return sum(right) / len(right) if right else math.nan


def small_cases() -> list[tuple[np.ndarray, list[dict[int, float]]]]:
    """Score rows of few levels, so that ties are many, and grades of all kinds."""
    rng = np.random.default_rng(0)
    cases = []
    for codes in (1, 2, 4, 6):
        scores = rng.integers(3, size=(12, codes)).astype(np.float32)
        judged = []
        for _ in scores:
            chosen = rng.choice(codes, size=rng.integers(1, codes + 1), replace=False)
            grades = rng.choice([0.0, 0.0, 1.0, 1.5, 2.0, 3.0], size=len(chosen))
            judged.append({int(c): float(g) for c, g in zip(chosen, grades, strict=True)})
        cases.append((scores, judged))
    return cases


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("over", ["all", "within"])
@pytest.mark.parametrize(("k", "gain"), [(None, "exponential"), (2, "exponential"), (3, "linear")])
def test_ndcg_is_that_of_all_orders_of_equal_scores(ties, over, k, gain) -> None:
    for scores, judged in small_cases():
        judgements = make(judged)
        counts = judged_counts([scores[:5], scores[5:5], scores[5:]], judgements)
        found = ndcg(counts, judgements, k, over=over, gain=gain, ties=ties)
        expected = [
            PICK[ties]([literal_ndcg(order, each, k, over, gain) for order in orders(row.tolist())])
            for row, each in zip(scores, judged, strict=True)
        ]
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("ties", TIES)
def test_recall_first_rank_and_pairs_are_those_of_all_orders(ties) -> None:
    worst_is_last = {"optimistic": min, "mean": PICK["mean"], "pessimistic": max}[ties]
    for scores, judged in small_cases():
        judgements = make(judged)
        counts = judged_counts([scores], judgements)
        rows = list(zip([orders(row.tolist()) for row in scores], judged, strict=True))
        for k in (1, 2, 4):
            expected = [
                PICK[ties]([literal_recall(o, each, k) for o in all_]) for all_, each in rows
            ]
            np.testing.assert_allclose(recall(counts, judgements, k, ties=ties), expected)
        expected = [worst_is_last([literal_first(o, each) for o in all_]) for all_, each in rows]
        np.testing.assert_allclose(first_relevant_ranks(counts, judgements, ties=ties), expected)
        if ties == "mean":
            expected = [np.mean([literal_pairs(o, each) for o in all_]) for all_, each in rows]
            np.testing.assert_allclose(pairwise_accuracy(counts, judgements), expected)


def test_equal_scores_are_all_right_or_all_wrong_pairs_by_the_rule() -> None:
    judgements = make([{0: 3, 1: 0, 2: 1}])
    counts = judged_counts([np.array([[1.0, 1.0, 2.0]])], judgements)
    found = {ties: pairwise_accuracy(counts, judgements, ties=ties)[0] for ties in TIES}
    assert found == pytest.approx({"optimistic": 2 / 3, "mean": 0.5, "pessimistic": 1 / 3})


def test_many_codes_agree_with_the_literal_definition() -> None:
    rng = np.random.default_rng(3)
    scores = rng.permutation(40 * 257).reshape(40, 257).astype(np.float32)
    judged = [
        {int(c): float(rng.integers(4)) for c in rng.choice(257, size=20, replace=False)}
        for _ in scores
    ]
    judgements = make(judged)
    counts = judged_counts(torch.from_numpy(scores).split(7), judgements)
    for over in ("all", "within"):
        for k in (1, 10, 300):
            expected = [
                literal_ndcg(np.argsort(-row).tolist(), each, k, over, "exponential")
                for row, each in zip(scores, judged, strict=True)
            ]
            found = ndcg(counts, judgements, k, over=over)
            np.testing.assert_allclose(found, expected, atol=1e-10)


def test_one_relevant_code_is_the_gold_code() -> None:
    rng = np.random.default_rng(4)
    scores = rng.integers(5, size=(30, 20)).astype(np.float32)
    gold = rng.integers(20, size=30)
    judgements = make([{int(code): 1.0} for code in gold])
    counts = judged_counts([scores], judgements)
    for ties in TIES:
        ranks = first_relevant_ranks(counts, judgements, ties=ties)
        np.testing.assert_array_equal(ranks, counts.ranks(ties))
        for k in (1, 3, 20):
            np.testing.assert_allclose(
                recall(counts, judgements, k, ties=ties), recall_at(counts, k, ties=ties)
            )


def test_duplicates_of_a_judged_code_tie_with_it() -> None:
    code = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)).expand(1023, 300)
    query = torch.randn(3, 300, generator=torch.Generator().manual_seed(1))
    judgements = make([{5: 2.0}] * 3)
    counts = judged_counts(score_blocks(query, code.contiguous()), judgements)
    assert counts.higher.tolist() == [0] * 3
    assert counts.equal.tolist() == [1022] * 3
    mean_discount = np.mean(1 / np.log2(np.arange(2, 1025)))
    np.testing.assert_allclose(ndcg(counts, judgements), mean_discount)


def test_a_query_without_a_relevant_code_has_no_figure() -> None:
    judgements = make([{0: 0.0, 1: 0.0}, {1: 2.0}])
    counts = judged_counts([np.eye(2)], judgements)
    for values in (
        ndcg(counts, judgements),
        recall(counts, judgements, 1),
        first_relevant_ranks(counts, judgements),
    ):
        assert np.isnan(values).tolist() == [True, False]
    assert np.isnan(pairwise_accuracy(counts, judgements)).all()


def test_the_worked_example_of_the_definition() -> None:
    # Ranks 1, 2, 4 of grades 0, 3, 1; a code nobody judged stands third.
    judgements = make([{0: 0.0, 1: 3.0, 3: 1.0}])
    counts = judged_counts([np.array([[9.0, 8.0, 7.0, 6.0]])], judgements)
    ideal = 7 + 1 / math.log2(3)
    assert ndcg(counts, judgements)[0] == pytest.approx(
        (7 / math.log2(3) + 1 / math.log2(5)) / ideal
    )
    assert ndcg(counts, judgements, over="within")[0] == pytest.approx(
        (7 / math.log2(3) + 1 / math.log2(4)) / ideal
    )
    assert ndcg(counts, judgements, gain="linear", k=2)[0] == pytest.approx(
        3 / math.log2(3) / (3 + 1 / math.log2(3))
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, j: ndcg(c, j, 0), "k must be >= 1, got 0"),
        (lambda c, j: recall(c, j, 0), "k must be >= 1, got 0"),
        (lambda c, j: ndcg(c, j, over="none"), "over must be all or within, got 'none'"),
        (lambda c, j: ndcg(c, j, gain="square"), "gain must be exponential or linear"),
        (lambda c, j: ndcg(c, j, ties="best"), "ties must be one of optimistic"),
        (lambda c, j: pairwise_accuracy(c, j, ties="best"), "ties must be one of optimistic"),
        (
            lambda c, j: ndcg(RankCounts(c.higher[:1], c.equal[:1]), j),
            "counts must be of the 2 judgements, got 1",
        ),
        (lambda c, j: judged_counts([np.eye(2), np.eye(2)], j), "must have 2 rows, .* got more"),
        (lambda c, j: judged_counts([np.eye(2)[:1]], j), "must have 2 rows, .* got 1"),
        (lambda c, j: judged_counts([], j), "must have 2 rows, .* got 0"),
        (lambda c, j: judged_counts([np.ones((2, 1))], j), r"code must be in \[0, 1\), got 1"),
        (lambda c, j: judged_counts([np.full((2, 2), np.nan)], j), "NaN for query row 0"),
        (lambda c, j: check_depths("recall", [1, 3], 2), "recall must be from 1 to the 2 codes"),
    ],
)
def test_bad_input_names_argument_rule_and_value(call, message) -> None:
    judgements = make([{0: 1.0}, {1: 2.0}])
    counts = judged_counts([np.eye(2)], judgements)
    with pytest.raises(ValueError, match=message):
        call(counts, judgements)
