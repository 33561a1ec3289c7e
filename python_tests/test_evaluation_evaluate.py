from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import save_tiny_encoder

from softnce_ext.data.pairs import Pair
from softnce_ext.encoders.saved import encode, load_encoder
from softnce_ext.encoders.text import code_text
from softnce_ext.evaluation import evaluate
from softnce_ext.evaluation.evaluate import (
    SYSTEMS,
    Outcome,
    Systems,
    choose_hybrid_weight,
    evaluate_model,
    evaluate_pairs,
    hybrid_blocks,
)
from softnce_ext.evaluation.figures import (
    difference_rows,
    graded_figures,
    graded_row,
    result_row,
)
from softnce_ext.evaluation.graded import judged_counts
from softnce_ext.evaluation.judgements import Judgements
from softnce_ext.evaluation.ranking import RankCounts, ranks_from_scores
from softnce_ext.evaluation.retrieval import CodeBase, RetrievalTask
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
    # The second query's gold code is first in a third of the orders of its three equals.
    recalls = [row["recall@1"], row["recall@5"], row["recall@10"]]
    assert recalls == pytest.approx([(1 + 1 / 3) / 4, 0.75, 1.0])
    assert row["recall@5_low"] <= row["recall@5"] <= row["recall@5_high"]
    assert row["mrr_low"] <= row["mrr"] <= row["mrr_high"]
    assert (row["name"], row["seconds"], row["interval_over"]) == ("x", 1.5, "packages")
    cut = result_row(Outcome("x", counts, 1.5), None, cutoff=5, ties="optimistic")
    assert cut["mrr"] == pytest.approx((1 + 1 + 1 / 2) / 4)
    assert cut["interval_over"] == "queries"
    deep = result_row(Outcome("x", counts, 1.5), recall=[2, 100])
    assert [key for key in deep if "@" in key and "_" not in key] == ["recall@2", "recall@100"]


def test_a_code_base_larger_than_the_gold_codes_is_ranked_whole(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path, " ".join(pair.query + " " + pair.code for pair in PAIRS))
    model, _ = load_encoder(str(tmp_path))
    others = [Pair("", f"def other{i}():\n    send(mail, {i})", f"other{i}") for i in range(5)]
    task = RetrievalTask.of_pairs(PAIRS[:2], [*others, *PAIRS])
    assert len(task.base) == 9
    alone = evaluate_model(model, PAIRS[:2], name_boost=1, hybrid_weight=0.5)
    among = evaluate_model(model, task, name_boost=1, hybrid_weight=0.5)
    base = task.base
    texts = [code_text(*each, 1) for each in zip(base.names, base.codes, strict=True)]
    query = encode(model, list(task.queries), "query")
    scores = query @ encode(model, texts, "code").T
    for i, row in enumerate(scores):
        assert among[0].counts.higher[i] == (row > row[i]).sum()
    for few, many in zip(alone, among, strict=True):
        assert many.counts.ranks().sum() >= few.counts.ranks().sum()
    assert among[1].counts.ranks().tolist() != alone[1].counts.ranks().tolist()


def test_the_hybrid_is_the_dense_scores_with_the_lexical_ones_added(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path, " ".join(pair.query + " " + pair.code for pair in PAIRS))
    model, _ = load_encoder(str(tmp_path))
    queries = [pair.query for pair in PAIRS]
    base = CodeBase([pair.code for pair in PAIRS], [pair.name for pair in PAIRS])
    seen: dict[str, np.ndarray] = {}
    for name in SYSTEMS:
        blocks: list[np.ndarray] = []

        def count(parts: Iterable[Any], kept: list[np.ndarray] = blocks) -> RankCounts:
            kept.extend(np.asarray(part).copy() for part in parts)
            return RankCounts(np.zeros(4, int), np.zeros(4, int))

        systems = Systems(model, base, name_boost=2, hybrid_weight=0.7)
        assert [outcome.name for outcome in systems.rank(queries, count, [name])] == [name]
        seen[name] = np.concatenate(blocks)
    np.testing.assert_allclose(seen["hybrid"], blend(seen["dense"], seen["lexical+"], 0.7))
    for name, plus in (("lexical", False), ("lexical+", True)):
        expected = Lexical(base.names, base.codes, plus=plus).scores(queries)
        np.testing.assert_array_equal(seen[name], expected)


def test_the_encoder_alone_gives_the_figure_a_checkpoint_is_chosen_by(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path, " ".join(pair.query + " " + pair.code for pair in PAIRS))
    model, _ = load_encoder(str(tmp_path))
    found = evaluate_pairs(model, PAIRS, name_boost=3)
    dense = evaluate_model(model, PAIRS, name_boost=3, hybrid_weight=0.5)[0]
    assert found.counts.ranks().tolist() == dense.counts.ranks().tolist()
    assert found.mrr(cutoff=1) == pytest.approx(found.figures(recall=[1])["recall@1"].mean())


def test_gold_codes_by_index_may_be_shared(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path, " ".join(pair.query + " " + pair.code for pair in PAIRS))
    model, _ = load_encoder(str(tmp_path))
    base = CodeBase([pair.code for pair in PAIRS], [pair.name for pair in PAIRS])
    task = RetrievalTask(["send mail", "post mail", "open file"], np.array([1, 1, 0]), base)
    for outcome in evaluate_model(model, task, name_boost=3, hybrid_weight=0.5):
        assert outcome.counts.ranks().tolist() == [1.0, 1.0, 1.0]


def test_graded_figures_come_from_every_system(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path, " ".join(pair.query + " " + pair.code for pair in PAIRS))
    model, _ = load_encoder(str(tmp_path))
    base = CodeBase([pair.code for pair in PAIRS], [pair.name for pair in PAIRS])
    judgements = Judgements(
        ["open file", "send mail", "nobody answers"],
        np.array([0, 0, 1, 1, 2]),
        np.array([0, 1, 1, 2, 3]),
        np.array([3.0, 0.0, 2.0, 1.0, 0.0]),
    )
    systems = Systems(model, base, name_boost=1, hybrid_weight=0.5)
    outcomes = systems.rank(judgements.queries, lambda blocks: judged_counts(blocks, judgements))
    assert [outcome.name for outcome in outcomes] == ["dense", "lexical", "lexical+", "hybrid"]
    rows = []
    for outcome in outcomes:
        figures = graded_figures(outcome, judgements, recall=[1], ndcg=[1, 4])
        assert figures["ndcg@1"][:2].tolist() == [1.0, 1.0]
        rows.append(graded_row(outcome, figures))
        assert rows[-1]["ndcg@1"] == rows[-1]["pairwise"] == rows[-1]["mrr"] == 1.0
        assert (rows[-1]["ndcg@4_queries"], rows[-1]["pairwise_queries"]) == (2, 2)
    assert {"ndcg@1", "ndcg_within@4", "recall@1", "mrr_low", "recall@1_high"} <= set(rows[0])
    nothing = graded_row(outcomes[0], {"mrr": np.array([np.nan])})
    assert nothing == {"name": "dense", "seconds": outcomes[0].seconds, "mrr_queries": 0}


def test_paired_differences_are_of_the_queries_both_have() -> None:
    one = {"mrr": np.array([1.0, 0.5, np.nan, 1.0]), "none": np.full(4, np.nan)}
    two = {"mrr": np.array([0.5, 0.5, 1.0, np.nan]), "none": np.full(4, np.nan)}
    found = difference_rows(one, two, ["a", "b", "c", "d"])
    assert list(found) == ["mrr"]
    assert found["mrr"]["difference"] == 0.25
    assert found["mrr"]["words"].startswith("too few packages (2) to tell: 0.0000 to")
    with pytest.raises(ValueError, match=r"same figures, got \['mrr', 'none'\] and \['mrr'\]"):
        difference_rows(one, {"mrr": one["mrr"]})
    with pytest.raises(ValueError, match=r"same queries, got \[4\] and \[3\]"):
        difference_rows({"mrr": one["mrr"]}, {"mrr": np.zeros(3)})
