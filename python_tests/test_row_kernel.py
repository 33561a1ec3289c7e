"""The CPU row kernel in every instruction set this processor runs, against the oracle."""

from __future__ import annotations

import bridge
import numpy as np
import pytest
import torch

from softnce_ext import reference

RULE = {"alpha": 1.5, "beta": 0.5, "temperature": 0.7, "min_weight": 0.1}
# Around vector widths, and beyond one chunk of the sums.
WIDTHS = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 127, 1000, 4095, 4097, 9001]


@pytest.fixture(params=["chosen", "baseline", "avx2", "avx512"])
def isa(request):
    if request.param not in ("chosen", *bridge.load().instruction_sets()):
        pytest.skip(f"this processor does not run {request.param}")
    return request.param


def oracle(scores, similarity, groups, group, positive, eps):
    """Run the row through the reference: its scores are the product of 1 and the scores."""
    query = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    code = torch.tensor(scores, dtype=torch.float64)[:, None].requires_grad_()
    z = None if similarity is None else torch.tensor(similarity, dtype=torch.float64)[None]
    pair = None if groups is None else (torch.tensor([group]), torch.tensor(groups))
    loss = reference.soft_info_nce(
        query, code, z, **RULE, eps=eps, positive_offset=positive, groups=pair
    )
    return loss.item(), torch.autograd.grad(loss, code)[0][:, 0].numpy()


@pytest.mark.parametrize("kind", ["plain", "similarity", "groups", "both"])
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_row_equals_the_oracle_at_every_width(isa, kind, eps):
    random = np.random.default_rng(0)
    for width in WIDTHS:
        scores = random.normal(0, 4, width)
        similarity = random.normal(0, 2, width) if kind in ("similarity", "both") else None
        positive = int(random.integers(width))
        groups = random.integers(0, 4, width) if kind in ("groups", "both") else None
        group = int(groups[positive]) if groups is not None else 0
        loss, grad = oracle(scores, similarity, groups, group, positive, eps)
        for name, dtype, tolerance in (
            ("row_f64", np.float64, 1e-12),
            ("row_f32", np.float32, 3e-6),
        ):
            kernel = getattr(bridge.load(), name)
            z = None if similarity is None else similarity.astype(dtype)
            got, got_grad = kernel(
                isa, scores.astype(dtype), z, groups, group, positive, list(RULE.values()), eps, 2.0
            )
            assert got == pytest.approx(loss, rel=tolerance, abs=tolerance)
            scale = max(np.abs(grad).max(), 1e-30)
            assert np.abs(got_grad / 2 - grad).max() / scale < 5 * tolerance


def test_exponential_is_accurate_and_flushes_to_zero(isa):
    # Two columns: the loss is log1p(exp(x)) for a negative at x below the positive.
    for x in [0.0, -1e-7, -0.5, -1.0, -10.0, -50.0, -87.0]:
        loss, _ = bridge.load().row_f32(
            isa, np.array([0.0, x]), None, None, 0, 0, list(RULE.values()), 0.0, 1.0
        )
        assert loss == pytest.approx(np.log1p(np.exp(np.float32(x))), rel=4e-7)
    for x in (-88.0, -1e4, -3e38, -np.inf):
        loss, grad = bridge.load().row_f32(
            isa, np.array([0.0, x]), None, None, 0, 0, list(RULE.values()), 0.0, 1.0
        )
        assert loss == 0
        assert not grad.any()


@pytest.mark.parametrize("width", [5, 40])
def test_nan_and_infinity_never_become_a_finite_number(isa, width):
    for name in ("row_f32", "row_f64"):
        kernel = getattr(bridge.load(), name)
        for column in (0, 1, width - 1):
            for value in (np.nan, np.inf):
                scores = np.zeros(width)
                scores[column] = value
                loss, grad = kernel(
                    isa, scores, np.zeros(width), None, 0, 1, list(RULE.values()), 0.0, 1.0
                )
                assert np.isnan(loss) and np.isnan(grad).any()
            for value in (np.nan, np.inf, -np.inf):
                similarity = np.zeros(width)
                similarity[column] = value
                loss, grad = kernel(
                    isa, np.zeros(width), similarity, None, 0, 1, list(RULE.values()), 0.0, 1.0
                )
                assert np.isnan(loss) == (column != 1)  # the positive's own is not used
                assert np.isnan(grad).any() == (column != 1)
