"""The CUDA row kernel, run on the host thread for thread, against the oracle: no GPU needed."""

from __future__ import annotations

import itertools
import subprocess

import problems
import pytest
import torch
from bridge import ORDERS, run_kernel, tsan_driver
from cuda_rows import (
    ANY,
    BLOCK,
    COMMON,
    FAST,
    GLOBAL,
    PLACES,
    PLANNED,
    TOLERANCE,
    WARP,
    Problem,
    check,
    rule_of,
)
from problems import FAMILY

# Below, at and above a vector, a warp's vectors, a block's.
WIDTHS = [1, 2, 3, 7, 8, 9, 33, 130, 257, 1030]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small tensors: torch's threads would mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The kernels of the common losses know neither BM25 nor double.
CASES = [(place, kind, torch.float32) for place in FAST for kind in ("none", "dense")]
CASES += itertools.product(ANY, ("none", "dense", "factors"), TOLERANCE)


@pytest.mark.parametrize("place, kind, dtype", CASES)
@pytest.mark.parametrize("masked", [False, True])
def test_soft_info_nce_equals_the_oracle_at_every_width(place, kind, dtype, masked):
    widths = WIDTHS if kind != "factors" and dtype == torch.float32 else [1, 2, 9, 130]
    for columns in widths:
        problem = Problem(min(columns, 5), columns, kind, masked=masked, dtype=dtype)
        got = problem.run("soft_info_nce", place, **rule_of(kind))
        check(problem, got, problem.wanted("soft_info_nce", **rule_of(kind)), TOLERANCE[dtype])


@pytest.mark.parametrize("gpu", PLANNED)
@pytest.mark.parametrize("columns", [40, 1030, 2500, 17_000, 70_000])
def test_planned_rows_equal_the_oracle(gpu, columns):
    for kind, masked in (("none", False), ("dense", True)):
        problem = Problem(2, columns, kind, masked=masked)
        got = problem.run("soft_info_nce", gpu, **rule_of(kind))
        check(problem, got, problem.wanted("soft_info_nce", **rule_of(kind)), 1e-5)
    if columns <= 17_000:
        problem = Problem(2, columns)
        got = problem.run("bce", gpu, temperature=0.7)
        check(problem, got, problem.wanted("bce", temperature=0.7), 1e-5)


@pytest.mark.parametrize("place", ANY)
@pytest.mark.parametrize("name", [name for name in FAMILY if name != "soft"])
@pytest.mark.parametrize("kind", ["dense", "factors"])
@pytest.mark.parametrize("masked", [False, True])
def test_other_losses_equal_the_oracle(place, name, kind, masked):
    function, options = FAMILY[name]
    for dtype, widths in ((torch.float32, [1, 2, 9, 130, 260]), (torch.float64, [1, 3, 70])):
        for columns in widths:
            problem = Problem(min(columns, 3), columns, kind, masked=masked, dtype=dtype)
            got = problem.run(function, place, **options)
            check(problem, got, problem.wanted(function, **options), 5 * TOLERANCE[dtype])


@pytest.mark.parametrize("place", ANY)
@pytest.mark.parametrize("k", [0, 1, 4, 100, 1000])
def test_top_k_drops_the_lower_columns_of_equal_similarities(place, k):
    for values in (1, 3, 50):  # different similarities
        problem = Problem(3, 140)
        problem.similarity = torch.randint(0, values, (3, 140)).float()
        got = problem.run("top_k_cancellation", place, k=k)
        check(problem, got, problem.wanted("top_k_cancellation", k=k), 2e-5)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("eps", [1e-15, 1e-3])
def test_eps(place, eps):
    dtype = torch.float32 if place in FAST else torch.float64
    problem = Problem(5, 40, dtype=dtype)
    got = problem.run("soft_info_nce", place, eps=eps, **problems.RULE)
    wanted = problem.wanted("soft_info_nce", eps=eps, **problems.RULE)
    check(problem, got, wanted, 10 * TOLERANCE[dtype])


# Whatever two warps do to one address without a barrier between happens in both orders.
@pytest.mark.parametrize(
    "place, name", [*((place, "soft") for place in FAST), *itertools.product(ANY, FAMILY)]
)
def test_results_are_bitwise_equal_in_every_order(place, name):
    function, options = FAMILY[name]
    for kind in ("dense",) if place in FAST else ("dense", "factors"):
        problem = Problem(3, 300, kind, masked=True)
        half = {"gradient": torch.float16, **options}
        first = problem.run(function, place, **half)
        for order in ORDERS[1:]:
            again = problem.run(function, place, order=order, **half)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("place", ANY)
@pytest.mark.parametrize(
    "weights, gain", [((1.3, 0.7), 2**14), ((4.0, 1.0), 2**12), ((3e5, 0), 1 / 16)]
)
def test_fp16_holds_the_gradients_of_kl_whatever_its_weights(place, weights, gain):
    problem = Problem(5, 40)
    options = dict(zip(("info_nce_weight", "kl_weight"), weights, strict=True), temperature=0.7)
    wanted = problem.wanted("kl_regularized_info_nce", **options)
    half = {"gradient": torch.float16, "gain": 0}
    loss, gradient = problem.run("kl_regularized_info_nce", place, **half, **options)
    check(problem, (loss, gradient.double() / gain), wanted, 1e-3)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["none", "dense"])
@pytest.mark.parametrize("order", ORDERS[:2])
def test_gradients_written_in_half_are_the_floats_rounded(place, kind, order):
    problem = Problem(5, 1030, kind)
    problem.row_weights = torch.linspace(0.1, 3, 5)
    options = {"order": order, "gain": 2.0**10, **rule_of(kind)}
    loss, gradient = problem.run("soft_info_nce", place, **options)
    wanted_loss, wanted = problem.wanted("soft_info_nce", **rule_of(kind))
    check(problem, (loss, gradient / 2**10), (wanted_loss, wanted), 4e-6)
    for half in (torch.float16, torch.bfloat16):
        loss_again, rounded = problem.run("soft_info_nce", place, gradient=half, **options)
        assert torch.equal(loss_again, loss)
        assert torch.equal(rounded, gradient.to(half))
    _, rounded = problem.run("soft_info_nce", place, tf32=True, **options)
    assert (rounded.view(torch.int32) & 0x1FFF == 0).all()
    assert torch.allclose(rounded, gradient, rtol=2**-11, atol=0)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("stride", [0, 301])
def test_similarities_may_be_halves_and_lie_anywhere(place, storage, stride):
    problem = Problem(5, 300, storage=storage)
    got = problem.run("soft_info_nce", place, stride=stride, **problems.RULE)
    check(problem, got, problem.wanted("soft_info_nce", **problems.RULE), 4e-6)


@pytest.mark.parametrize("place", PLACES)
def test_loss_alone_is_the_same_loss(place):
    for kind in ("none", "dense"):
        problem = Problem(5, 70, kind, masked=kind == "dense")
        loss, _ = problem.run("soft_info_nce", place, **rule_of(kind))
        alone, _ = problem.run("soft_info_nce", place, need_gradient=False, **rule_of(kind))
        assert torch.equal(loss, alone)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_bad_similarity_of_a_negative_makes_its_row_nan(place, bad):
    problem = Problem(5, 40, masked=True)
    expected = problem.run("soft_info_nce", place, **problems.RULE)
    problem.similarity[range(5), range(problem.offset, problem.offset + 5)] = bad  # the positives
    again = problem.run("soft_info_nce", place, **problems.RULE)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    problem.similarity[2, 3] = bad
    loss, gradient = problem.run("soft_info_nce", place, **problems.RULE)
    assert loss.isnan().tolist() == gradient.isnan().any(1).tolist() == [i == 2 for i in range(5)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["none", "dense"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_score_makes_its_row_nan(place, kind, bad):
    problem = Problem(5, 40, kind)
    problem.scores[1, problem.offset + 1] = bad  # the positive's
    problem.scores[3, 0] = bad
    loss, gradient = problem.run("soft_info_nce", place, **rule_of(kind))
    wanted = [i in (1, 3) for i in range(5)]
    assert loss.isnan().tolist() == gradient.isnan().any(1).tolist() == wanted


CASES = [
    *itertools.product(PLACES, ["soft"], ["none", "dense"]),
    *itertools.product(ANY, FAMILY, ["dense", "factors"]),
]


@pytest.mark.parametrize("place, name, kind", CASES)
@pytest.mark.parametrize("all_masked", [False, True])
def test_a_nan_score_counts_in_a_masked_column_too(place, name, kind, all_masked):
    function, options = FAMILY[name] if kind != "none" else ("soft_info_nce", rule_of("none"))
    problem = Problem(5, 43, kind, masked=True)
    problem.scores[2, 41] = float("nan")
    query_groups, code_groups = problem.groups
    query_groups[2] = code_groups[41]
    if all_masked:
        code_groups.fill_(query_groups[2])
    loss, gradient = problem.run(function, place, **options)
    assert loss.isnan().tolist() == gradient.isnan().any(1).tolist() == [i == 2 for i in range(5)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["none", "dense"])
def test_a_nan_score_counts_beside_a_weight_of_zero(place, kind):
    problem = Problem(5, 43, kind)
    problem.scores[2, 41] = float("nan")
    options = rule_of(kind)
    if kind == "dense":  # column 41 has all of the softmax
        problem.similarity[2] = 0
        problem.similarity[2, 41] = 1000
        options = options | {"min_weight": 0.0}
    loss, gradient = problem.run("soft_info_nce", place, **options)
    assert loss.isnan().tolist() == gradient.isnan().any(1).tolist() == [i == 2 for i in range(5)]


@pytest.mark.parametrize("place", ANY)
@pytest.mark.parametrize("name", ["soft", "top_k", "threshold", "bce"])
def test_no_index_of_the_factors_is_trusted(place, name):
    function, options = FAMILY[name]
    problem = Problem(4, 60, "factors")
    factors = problem.similarity
    expected = problem.run(function, place, **options)
    broken = factors._replace(  # the last postings, and the last terms of a query, lead nowhere
        document=torch.cat([factors.document, torch.tensor([-1, 60, 1 << 30], dtype=torch.int32)]),
        weight=torch.cat([factors.weight, torch.ones(3)]),
        indptr=torch.cat([factors.indptr, factors.indptr[-1:] + 3]),
        query_term=torch.cat([factors.query_term, torch.tensor([-1, 1 << 30]).int()]),
        query_count=torch.cat([factors.query_count, torch.ones(2)]),
    )
    broken.query_indptr[-1] += 2
    problem.similarity = broken
    again = problem.run(function, place, **options)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    wild = torch.tensor([-(1 << 62), 1 << 62, 0, 5, -3, 1 << 40])
    problem.similarity = broken._replace(indptr=wild, query_indptr=wild[:5].clone())
    problem.run(function, place, **options)  # nothing is touched that is not there


@pytest.mark.parametrize("order", ORDERS[:2])
def test_total_is_the_sum_in_double(order):
    loss = torch.rand(3000)
    for dtype, name in ((torch.float32, "total_f32"), (torch.float64, "total_f64")):
        losses, total = loss.to(dtype), torch.zeros(1, dtype=dtype)
        arrays = {"loss": losses.numpy(), "total": total.numpy()}
        run_kernel(name, arrays, order=order, weight=0.25)
        assert torch.equal(total[0], (losses.double().sum() * 0.25).to(dtype))


NUMBERS = (
    "columns=300 gradient=2 similarity_type=0 similarity_stride=300 first_positive=7 alpha=1.5 "
    "beta=0.5 temperature=0.7 min_weight=0.1 cutoff=3 eps=0 gain=1 need_gradient=1 round_to_tf32=0"
)
# 2 rows of 300 columns, padded to 304; each of 8 terms has 12 postings.
ARRAYS = {
    "none": "scores:f4:608 loss:f4:2",
    "dense": "scores:f4:608 loss:f4:2 similarity:f4:600 query_groups:i8:2:1 code_groups:i8:300:1",
    "factors": "scores:f4:608 loss:f4:2 query_indptr:i8:3:4 query_term:i4:8:1 query_count:f4:8 "
    "indptr:i8:9:12 document:i4:96:1 weight:f4:96 document_length:i8:100:1",
}
# Blocks as small as the question allows: each of their threads is one of the system's.
RACE_PLACES = {
    "warp": {"place": WARP},
    "block": {"place": BLOCK, "fast": True, "threads": 64, "blocks": 1},
    "pair": {"place": BLOCK, "fast": True, "threads": 32, "blocks": 2},
    "any_cluster": {"place": BLOCK, "fast": False, "threads": 32, "blocks": 2},
    "any_global": {"place": GLOBAL, "threads": 64},
}


@pytest.mark.parametrize(
    "place, kind, objective",
    [
        *itertools.product(("warp", "block", "pair", "any_global"), ("none", "dense"), (0,)),
        *itertools.product(("any_cluster", "any_global"), ("factors",), range(6)),
    ],
)
def test_thread_sanitizer_finds_no_race(place, kind, objective):
    given = [f"{name}={int(value)}" for name, value in (COMMON | RACE_PLACES[place]).items()]
    given += [f"objective={objective}", *NUMBERS.split(), *ARRAYS[kind].split()]
    if place == "any_global" and kind != "none":
        given.append("scratch:f4:608")
    done = subprocess.run([*tsan_driver(), "rows_f32", *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "done" in done.stdout
