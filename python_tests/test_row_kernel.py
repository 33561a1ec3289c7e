"""The CPU row kernel in every instruction set this processor runs, against the oracle."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import bridge
import numpy as np
import pytest
import torch

from softnce_ext import BM25Factors, reference

# An objective (csrc/row_math.h), its reference and options, and the rule as the kernel takes it:
# objective, alpha, beta, temperature, min_weight, cutoff.
OBJECTIVES = {
    "soft": (
        reference.soft_info_nce,
        {"alpha": 1.5, "beta": 0.5, "temperature": 0.7, "min_weight": 0.1},
        [0, 1.5, 0.5, 0.7, 0.1, 0],
    ),
    "top_k": (reference.top_k_cancellation, {"k": 2}, [1, 0, 0, 1, 0, 2]),
    "threshold": (reference.threshold_cancellation, {"ratio": 0.6}, [2, 0, 0, 1, 0, 0.6]),
    "bce": (reference.bce, {"temperature": 0.7}, [3, 0, 0, 0.7, 0, 0]),
    "weighted": (reference.weighted_info_nce, {"temperature": 0.7}, [4, 0, 0, 0.7, 0, 0]),
    "kl": (reference.kl_regularized_info_nce, {"temperature": 0.7}, [5, 0.7, 1.3, 0.7, 0, 0]),
}
SOFT = OBJECTIVES["soft"][2]
# Around vector widths, and beyond one chunk of the sums.
WIDTHS = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 127, 1000, 4095, 4097, 9001]


@pytest.fixture(params=["chosen", "baseline", "avx2", "avx512"])
def isa(request):
    if request.param not in ("chosen", *bridge.load().instruction_sets()):
        pytest.skip(f"this processor does not run {request.param}")
    return request.param


def as_factors(similarity, known):
    """One query with one term, which every document holds with its similarity as weight."""
    z = torch.tensor(similarity, dtype=torch.float32)
    columns = torch.arange(len(z))
    return BM25Factors(
        torch.tensor([0, 1]),
        torch.zeros(1, dtype=torch.int32),
        torch.ones(1),
        torch.tensor([0, len(z)]),
        columns.int(),
        z,
        torch.tensor(known).long(),
    )


def oracle(objective, scores, similarity, groups, known, group, positive, eps):
    """Run the row through the reference: its scores are the product of 1 and the scores."""
    query = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    code = torch.tensor(scores, dtype=torch.float64)[:, None].requires_grad_()
    z = None if similarity is None else torch.tensor(similarity, dtype=torch.float64)[None]
    if known is not None:
        z = as_factors(similarity, known)
    pair = None if groups is None else (torch.tensor([group]), torch.tensor(groups))
    function, options, _ = OBJECTIVES[objective]
    if eps:
        options = {**options, "eps": eps}
    loss = function(query, code, z, **options, positive_offset=positive, groups=pair)
    return loss.item(), torch.autograd.grad(loss, code)[0][:, 0].numpy()


CASES = [
    *(("soft", parts, eps) for parts in ("", "g") for eps in (0.0, 1e-4)),
    *(("soft", parts, eps) for parts in ("z", "zg", "zgk") for eps in (0.0, 1e-4)),
    *(("weighted", parts, eps) for parts in ("z", "zg", "zk", "zgk") for eps in (0.0, 1e-4)),
    *((name, parts, 0.0) for name in ("top_k", "threshold", "bce", "kl") for parts in ("z", "zgk")),
]


@pytest.mark.parametrize(("objective", "parts", "eps"), CASES)
def test_row_equals_the_oracle_at_every_width(isa, objective, parts, eps):
    """`parts`: z a similarity, g groups, k known columns."""
    random = np.random.default_rng(0)
    rule = OBJECTIVES[objective][2]
    for width in WIDTHS:
        # The similarity in fp32, so that what is dropped is the same in both types.
        scores = random.normal(0, 4, width)
        similarity = random.normal(0, 2, width).astype(np.float32) if "z" in parts else None
        positive = int(random.integers(width))
        groups = random.integers(0, 4, width) if "g" in parts else None
        group = int(groups[positive]) if groups is not None else 0
        known = (random.random(width) < 0.8).astype(np.uint8) if "k" in parts else None
        loss, grad = oracle(objective, scores, similarity, groups, known, group, positive, eps)
        for name, dtype, tolerance in (
            ("row_f64", np.float64, 1e-12),
            ("row_f32", np.float32, 3e-6),
        ):
            kernel = getattr(bridge.load(), name)
            z = None if similarity is None else similarity.astype(dtype)
            got, got_grad = kernel(
                isa, scores.astype(dtype), z, groups, known, group, positive, rule, eps, 2.0
            )
            assert got == pytest.approx(loss, rel=tolerance, abs=tolerance)
            # The oracle's p - 1 cancels, to 1e-16.
            allowed = 5 * tolerance * np.abs(grad).max() + 1e-15
            assert np.abs(got_grad / 2 - grad).max() < allowed


@pytest.mark.parametrize("k", [0, 1, 7, 19, 22, 26, 39, 40])
def test_top_k_of_tied_and_signed_similarities(isa, k):
    # Four distinct values, both zeros among them: the lower column of equals is dropped first.
    random = np.random.default_rng(k)
    similarity = random.choice([-3.0, -0.0, 0.0, 1e-40, 3.0], 40)
    scores = random.normal(0, 1, 40)
    wanted = reference.top_k_cancellation(
        torch.ones(1, 1).double(),
        torch.tensor(scores)[:, None],
        torch.tensor(similarity.astype(np.float32))[None],
        k=k,
        positive_offset=2,
    )
    for name in ("row_f32", "row_f64"):
        z = similarity.astype(np.float32)
        loss, grad = getattr(bridge.load(), name)(
            isa, scores, z, None, None, 0, 2, [1, 0, 0, 1, 0, k], 0.0, 1.0
        )
        assert loss == pytest.approx(wanted.item(), rel=1e-6)
        assert np.count_nonzero(grad) == (40 - k if k < 39 else 0)


@pytest.mark.parametrize("lowest", [-0.5, -1e-3, -1e-6, -1e-10])
def test_logarithm_of_one_minus_p_keeps_its_relative_accuracy(isa, lowest):
    # No column has a similarity: BCE is the sum of -log(1 - P_j) over the negatives, and -log P.
    width = 9
    scores = np.full(width, np.log(-lowest / (1 + lowest)) if lowest > -0.5 else 0.0)
    scores[0] = 0.0
    scores[3:] = -60.0
    known = np.zeros(width, np.uint8)
    for name, tolerance in (("row_f32", 1e-6), ("row_f64", 1e-12)):
        loss, _ = getattr(bridge.load(), name)(
            isa, scores, np.zeros(width), None, known, 0, 0, OBJECTIVES["bce"][2], 0.0, 1.0
        )
        p = np.exp(scores - np.log1p(np.exp(scores[1:]).sum()))
        wanted = (np.log1p(np.exp(scores[1:]).sum()) - np.log1p(-p[1:]).sum()) / width
        assert loss == pytest.approx(wanted, rel=tolerance)


def test_exponential_is_accurate_and_flushes_to_zero(isa):
    # Two columns: the loss is log1p(exp(x)) for a negative at x below the positive.
    for x in [0.0, -1e-7, -0.5, -1.0, -10.0, -50.0, -87.0]:
        loss, _ = bridge.load().row_f32(
            isa, np.array([0.0, x]), None, None, None, 0, 0, SOFT, 0.0, 1.0
        )
        assert loss == pytest.approx(np.log1p(np.exp(np.float32(x))), rel=4e-7)
    for x in (-88.0, -1e4, -3e38, -np.inf):
        loss, grad = bridge.load().row_f32(
            isa, np.array([0.0, x]), None, None, None, 0, 0, SOFT, 0.0, 1.0
        )
        assert loss == 0
        assert not grad.any()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("width", [5, 40])
def test_nan_and_infinity_never_become_a_finite_number(isa, objective, width):
    rule = OBJECTIVES[objective][2]
    for name in ("row_f32", "row_f64"):
        kernel = getattr(bridge.load(), name)
        for column in (0, 1, width - 1):
            # Top-k drops columns 2 and 3, the threshold nothing.
            similarity = np.full(width, 0.5)
            similarity[:4] = 0.5, 1.0, 0.55, 0.55
            for value in (np.nan, np.inf):
                scores = np.zeros(width)
                scores[column] = value
                loss, grad = kernel(isa, scores, similarity, None, None, 0, 1, rule, 0.0, 1.0)
                assert np.isnan(loss) and np.isnan(grad).any()
            for value in (np.nan, np.inf, -np.inf):
                broken = similarity.copy()
                broken[column] = value
                loss, grad = kernel(isa, np.zeros(width), broken, None, None, 0, 1, rule, 0.0, 1.0)
                used = column != 1 or objective == "threshold"  # the positive's own
                assert np.isnan(loss) == used
                assert np.isnan(grad).any() == used
                known = np.ones(width, np.uint8)
                known[column] = 0  # what no column has cannot break it
                loss, _ = kernel(isa, np.zeros(width), broken, None, known, 0, 1, rule, 0.0, 1.0)
                assert np.isfinite(loss)


def test_no_reduction_is_read_beyond_its_place():
    """On any x86 processor, by what was compiled: the code itself needs AVX-512.

    Where the variable of an `omp simd` reduction changes under a branch, gcc 11 and 12 read it by
    masked loads from an address that moves with the columns, up the stack until that ends. A
    register that was given an address of the stack must not be such an address.
    """
    objects = Path(bridge.load().__file__).parent / "CMakeFiles" / "row_kernel_avx512.dir"
    if not objects.is_dir():
        pytest.skip("no x86 processor")
    (kernel,) = objects.rglob("row_kernel.cpp.o")
    listing = ["objdump", "--disassemble", "--no-show-raw-insn", str(kernel)]
    code = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    assert "zmm" in code
    on_stack: set[str] = set()
    for line in code.splitlines():
        if line.endswith(">:"):
            on_stack.clear()
        elif given := re.search(r"lea +-?0x[0-9a-f]+\(%r[sb]p\),%(r\w+)", line):
            on_stack.add(given[1])
        elif given := re.search(r"(?:mov|lea) .*,%(r\w+)$", line):
            on_stack.discard(given[1])
        elif load := re.search(r"\(%(r\w+)\),%[xyz]mm\d+\{%k[1-7]\}", line):
            assert load[1] not in on_stack, line
