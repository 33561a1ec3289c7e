"""The door and both implementations behind it, against the oracle in float64."""

from __future__ import annotations

import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import problems
import pytest
import torch
from problems import RULE, SHAPES, SIMILARITIES, error, loss_and_gradients

import softnce_ext as sx
from softnce_ext import reference

IMPLS = ("native", "torch")


def run(impl, query, code, similarity, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="beta")  # small shapes, asked for
        loss = sx.soft_info_nce(query, code, similarity, impl=impl, **{**RULE, **options})
    return loss_and_gradients(loss, query, code)


def truth(query, code, similarity, **options):
    query, code = problems.as_double(query), problems.as_double(code)
    loss = reference.soft_info_nce(
        query, code, problems.as_double(similarity), **{**RULE, **options}
    )
    return loss_and_gradients(loss, query, code)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_and_gradients_equal_the_reference_in_float64(impl, shape, kind, grouped, reduction):
    n, m, d = shape
    offset = (m - n) // 2
    query, code = problems.embeddings(n, m, d)
    options = {
        "scale": 1.3,
        "positive_offset": offset,
        "groups": problems.duplicate_groups(n, m, offset) if grouped else None,
        "reduction": reduction,
    }
    similarity = problems.similarity(kind, n, m)
    got = run(impl, query, code, similarity, **options)
    wanted = truth(query, code, similarity, **options)
    for part, expected in zip(got, wanted, strict=True):
        assert part.dtype == torch.float64
        assert torch.allclose(part, expected, rtol=1e-11, atol=1e-13)


def eager(query, code, similarity, positive_offset=0, scale=1.0):
    """The loss as plain torch computes it in the inputs' own type."""
    n = len(query)
    scores = scale * (query @ code.T)
    if similarity is not None:
        z = similarity[0] @ similarity[1].T if isinstance(similarity, tuple) else similarity
        weights = reference.soft_weights(
            z.to(scores.dtype), **RULE, positive_offset=positive_offset
        )
        scores = scores + weights.log()
    target = torch.arange(n) + positive_offset
    return torch.nn.functional.cross_entropy(scores, target)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
def test_error_is_no_larger_than_eager_in_the_same_type(impl, dtype, kind, scale):
    n, m, d = 65, 130, 96
    query, code = (
        torch.nn.functional.normalize(x.detach()).to(dtype).requires_grad_()
        for x in problems.embeddings(n, m, d)
    )
    similarity = problems.similarity(kind, n, m, dtype)
    options = {"scale": scale, "positive_offset": 3}
    wanted = truth(query, code, similarity, **options)
    got = run(impl, query, code, similarity, **options)
    plain = loss_and_gradients(eager(query, code, similarity, **options), query, code)
    assert got[0].dtype == torch.float32
    for part, base, expected in zip(got, plain, wanted, strict=True):
        assert error(part, expected) <= error(base, expected) + 1e-6
    if dtype == torch.float32:
        assert error(got[0], wanted[0]) <= 2e-6
        assert max(error(got[1], wanted[1]), error(got[2], wanted[2])) <= 1e-5


@pytest.mark.parametrize("impl", IMPLS)
def test_gradient_is_equation_5_in_closed_form(impl):
    query, code = problems.embeddings(12, 15, 8)
    z = problems.similarity("dense", 12, 15)
    _, grad_query, grad_code = run(impl, query, code, z, scale=2.0, positive_offset=1)
    weights = reference.soft_weights(z, **RULE, positive_offset=1)
    weighted = weights * torch.exp(2.0 * query @ code.T)
    p = weighted / weighted.sum(1, keepdim=True)
    grad_scores = (p - reference.positives(12, 15, 1, p.device).double()) / 12
    assert torch.allclose(grad_query, 2.0 * grad_scores @ code, rtol=1e-11, atol=1e-13)
    assert torch.allclose(grad_code, 2.0 * grad_scores.T @ query, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_gradcheck_in_float64(impl, reduction, eps):
    query, code = problems.embeddings(6, 8, 5)
    z = problems.similarity("dense", 6, 8)
    groups = (torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([9, 0, 1, 2, 3, 4, 5, 0]))

    def loss(query, code):
        return sx.soft_info_nce(
            query,
            code,
            z,
            **RULE,
            eps=eps,
            positive_offset=1,
            groups=groups,
            reduction=reduction,
            impl=impl,
        )

    assert torch.autograd.gradcheck(loss, (query, code))


def test_second_derivative_is_right_or_refused():
    query, code = problems.embeddings(6, 8, 5)
    z = problems.similarity("dense", 6, 8)

    def loss(impl, reduction):
        return lambda q, c: sx.soft_info_nce(q, c, z, **RULE, impl=impl, reduction=reduction)

    for reduction in ("mean", "none"):
        assert torch.autograd.gradgradcheck(loss("torch", reduction), (query, code))
        with pytest.raises(RuntimeError, match="second derivative"):
            torch.autograd.grad(
                loss("native", reduction)(query, code).sum(), query, create_graph=True
            )


def test_functorch_transforms_fall_back_to_torch():
    query, code = (x.detach() for x in problems.embeddings(6, 8, 5))
    z = problems.similarity("dense", 6, 8)
    got = torch.func.grad(lambda q: sx.soft_info_nce(q, code, z, **RULE))(query)
    query.requires_grad_()
    wanted = torch.autograd.grad(sx.soft_info_nce(query, code, z, **RULE), query)[0]
    assert torch.allclose(got, wanted, rtol=1e-12)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiles_without_a_graph_break_to_the_same_bits(impl, reduction):
    query, code = problems.embeddings(9, 12, 8, torch.float32)
    similarity = problems.similarity("teacher", 9, 12, torch.float32)

    def loss(query, code):
        value = sx.soft_info_nce(query, code, similarity, **RULE, impl=impl, reduction=reduction)
        return value.sum()

    torch._dynamo.reset()
    plain = loss_and_gradients(loss(query, code), query, code)
    compiled = torch.compile(loss, fullgraph=True)
    traced = loss_and_gradients(compiled(query, code), query, code)
    for a, b in zip(plain, traced, strict=True):
        assert torch.equal(a, b) if impl == "native" else torch.allclose(a, b, atol=1e-5)


def graphs_of(function, *calls):
    """Return how many graphs torch.compile made for calls of a function."""
    count = 0

    def backend(graph, _):
        nonlocal count
        count += 1
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for arguments in calls:
        compiled(*arguments)
    return count


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_new_batch_sizes_recompile_once_and_a_new_scale_compiles(impl, reduction):
    def loss(query, code, scale):
        return sx.soft_info_nce(query, code, scale=scale, reduction=reduction, impl=impl, **RULE)

    sizes = [problems.embeddings(n, n + 4, 8, torch.float32) for n in (8, 12, 20, 33, 41)]
    assert graphs_of(loss, *((*pair, 1.5) for pair in sizes)) <= 2
    assert graphs_of(loss, *((*sizes[0], scale) for scale in (1.5, 2.5))) <= 2


def test_a_thread_never_meets_an_op_before_its_autograd():
    # A slow registration, and threads that call meanwhile: in a process of their own.
    code = """
import threading, time, torch, softnce_ext as sx
from softnce_ext import ops
register = ops._register
ops._register = lambda: (time.sleep(0.5), register())
query = [torch.randn(4, 3, requires_grad=True) for _ in range(8)]
def step(q):
    sx.info_nce(q, q, impl="native").backward()
threads = [threading.Thread(target=step, args=(q,)) for q in query]
for thread in threads:
    thread.start()
    time.sleep(0.02)
for thread in threads:
    thread.join()
print(sum(q.grad is not None for q in query))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "8", done.stderr


@pytest.mark.parametrize("impl", IMPLS)
def test_a_scaled_loss_does_not_bias_bf16_gradients(impl):
    query, code = problems.embeddings(64, 64, 128, torch.bfloat16)
    whole = torch.autograd.grad(sx.info_nce(query, code, impl=impl), query)[0].double()
    third = torch.autograd.grad(sx.info_nce(query, code, impl=impl) / 3, query)[0].double()
    bias = (third * whole).sum() / (whole * whole).sum() * 3 - 1
    assert abs(float(bias)) < 2e-4  # 1 / 3 in bf16 is off by 2e-3


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_forward_mode_derivative_is_the_gradient(impl):
    query, code = (x.detach() for x in problems.embeddings(6, 8, 5))
    direction = torch.randn_like(query)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(query, direction)
        loss = sx.soft_info_nce(dual, code, **RULE, impl=impl)
        tangent = torch.autograd.forward_ad.unpack_dual(loss).tangent
    query.requires_grad_()
    grad = torch.autograd.grad(sx.soft_info_nce(query, code, **RULE), query)[0]
    assert float(tangent) == pytest.approx(float((grad * direction).sum()), rel=1e-12)


@pytest.mark.parametrize("impl", IMPLS)
def test_one_column_and_a_negative_alpha(impl):
    query, code = problems.embeddings(1, 1, 4)
    loss = sx.soft_info_nce(
        query, code, torch.zeros(1, 1), impl=impl, alpha=-1.0, beta=0.5, temperature=1.0
    )
    assert loss.item() == 0


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("temperature", [1e-300, 1e-42, 1e-30, 1e30, 1e300])
def test_extreme_temperatures_stay_finite(impl, temperature):
    query, code = problems.embeddings(5, 7, 4, torch.float32)
    z = 1e9 * problems.similarity("dense", 5, 7, torch.float32)
    options = {"alpha": 1.3, "beta": 0.7, "temperature": temperature}
    loss = sx.soft_info_nce(query, code, z, impl=impl, **options)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_similarity_that_overflows_the_losses_type_is_named(impl):
    query, code = problems.embeddings(7, 9, 4, torch.float32)
    z = problems.similarity("dense", 7, 9)
    z[3, 5] = 1e300
    with pytest.raises(ValueError, match=r"similarity must be finite, got inf at \[3, 5\]"):
        sx.soft_info_nce(query, code, z, **RULE, impl=impl)
    teacher = (torch.full((7, 2), 1e20), torch.full((9, 2), 1e20))
    with pytest.raises(ValueError, match="similarity must be finite, got inf"):
        sx.soft_info_nce(query, code, teacher, **RULE, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_changing_the_similarity_before_backward_is_noticed(impl):
    query, code = problems.embeddings(5, 6, 4)
    z = problems.similarity("dense", 5, 6)
    loss = sx.soft_info_nce(query, code, z, **RULE, impl=impl, reduction="none")
    z.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_reads_half_and_accumulates_in_fp32(impl):
    query, code = problems.embeddings(20, 30, 64, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sx.soft_info_nce(query, code, **RULE, impl=impl)
    wanted = sx.soft_info_nce(query.bfloat16(), code.bfloat16(), **RULE, impl=impl)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, wanted)
    grad = torch.autograd.grad(loss, query)[0]
    assert grad.dtype == torch.float32


@pytest.mark.parametrize("impl", IMPLS)
def test_learnable_scale_gets_its_gradient(impl):
    query, code = problems.embeddings(10, 10, 6)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    z = problems.similarity("dense", 10, 10)
    loss = sx.soft_info_nce(query, code, z, **RULE, scale=scale, impl=impl)
    wanted = reference.soft_info_nce(query, code, z, **RULE, scale=scale)
    for a, b in zip(
        torch.autograd.grad(loss, (query, scale)),
        torch.autograd.grad(wanted, (query, scale)),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-11)


@pytest.mark.parametrize("impl", IMPLS)
def test_no_gradient_flows_through_the_similarity(impl):
    query, code = problems.embeddings(5, 6, 4)
    z = problems.similarity("dense", 5, 6).requires_grad_()
    loss = sx.soft_info_nce(query, code, z, **RULE, impl=impl)
    assert torch.autograd.grad(loss, z, allow_unused=True)[0] is None


@pytest.mark.parametrize("impl", IMPLS)
def test_frozen_sides_and_no_grad_need_no_gradient(impl):
    query, code = problems.embeddings(5, 6, 4)
    loss = sx.soft_info_nce(query, code.detach(), **RULE, impl=impl)
    assert torch.autograd.grad(loss, query)[0].shape == query.shape
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            value = sx.soft_info_nce(query, code, **RULE, impl=impl)
        assert not value.requires_grad
        assert float(value) == loss.item()


@pytest.mark.parametrize("impl", IMPLS)
def test_backward_twice_over_a_retained_graph(impl):
    query, code = problems.embeddings(5, 6, 4)
    loss = sx.soft_info_nce(query, code, **RULE, impl=impl)
    first = torch.autograd.grad(loss, query, retain_graph=True)[0]
    wanted = first.clone()
    first.zero_()  # the caller's own
    second = torch.autograd.grad(3 * loss, query)[0]
    assert wanted.any() and torch.allclose(second, 3 * wanted, rtol=1e-14)


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_inputs_are_read_where_they_lie(impl):
    query, code = problems.embeddings(24, 40, 20)
    z = problems.similarity("dense", 40, 24)
    views = (query[::2, 1::2], code[1::2, ::2])
    got = sx.soft_info_nce(*views, z.T[::2, ::2], **RULE, impl=impl)
    wanted = reference.soft_info_nce(*views, z.T[::2, ::2], **RULE)
    for a, b in zip(
        loss_and_gradients(got, query, code), loss_and_gradients(wanted, query, code), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("impl", IMPLS)
def test_bitwise_equal_over_repeats_and_threads(impl):
    query, code = problems.embeddings(600, 1100, 64, torch.float32)
    similarity = problems.similarity("teacher", 600, 1100, torch.float32)
    first = run(impl, query, code, similarity, scale=5.0)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            for _ in range(3):
                again = run(impl, query, code, similarity, scale=5.0)
                if impl == "native":
                    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
                else:  # torch's own reductions make no such promise
                    assert all(
                        error(a, b.double()) < 1e-5 for a, b in zip(first, again, strict=True)
                    )
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("impl", IMPLS)
def test_one_column_has_nothing_to_learn(impl):
    query, code = problems.embeddings(1, 1, 4)
    loss, *grads = run(impl, query, code, torch.zeros(1, 1).double())
    assert float(loss) == 0
    assert all(not grad.any() for grad in grads)


@pytest.mark.parametrize("impl", IMPLS)
def test_small_last_batch_is_info_nce_with_one_warning(impl):
    query, code = problems.embeddings(4, 4, 4)  # beta * 3 = alpha: Eq. 4 would divide by zero
    z = problems.similarity("dense", 4, 4)
    with pytest.warns(RuntimeWarning, match="every weight is 1") as caught:
        loss = sx.soft_info_nce(query, code, z, **RULE, impl=impl)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(RuntimeWarning, match="every weight is 1") as caught:
        sx.SoftInfoNCE(**RULE)(query, code, z)
        sx.soft_weights(z, **RULE)
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert torch.allclose(loss, sx.info_nce(query, code, impl=impl), rtol=1e-14)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_similarity_that_is_not_finite_is_named(impl, value):
    query, code = problems.embeddings(7, 9, 4, torch.float32)
    z = problems.similarity("dense", 7, 9, torch.float32)
    z[3, 5] = value
    with pytest.raises(ValueError, match=r"similarity must be finite, got .* at \[3, 5\]"):
        sx.soft_info_nce(query, code, z, **RULE, impl=impl)
    teacher = problems.similarity("teacher", 7, 9, torch.float32)
    teacher[1][2, 0] = value
    with pytest.raises(ValueError, match="teacher code vectors must be finite, row 2 is not"):
        sx.soft_info_nce(query, code, teacher, **RULE, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_similarity_nobody_asks_for_may_be_anything(impl):
    query, code = problems.embeddings(7, 9, 4)
    groups = (torch.arange(7), torch.arange(9))
    groups[1][8] = 2  # column 8 is a copy of row 2's own code
    z = problems.similarity("dense", 7, 9)
    wanted = run(impl, query, code, z, groups=groups)
    z.fill_diagonal_(float("nan"))
    z[2, 8] = float("-inf")
    for a, b in zip(run(impl, query, code, z, groups=groups), wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("place", ["positive", "negative"])
def test_a_nan_score_is_a_nan_loss_of_its_row_alone(impl, kind, place):
    query, code = (x.detach() for x in problems.embeddings(7, 9, 4, torch.float32))
    code[3 if place == "positive" else 8] = float("nan")
    rows = sx.soft_info_nce(
        query,
        code,
        problems.similarity(kind, 7, 9, torch.float32),
        **RULE,
        impl=impl,
        reduction="none",
    )
    assert rows.isnan().all()  # every row scores against the NaN code
    query, code = (x.detach() for x in problems.embeddings(7, 9, 4, torch.float32))
    query[3] = float("nan")
    rows = sx.soft_info_nce(
        query,
        code,
        problems.similarity(kind, 7, 9, torch.float32),
        **RULE,
        impl=impl,
        reduction="none",
    )
    assert rows.isnan().tolist() == [i == 3 for i in range(7)]


@pytest.mark.parametrize("impl", IMPLS)
def test_extreme_scores_stay_finite(impl):
    query = torch.tensor([[1e4], [-1e4], [1e-4]], dtype=torch.float32, requires_grad=True)
    code = torch.tensor([[1e2], [1e2], [-1e2], [0.0], [1e2]], requires_grad=True)
    loss, *grads = run(impl, query, code, None, reduction="none")
    wanted, *_ = truth(query, code, None, reduction="none")
    assert torch.allclose(loss.double(), wanted, rtol=1e-6)
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_weight_of_zero_cannot_hide_the_rest_of_the_row(impl):
    # The largest score has weight 0; a maximum taken over it would underflow all others.
    query = torch.tensor([[1.0]], requires_grad=True)
    code = torch.tensor([[0.0], [500.0], [1.0], [2.0], [1.5]], requires_grad=True)
    z = torch.tensor([[0.0, 1e3, 0.0, 0.0, 0.0]])
    options = {"alpha": 1.0, "beta": 0.5, "temperature": 1.0, "min_weight": 0.0}
    loss = sx.soft_info_nce(query, code, z, impl=impl, **options)
    wanted = reference.soft_info_nce(query.double(), code.double(), z.double(), **options)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
def test_near_zero_losses_keep_their_relative_accuracy(impl):
    query = torch.eye(8, dtype=torch.float32).requires_grad_()
    code = torch.eye(8, dtype=torch.float32).requires_grad_()
    loss, *_ = run(impl, query, code, None, scale=20.0)
    wanted, *_ = truth(query, code, None, scale=20.0)
    assert error(loss, wanted) < 2e-6


BAD = [
    ({"query": [[1.0]]}, TypeError, "query must be a Tensor, got list"),
    ({"query": torch.zeros(3)}, ValueError, r"query must have 2 dimensions, got shape \[3\]"),
    ({"query": torch.zeros(0, 4)}, ValueError, "query must have at least one row"),
    ({"query": torch.zeros(3, 4).long()}, TypeError, "query must be fp32, fp64, bf16 or fp16"),
    ({"query": torch.zeros(3, 4).to_sparse()}, TypeError, "query must be a dense tensor"),
    ({"code": torch.zeros(5, 3)}, ValueError, "code must have query's 4 columns, got 3"),
    ({"code": torch.zeros(2, 4)}, ValueError, "code must have at least query's 3 rows, got 2"),
    ({"code": torch.zeros(5, 4).double()}, TypeError, "code must have query's type"),
    ({"code": torch.zeros(5, 4, device="meta")}, ValueError, "code must be on query's device"),
    ({"similarity": torch.zeros(3, 4)}, ValueError, r"similarity must have shape \[3, 5\]"),
    ({"similarity": torch.zeros(3, 5).long()}, TypeError, "similarity must be fp32"),
    ({"similarity": torch.eye(3, 5).to_sparse()}, TypeError, "similarity must be a dense tensor"),
    ({"scale": 10**400}, ValueError, "scale must be finite"),
    ({"scale": 1e300}, ValueError, "scale must be at most 3.4.* in size for torch.float32"),
    ({"similarity": "bm25"}, TypeError, "similarity must be a Tensor"),
    ({"similarity": (torch.zeros(3, 2), torch.zeros(4, 2))}, ValueError, "teacher's code vectors"),
    ({"similarity": (torch.zeros(3, 2), None)}, TypeError, "teacher vectors must be Tensors"),
    ({"temperature": 0}, ValueError, "temperature must be > 0, got 0"),
    ({"temperature": float("nan")}, ValueError, "temperature must be finite, got nan"),
    ({"alpha": "1.5"}, TypeError, "alpha must be a number, got str"),
    ({"beta": float("inf")}, ValueError, "beta must be finite, got inf"),
    ({"min_weight": 1.5}, ValueError, r"min_weight must be in \[0, 1\], got 1.5"),
    ({"eps": -1e-9}, ValueError, r"eps must be in \[0, 1\], got -1e-09"),
    ({"scale": torch.ones(2)}, ValueError, "scale must be a number or a real 0-d tensor"),
    ({"scale": torch.tensor(1j)}, ValueError, "scale must be .* real 0-d tensor, got torch.co"),
    ({"scale": None}, TypeError, "scale must be a number, got NoneType"),
    ({"positive_offset": 3}, ValueError, r"positive_offset must be in \[0, 2\]"),
    ({"positive_offset": 1.0}, TypeError, "positive_offset must be an int, got float"),
    ({"positive_offset": np.float32(1)}, TypeError, "positive_offset must be an int, got float32"),
    ({"positive_offset": np.int8(3)}, ValueError, r"positive_offset must be in \[0, 2\]"),
    ({"alpha": np.bool_(True)}, TypeError, "alpha must be a number, got bool"),
    ({"beta": np.float32("nan")}, ValueError, "beta must be finite, got nan"),
    ({"beta": torch.tensor(0.5)}, TypeError, "beta must be a number, got Tensor"),
    ({"groups": torch.arange(3)}, TypeError, "groups must be None or"),
    ({"groups": (torch.arange(3),) * 3}, TypeError, "code_groups\\), got 3 values"),
    ({"scale": torch.tensor(True)}, ValueError, "scale must be a number or a real 0-d tensor"),
    ({"scale": torch.tensor(2.0).to_sparse()}, ValueError, "layout torch.sparse_coo"),
    ({"scale": torch.tensor(2.0, device="meta")}, ValueError, "scale must be on query's device"),
    ({"groups": (torch.arange(3), torch.arange(4))}, ValueError, r"groups\[1\] must have shape"),
    ({"groups": (torch.arange(3.0), torch.arange(5))}, TypeError, r"groups\[0\] must be an int64"),
    ({"reduction": "avg"}, ValueError, "reduction must be one of mean, sum, none, got 'avg'"),
    ({"impl": "cuda"}, ValueError, "impl must be one of auto, native, torch, got 'cuda'"),
]


@pytest.mark.parametrize(("change", "kind", "sentence"), BAD)
def test_bad_input_is_named_in_one_sentence(change, kind, sentence):
    arguments = {"query": torch.randn(3, 4), "code": torch.randn(5, 4), **RULE, **change}
    with pytest.raises(kind, match=sentence):
        sx.soft_info_nce(**arguments)


@pytest.mark.parametrize("impl", IMPLS)
def test_numbers_may_be_of_any_library(impl):
    query, code = (x.detach() for x in problems.embeddings(7, 9, 4))
    z = problems.similarity("dense", 7, 9)
    numbers = {"alpha": 1.5, "beta": 0.5, "temperature": 0.75, "scale": 2, "positive_offset": 1}
    numbers |= {"eps": 0.5, "min_weight": 0.25}
    wanted = sx.soft_info_nce(query, code, z, **numbers, impl=impl)
    for real, whole in ((np.float32, np.int64), (np.float16, np.int8), (Fraction, int)):
        given = {k: (whole if isinstance(v, int) else real)(v) for k, v in numbers.items()}
        assert torch.equal(sx.soft_info_nce(query, code, z, **given, impl=impl), wanted)
    dropped = sx.top_k_cancellation(query, code, z, k=np.int32(2), impl=impl)
    assert torch.equal(dropped, sx.top_k_cancellation(query, code, z, k=2, impl=impl))
    weights = sx.soft_weights(z, alpha=np.float32(1.5), beta=np.int64(1), temperature=np.int8(1))
    assert torch.equal(weights, sx.soft_weights(z, alpha=1.5, beta=1, temperature=1))


@pytest.mark.parametrize("impl", IMPLS)
def test_info_nce_takes_groups_and_eps(impl):
    query, code = (x.detach() for x in problems.embeddings(7, 9, 4))
    groups = problems.duplicate_groups(7, 9, 1)
    options = {"scale": 2.0, "positive_offset": 1, "groups": groups, "eps": 0.1}
    got = sx.info_nce(query, code, **options, impl=impl)
    assert torch.allclose(got, reference.soft_info_nce(query, code, **RULE, **options), rtol=1e-12)
    assert not torch.isclose(got, reference.info_nce(query, code, scale=2.0, positive_offset=1))


def test_soft_weights_are_the_reference_and_checked():
    z = torch.randn(6, 9)
    got = sx.soft_weights(z, **RULE)
    assert torch.equal(got, reference.soft_weights(z, **RULE))
    with pytest.raises(ValueError, match="similarity must be finite"):
        sx.soft_weights(z.masked_fill(z == z[2, 3], float("nan")), **RULE)
    with pytest.raises(ValueError, match=r"similarity must have shape \[N, M\] with M >= N"):
        sx.soft_weights(z.T, **RULE)


def test_info_nce_is_a_module_that_takes_no_similarity():
    query, code = problems.embeddings(8, 8, 4)
    module = sx.InfoNCE(scale=3.0, eps=0.1)
    groups = (torch.arange(8), torch.arange(8) // 2)
    wanted = sx.info_nce(query, code, scale=3.0, eps=0.1, groups=groups)
    assert torch.equal(module(query, code, groups=groups), wanted)
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3"):
        module(query, code, problems.similarity("dense", 8, 8))
    with pytest.raises(TypeError, match="unexpected keyword argument 'alpha'"):
        sx.InfoNCE(alpha=1.0)


def test_module_stores_its_arguments_and_calls_the_function():
    query, code = problems.embeddings(8, 8, 4)
    z = problems.similarity("dense", 8, 8)
    scale = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    module = sx.SoftInfoNCE(**sx.PRESETS["simcse"]._asdict(), scale=scale)
    assert [name for name, _ in module.named_parameters()] == ["scale"]
    wanted = sx.soft_info_nce(query, code, z, **sx.PRESETS["simcse"]._asdict(), scale=2.0)
    assert torch.allclose(module(query, code, z), wanted, rtol=1e-13)
    assert "scale=2.0" in repr(module)
    other = sx.soft_info_nce(query, code, z, **sx.PRESETS["simcse"]._asdict(), scale=3.0)
    assert torch.allclose(module(query, code, z, scale=3.0), other, rtol=1e-13)
