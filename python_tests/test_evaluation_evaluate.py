from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import save_tiny_encoder

from softnce_ext.data.pairs import Pair
from softnce_ext.encoders.saved import load_encoder
from softnce_ext.evaluation import evaluate
from softnce_ext.evaluation.evaluate import (
    Outcome,
    choose_hybrid_weight,
    evaluate_model,
    hybrid_blocks,
    result_row,
)
from softnce_ext.evaluation.ranking import RankCounts, ranks_from_scores
from softnce_ext.lexical import Lexical, blend

PAIRS = [
    Pair("open a file", "def opening(f):\n    return open(f, 'file')", "opening", "a"),
    Pair("send mail", "def post(x):\n    return send(mail, x)", "post", "a"),
    Pair("resize an image", "def scale(i):\n    return image.resize(i)", "scale", "b"),
    Pair("what no code says", "def other(z):\n    del z", "other", "c"),
]


def test_every_system_is_ranked_and_the_described_codes_come_first(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path, " ".join(pair.query + " " + pair.code for pair in PAIRS))
    model, _ = load_encoder(str(tmp_path))
    outcomes = evaluate_model(model, PAIRS, name_boost=3, hybrid_weight=0.5)
    assert [outcome.name for outcome in outcomes] == ["dense", "lexical", "lexical+", "hybrid"]
    for outcome in outcomes:
        assert outcome.counts.ranks()[:3].tolist() == [1.0, 1.0, 1.0]
        assert outcome.seconds > 0
    # No word of the last query is in a code: BM25 scores all alike.
    assert outcomes[1].counts.equal[3] == 3


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair, got none"):
        evaluate_model(None, [], name_boost=3, hybrid_weight=0.5)  # type: ignore[arg-type]


def test_hybrid_blocks_take_each_block_with_its_own_queries() -> None:
    lexical = Lexical([p.name for p in PAIRS], [p.code for p in PAIRS], plus=True)
    queries = [pair.query for pair in PAIRS]
    dense = np.random.default_rng(0).random((4, 4), dtype=np.float32)
    whole = blend(dense, lexical.scores(queries), 0.7)
    parts = list(hybrid_blocks([dense[:1], dense[1:]], lexical, queries, 0.7))
    assert [len(part) for part in parts] == [1, 3]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-6)


def test_the_weight_with_the_best_mrr_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "blend", lambda dense, words, weight: dense + weight * words)
    rng = np.random.default_rng(0)
    truth = np.eye(50, dtype=np.float32)
    dense = truth + rng.normal(scale=0.6, size=truth.shape).astype(np.float32)
    words = truth + rng.normal(scale=0.6, size=truth.shape).astype(np.float32)
    weights = (0.0, 0.5, 1.0, 50.0)
    weight, mrr = choose_hybrid_weight(
        [dense[:20], dense[20:]], [words[:20], words[20:]], weights=weights
    )
    expected = {w: np.mean(1 / ranks_from_scores([dense + w * words])) for w in weights}
    assert mrr == pytest.approx(expected)
    assert weight == max(expected, key=lambda w: expected[w])
    assert weight in (0.5, 1.0)
    # Where words say nothing, every weight is as good and the first wins.
    assert choose_hybrid_weight([truth], [np.zeros_like(truth)])[0] == 0.0
    target = np.arange(50)[::-1].copy()
    assert choose_hybrid_weight([truth[::-1]], [words[::-1]], target, weights=(0.0,))[1] == {
        0.0: 1.0
    }


def test_blocks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \[2, 2\] and \[2, 3\]"):
        choose_hybrid_weight([np.zeros((2, 2))], [np.zeros((2, 3))])
    with pytest.raises(ValueError, match="weights must hold at least one weight"):
        choose_hybrid_weight([np.zeros((2, 2))], [np.zeros((2, 2))], weights=())


def test_a_row_holds_the_figures_of_both_means_and_of_all_ties() -> None:
    counts = RankCounts(np.array([0, 0, 1, 9]), np.array([0, 2, 0, 0]))
    row = result_row(Outcome("x", counts, 1.5), ["a", "a", "a", "b"])
    assert row["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 2 + 1 / 10) / 4)
    assert row["package_mrr"] == pytest.approx(((1 + 1 / 2 + 1 / 2) / 3 + 1 / 10) / 2)
    assert row["mrr_optimistic"] == pytest.approx((1 + 1 + 1 / 2 + 1 / 10) / 4)
    assert row["mrr_pessimistic"] == pytest.approx((1 + 1 / 3 + 1 / 2 + 1 / 10) / 4)
    assert (row["recall@1"], row["recall@5"], row["recall@10"]) == (0.25, 0.75, 1.0)
    assert row["mrr_low"] <= row["mrr"] <= row["mrr_high"]
    assert (row["name"], row["seconds"], row["interval_over"]) == ("x", 1.5, "packages")
    cut = result_row(Outcome("x", counts, 1.5), None, cutoff=5, ties="optimistic")
    assert cut["mrr"] == pytest.approx((1 + 1 + 1 / 2) / 4)
    assert cut["interval_over"] == "queries"
