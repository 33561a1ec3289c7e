from __future__ import annotations

import numpy as np
import pytest
import torch

import softnce_ext as sx
from softnce_ext.evaluation import ranking

TIES = ("optimistic", "mean", "pessimistic")


def rank_by_sorting(scores: np.ndarray, gold: int, ties: str) -> float:
    """The positions of the gold score in a sorted row: first, last, or the middle of them."""
    positions = 1 + np.flatnonzero(np.sort(scores)[::-1] == scores[gold])
    pick = {"optimistic": positions[0], "mean": positions.mean(), "pessimistic": positions[-1]}
    return float(pick[ties])


@pytest.mark.parametrize("cached", [1, 5000, 1 << 20])
@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize(("n", "m", "levels"), [(1, 1, 3), (7, 33, 4), (40, 257, 200), (33, 33, 1)])
def test_ranks_equal_positions_in_the_sorted_row(
    monkeypatch: pytest.MonkeyPatch, n: int, m: int, levels: int, ties: str, cached: int
) -> None:
    monkeypatch.setattr(ranking, "_CACHED_BYTES", cached)
    rng = np.random.default_rng(n * m)
    scores = rng.integers(levels, size=(n, m)).astype(np.float32)
    target = rng.integers(m, size=n)
    expected = [rank_by_sorting(row, gold, ties) for row, gold in zip(scores, target, strict=True)]
    blocks = [scores[:3], scores[3:3], scores[3:]]
    assert ranking.ranks_from_scores(blocks, target, ties=ties).tolist() == expected
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        # Whole numbers up to 200, which every type has.
        tensors = [torch.from_numpy(block).to(dtype) for block in blocks]
        assert ranking.ranks_from_scores(tensors, target, ties=ties).tolist() == expected


@pytest.mark.parametrize("cutoff", [None, 1, 10])
@pytest.mark.parametrize("kind", ["array", "tensor", "half", "double"])
def test_mean_reciprocal_rank_matches_argsort_across_blocks(
    monkeypatch: pytest.MonkeyPatch, kind: str, cutoff: int | None
) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 5000)
    rng = np.random.default_rng(1)
    # Small integers: every score is exact in any floating type, so that argsort is an oracle.
    query, code = rng.integers(-8, 9, (61, 24)), rng.integers(-8, 9, (101, 24))
    target = rng.permutation(101)[:61]
    scores = query @ code.T
    reciprocals = []
    for row, gold in zip(scores, target, strict=True):
        rank = rank_by_sorting(row, gold, "mean")
        reciprocals.append(0.0 if cutoff and rank > cutoff else 1 / rank)
    convert = {
        "array": lambda x: x.astype(np.float32),
        "tensor": lambda x: torch.tensor(x, dtype=torch.float32, requires_grad=True),
        "half": lambda x: torch.tensor(x, dtype=torch.bfloat16),
        "double": lambda x: x.astype(np.float64),
    }[kind]
    found = sx.mean_reciprocal_rank(convert(query), convert(code), target, cutoff=cutoff)
    assert found == pytest.approx(np.mean(reciprocals), abs=1e-12)


def test_without_target_the_gold_code_is_the_row_of_the_same_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 2 * 5 * 4)
    code = np.eye(5, dtype=np.float32)
    assert sx.mean_reciprocal_rank(code[:3], code) == 1.0
    assert sx.mean_reciprocal_rank(code[:3], code[[1, 0, 2, 3, 4]], ties="pessimistic") == (
        pytest.approx((1 / 5 + 1 / 5 + 1) / 3)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 3, 17])
def test_duplicates_of_the_gold_code_tie_whatever_the_gemm_rounds(
    dtype: torch.dtype, n: int
) -> None:
    # 1023 equal columns: MKL's edge tiles sum some of them in another order.
    generator = torch.Generator().manual_seed(0)
    code = torch.randn(1, 300, dtype=dtype, generator=generator).expand(1023, 300).contiguous()
    query = torch.randn(n, 300, dtype=dtype, generator=generator)
    counts = ranking.counts_from_scores(ranking.score_blocks(query, code))
    assert counts.higher.tolist() == [0] * n
    assert counts.equal.tolist() == [1022] * n
    assert sx.mean_reciprocal_rank(query, code, ties="mean") == pytest.approx(1 / 512)


def test_zero_and_minus_zero_are_the_same_code() -> None:
    code = torch.tensor([[0.0, 1.0], [-0.0, 1.0]])
    assert ranking._duplicates(code)[0].tolist() == [1]


def recall_by_orders(higher: int, equal: int, k: int) -> list[bool]:
    """Whether the gold code is among the first k, for each of its places among equal scores."""
    return [higher + place <= k for place in range(1, equal + 2)]


def test_recall_is_the_share_of_the_orders_of_equal_scores() -> None:
    higher, equal = (each.ravel() for each in np.meshgrid(range(6), range(5)))
    counts = ranking.RankCounts(higher, equal)
    pick = {"optimistic": any, "mean": np.mean, "pessimistic": all}
    for k in (1, 3, 10):
        for ties in TIES:
            expected = [
                float(pick[ties](recall_by_orders(*each, k)))
                for each in zip(higher, equal, strict=True)
            ]
            np.testing.assert_allclose(ranking.recall_at(counts, k, ties=ties), expected)
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        ranking.recall_at(counts, 0)


def test_ranks_beyond_the_cutoff_count_nothing() -> None:
    ranks = np.array([1.0, 1.5, 10.0, 2000.0])
    assert ranking.reciprocal_ranks(ranks).tolist() == [1, 1 / 1.5, 1 / 10, 1 / 2000]
    assert ranking.reciprocal_ranks(ranks, 10).tolist() == [1, 1 / 1.5, 1 / 10, 0]


def published_reciprocals(query: np.ndarray, code: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The papers' evaluation: sort everything, look for the gold code among the first 1000."""
    order = np.argsort(query @ code.T, axis=-1)[:, ::-1][:, :1000].tolist()
    return np.array(
        [1 / (1 + row.index(g)) if g in row else 0.0 for row, g in zip(order, target, strict=True)]
    )


def test_the_papers_metric_is_that_of_a_full_sort() -> None:
    rng = np.random.default_rng(5)
    code = rng.standard_normal((3000, 16))
    query, target = rng.standard_normal((40, 16)), rng.integers(3000, size=40)
    query[:20] += code[target[:20]]
    expected = published_reciprocals(query, code, target)
    assert (expected == 0).any() and (expected > 0.1).any()
    found = sx.mean_reciprocal_rank(query, code, target, cutoff=ranking.PAPER_CUTOFF)
    assert found == pytest.approx(expected.mean(), abs=1e-12)


def test_memory_is_that_of_a_block_of_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 1 << 20)
    rng = np.random.default_rng(6)
    query = torch.from_numpy(rng.standard_normal((2000, 8), dtype=np.float32))
    code = torch.from_numpy(rng.standard_normal((4000, 8), dtype=np.float32))
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        ranking.mean_reciprocal_rank(query, code, np.arange(2000))
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert (1 << 19) < peak < (4 << 20)  # all scores are 32 MB


def test_a_nan_score_is_refused_by_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 2 * 6 * 4)
    query, code = np.ones((6, 4), np.float32), np.ones((6, 4), np.float32)
    query[4, 1] = np.nan
    with pytest.raises(ValueError, match="query must not hold NaN, got NaN in row 4"):
        sx.mean_reciprocal_rank(query, code)
    with pytest.raises(ValueError, match="code must not hold NaN, got NaN in row 4"):
        sx.mean_reciprocal_rank(code, query)
    with pytest.raises(ValueError, match="scores must not be NaN, got NaN for query row 4"):
        ranking.ranks_from_scores([code[:3], query[3:]], np.zeros(6, int))
    infinite = np.array([[0.0, np.inf, -np.inf]], np.float32)
    assert ranking.ranks_from_scores([infinite]).tolist() == [2.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": np.ones((2, 3), np.float32)}, "same width, got 3 and 4"),
        ({"query": np.ones((0, 4), np.float32)}, r"query must have shape .* got \[0, 4\]"),
        ({"code": np.ones(4, np.float32)}, r"code must have shape .* got \[4\]"),
        ({"query": np.ones((6, 4), np.float32)}, "got 5 codes for at least 6 queries"),
        ({"target": [0, 1]}, r"target must have shape \[3\]|one index per query"),
        ({"target": [0, 1, 2, 3]}, r"target must have shape \[3\], got \[4\]"),
        ({"target": [0, 9, 1]}, r"target must be in \[0, 5\), got 9 for query 1"),
        ({"target": [0, -1, 1]}, "got -1 for query 1"),
        ({"target": [[0], [1], [2]]}, r"target must have shape \[N\], got \[3, 1\]"),
        ({"cutoff": 0}, "cutoff must be >= 1, got 0"),
        ({"ties": "best"}, "ties must be one of optimistic, mean, pessimistic, got 'best'"),
    ],
)
def test_bad_input_names_argument_rule_and_value(arguments: dict, message: str) -> None:
    good = {"query": np.ones((3, 4), np.float32), "code": np.ones((5, 4), np.float32)}
    with pytest.raises(ValueError, match=message):
        sx.mean_reciprocal_rank(**{**good, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": [[1.0]]}, "query must be a tensor or an array, got list"),
        ({"code": np.ones((5, 4), np.int64)}, "code must be of floating point, got int64"),
        ({"code": torch.ones(5, 4, dtype=torch.int32)}, "code must be of floating point"),
        ({"target": np.zeros(3)}, "target must hold integers"),
    ],
)
def test_wrong_types_are_refused(arguments: dict, message: str) -> None:
    good = {"query": np.ones((3, 4), np.float32), "code": np.ones((5, 4), np.float32)}
    with pytest.raises(TypeError, match=message):
        sx.mean_reciprocal_rank(**{**good, **arguments})
