"""Where the losses were once wrong: layouts, rounding, tracing, numbers at the edge of a type."""

from __future__ import annotations

import math

import problems
import pytest
import torch
from problems import FAMILY, RULE
from test_cpu_driver import printed
from test_losses_family import without_text
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import softnce_ext as sx
from softnce_ext import ops, reference

IMPLS = ("native", "torch")


@pytest.mark.parametrize("impl", IMPLS)
def test_a_contiguous_view_into_a_larger_storage_is_read_where_it_lies(impl):
    query, code = problems.embeddings(30, 41, 7)
    z = problems.similarity("teacher", 30, 41)
    views = (query[3:], code[5:])
    teacher = (z[0][3:], z[1][5:])
    got = sx.soft_info_nce(*views, teacher, **RULE, impl=impl)
    wanted = reference.soft_info_nce(*views, teacher, **RULE)
    for a, b in zip(
        problems.loss_and_gradients(got, query, code),
        problems.loss_and_gradients(wanted, query, code),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_groups_may_be_strided_or_expanded(impl, reduction):
    query, code = (x.detach() for x in problems.embeddings(6, 9, 4))
    every_second = torch.arange(18)[::2]
    one = torch.zeros(1, dtype=torch.int64).expand(6)
    for groups in ((every_second[:6], every_second), (one, torch.arange(9) % 3)):
        got = sx.soft_info_nce(query, code, groups=groups, impl=impl, reduction=reduction, **RULE)
        wanted = reference.soft_info_nce(query, code, groups=groups, reduction=reduction, **RULE)
        assert torch.allclose(got, wanted, rtol=1e-12)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("grouped", [False, True])
def test_a_normaliser_of_rounding_alone_is_none(impl, grouped):
    # beta * negatives = alpha on paper; in floats 0.1 * 19 > 1.9, and weights would reach 1e16.
    query, code = (x.detach() for x in problems.embeddings(20, 20, 4))
    z = problems.similarity("dense", 20, 20)
    groups = (torch.arange(20), torch.arange(20)) if grouped else None
    options = {"alpha": 1.9, "beta": 0.1, "temperature": 1.0}
    with pytest.warns(RuntimeWarning, match="every weight is 1"):
        got = sx.soft_info_nce(query, code, z, groups=groups, impl=impl, **options)
    assert torch.allclose(got, reference.info_nce(query, code), rtol=1e-12)
    with pytest.warns(RuntimeWarning, match="every weight is 1"):
        assert bool((sx.soft_weights(z, **options) == 1).all())


@pytest.mark.parametrize("impl", IMPLS)
def test_a_tiny_eps_bounds_the_loss_in_fp32_too(impl):
    query = torch.tensor([[-300.0]], requires_grad=True)
    code = torch.tensor([[1.0], [0.0]])
    for eps, bound in ((1e-50, -math.log(torch.finfo(torch.float32).tiny)), (1e-15, 34.54)):
        losses = [
            sx.soft_info_nce(query, code, eps=eps, impl=impl, **RULE),
            sx.weighted_info_nce(query, code, torch.zeros(1, 2), eps=eps, temperature=1, impl=impl),
        ]
        for loss in losses:
            assert float(loss.detach()) == pytest.approx(bound, rel=1e-3)
            assert torch.autograd.grad(loss, query)[0].abs() < 1e-6


@pytest.mark.parametrize("impl", IMPLS)
def test_eps_costs_a_near_zero_loss_no_accuracy(impl):
    query, code = torch.tensor([[12.0]]), torch.tensor([[1.0], [0.0]])
    options = {"eps": 1e-9, **RULE}
    got = sx.soft_info_nce(query, code, impl=impl, **options)
    wanted = math.log1p(math.exp(-12)) - math.log1p(1e-9 * (1 + math.exp(-12)))
    assert float(got) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_takes_sides_of_two_types_as_a_product_does(impl):
    query, code = problems.embeddings(6, 8, 16, torch.float32)
    teacher = (torch.randn(6, 5), torch.randn(8, 5).bfloat16())
    halves = query.bfloat16(), code.bfloat16(), tuple(part.bfloat16() for part in teacher)
    wanted = sx.soft_info_nce(*halves, impl=impl, **RULE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sx.soft_info_nce(halves[0], code, teacher, impl=impl, **RULE), wanted)
    with pytest.raises(TypeError, match="code must have query's type"):
        sx.soft_info_nce(halves[0], code, teacher, impl=impl, **RULE)


@pytest.mark.parametrize("name", FAMILY)
def test_vmap_is_a_loop_over_batches(name):
    query, z = torch.randn(3, 5, 4).double(), torch.randn(3, 5, 7).double()
    code = torch.randn(7, 4).double()
    function, rule = FAMILY[name]

    def loss(query, z):
        return getattr(sx, function)(query, code, z, reduction="none", **rule)

    got = torch.func.vmap(loss)(query, z)
    assert torch.allclose(got, torch.stack([loss(*pair) for pair in zip(query, z, strict=True)]))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_fake_tensors_and_traces_go_through(impl, reduction):
    tensors = [torch.randn(5, 4), torch.randn(7, 4), torch.randn(5, 7)]

    def step(query, code, z):
        loss = sx.bce(query, code, z, temperature=1.0, impl=impl, reduction=reduction)
        return torch.autograd.grad(loss.sum(), query)[0]

    wanted = step(tensors[0].requires_grad_(), *tensors[1:])
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(tensor) for tensor in tensors]
        assert step(*fake).shape == (5, 4)
    # Two inputs: the trace must follow them, not hold the numbers it was made with.
    traced = make_fx(step)(*(2 * tensor.detach().requires_grad_() for tensor in tensors))
    assert torch.allclose(traced(*tensors), wanted, atol=1e-6)


def test_meta_tensors_give_shapes():
    query, code, z = (torch.empty(*shape, device="meta") for shape in [(5, 4), (7, 4), (5, 7)])
    query.requires_grad_()
    for reduction, shape in (("mean", ()), ("none", (5,))):
        loss = sx.kl_regularized_info_nce(query, code, z, temperature=1.0, reduction=reduction)
        assert loss.shape == shape
        assert torch.autograd.grad(loss.sum(), query)[0].shape == (5, 4)
    module = sx.SoftInfoNCE(**RULE, scale=torch.nn.Parameter(torch.empty((), device="meta")))
    assert "scale=learned" in repr(module)


def test_weights_of_finite_similarities_are_finite():
    for z, temperature in (
        (torch.tensor([[0.0, 1e9, 2e9, 5, 5, 5, 5]]), 1e-30),
        (torch.tensor([[0.0, 100, 50, 5, 5, 5, 5]]).half(), 1e-3),
        (torch.tensor([[0.0, 1, 9, 5, 5, 5, 5]]), 1e-300),
    ):
        weights = sx.soft_weights(z, alpha=1.5, beta=0.5, temperature=temperature)
        assert weights.dtype == torch.float32
        assert torch.isfinite(weights).all()
        assert float(weights[0].min()) == pytest.approx(0.1)
    with pytest.raises(TypeError, match="similarity must be a dense tensor"):
        sx.soft_weights(torch.eye(3).to_sparse(), **RULE)


@pytest.mark.parametrize("impl", IMPLS)
def test_neither_a_learnable_scale_nor_its_product_is_rounded_to_the_embeddings_type(impl):
    # 14.2857 is 14.3125 in bf16, and 3 times the one or the other 42.75 or 43.
    query = torch.tensor([[3.0]], dtype=torch.bfloat16)
    code = torch.tensor([[0.0], [0.125]], dtype=torch.bfloat16)
    got = sx.info_nce(query, code, scale=torch.tensor(14.2857), impl=impl)
    assert float(got) == pytest.approx(math.log1p(math.exp(3 * 14.2857 * 0.125)), rel=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_learnable_scale_is_as_exact_as_a_number(impl, dtype, autocast, reduction):
    query, code = problems.embeddings(33, 40, 16, dtype)
    scale = torch.nn.Parameter(torch.tensor(1.42857))
    options = {"similarity": problems.similarity("dense", 33, 40), "reduction": reduction, **RULE}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        number = sx.soft_info_nce(query, code, scale=float(scale.detach()), impl=impl, **options)
        got = sx.soft_info_nce(query, code, scale=scale, impl=impl, **options)
    sides = query, code
    parts = [got, *torch.autograd.grad(got.sum(), sides, retain_graph=True)]
    for part, wanted in zip(
        parts, [number, *torch.autograd.grad(number.sum(), sides)], strict=True
    ):
        if impl == "native":
            assert torch.equal(part, wanted)
        else:  # the factor goes into the product or behind it: one rounding of the type
            step = 2 * torch.finfo(part.dtype).eps + 1e-6
            assert problems.error(part.detach(), wanted.detach().double()) <= step
    wide, learned = (x.detach().double() for x in sides), scale.detach().double().requires_grad_()
    truth = reference.soft_info_nce(*wide, scale=learned, **options).sum()
    gradient, wanted = (
        torch.autograd.grad(loss.sum(), x)[0] for loss, x in ((got, scale), (truth, learned))
    )
    assert float(gradient) == pytest.approx(float(wanted), rel=1e-2 if autocast else 2e-3)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_learnable_scale_of_zero_gets_its_gradient(impl):
    query, code = problems.embeddings(5, 6, 4)
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    leaves = (query, code, scale)
    got = torch.autograd.grad(sx.info_nce(query, code, scale=scale, impl=impl), leaves)
    wanted = torch.autograd.grad(reference.info_nce(query, code, scale=scale), leaves)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("query_indptr", torch.tensor([0, 2, 1, 3]), "query_indptr must rise from 0 to 3"),
        ("indptr", torch.tensor([1, 2]), "indptr must rise from 0 to 2"),
        ("query_term", torch.tensor([0, -1, 0]).int(), r"query_term must lie in \[0, 1\)"),
        ("document", torch.tensor([0, 1000]).int(), r"document must lie in \[0, 5\)"),
    ],
)
def test_factors_that_point_outside_are_refused(impl, name, value, sentence):
    query, code = torch.randn(3, 4), torch.randn(5, 4)
    factors = without_text(3, 5, [0, 2])._replace(**{name: value})
    with pytest.raises((ValueError, RuntimeError), match=sentence):
        sx.bce(query, code, factors, temperature=1.0, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_broken_similarity_of_the_positive_is_found_beside_codes_without_one(impl):
    factors = without_text(1, 3, [0])
    factors.weight[0] = float("inf")
    with pytest.raises(ValueError, match=r"similarity.weight must be finite, at \[0\]"):
        sx.threshold_cancellation(
            torch.randn(1, 4), torch.randn(3, 4), factors, ratio=0.5, impl=impl
        )


MIXED = """
import torch
import softnce_ext as sx
from softnce_ext import reference

RULE = {"alpha": 1.3, "beta": 0.7, "temperature": 5.0}
torch.manual_seed(0)
query, code = torch.randn(9, 4).double(), torch.randn(12, 4).double()
teacher = (torch.randn(9, 5).bfloat16(), torch.randn(12, 5).bfloat16())
got = sx.soft_info_nce(query, code, teacher, impl="native", **RULE)
wanted = reference.soft_info_nce(query, code, tuple(t.double() for t in teacher), **RULE)
print(torch.allclose(got, wanted, rtol=1e-12))
"""


@pytest.mark.parametrize("multiplied", ["1", "0"])
def test_a_bf16_teacher_of_fp64_embeddings(multiplied):
    assert printed(MIXED, SOFTNCE_CPU_BF16=multiplied) == ["True"]


def test_a_teacher_of_one_dimension_is_refused_by_the_op_itself():
    assert ops.unavailable("cpu") is None
    query, code = torch.randn(2, 4), torch.randn(3, 4)
    nothing = (None,) * 9
    with pytest.raises(RuntimeError, match="teacher_query must have 2 dimensions"):
        torch.ops.softnce_ext.soft_info_nce_rows.default(
            *(query, code, None, torch.randn(2), torch.randn(3), *nothing),
            *(0, 1.5, 0.5, 1.0, 0.1, 0.0, 1.0, 0.0, 0, 0),
        )


@pytest.mark.parametrize("impl", IMPLS)
def test_a_learnable_scale_that_scores_cannot_hold_is_a_nan_loss(impl):
    query, code = problems.embeddings(5, 6, 4, dtype=torch.float32)
    scale = torch.tensor(1e40, dtype=torch.float64)
    assert sx.info_nce(query, code, scale=scale, impl=impl).isnan()
