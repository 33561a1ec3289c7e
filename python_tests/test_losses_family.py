"""Every loss that takes a similarity, native and in plain torch, against the oracle in float64."""

from __future__ import annotations

import itertools
import math
import warnings

import problems
import pytest
import torch
from problems import FAMILY, KINDS, RULE, SHAPES, error, loss_and_gradients
from test_functional import graphs_of
from torch.utils._python_dispatch import TorchDispatchMode

import softnce_ext as sx
from softnce_ext import blocks, reference, values

IMPLS = ("native", "torch")


def call(name, query, code, similarity, *, module=sx, **options):
    function, rule = FAMILY[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="beta")  # small shapes, asked for
        return getattr(module, function)(query, code, similarity, **{**rule, **options})


def run(name, impl, query, code, similarity, **options):
    loss = call(name, query, code, similarity, impl=impl, **options)
    return loss_and_gradients(loss, query, code)


def truth(name, query, code, similarity, **options):
    query, code = problems.as_double(query), problems.as_double(code)
    similarity = problems.as_double(similarity)
    loss = call(name, query, code, similarity, module=reference, **options)
    return loss_and_gradients(loss, query, code)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grouped", [False, True])
def test_losses_and_gradients_equal_the_reference_in_float64(
    impl, name, kind, grouped, monkeypatch
):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 100)  # the last shape takes three
    reductions = itertools.cycle(("mean", "sum", "none"))
    for n, m, d in SHAPES:
        offset = (m - n) // 2
        query, code = problems.embeddings(n, m, d)
        similarity = problems.similarity(kind, n, m)
        options = {
            "scale": 1.3,
            "positive_offset": offset,
            "groups": problems.duplicate_groups(n, m, offset) if grouped else None,
            "reduction": next(reductions),
        }
        got = run(name, impl, query, code, similarity, **options)
        wanted = truth(name, query, code, similarity, **options)
        for part, expected in zip(got, wanted, strict=True):
            assert part.dtype == torch.float64
            assert torch.allclose(part, expected, rtol=1e-10, atol=1e-12), (n, m)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_no_larger_than_eager_in_the_same_type(impl, name, dtype):
    n, m, d = 65, 130, 96
    for kind in KINDS:
        for scale in (1.0, 20.0, 100.0):
            query, code = (
                torch.nn.functional.normalize(x.detach()).to(dtype).requires_grad_()
                for x in problems.embeddings(n, m, d)
            )
            similarity = problems.similarity(kind, n, m, dtype)
            options = {"scale": scale, "positive_offset": 3}
            wanted = truth(name, query, code, similarity, **options)
            got = run(name, impl, query, code, similarity, **options)
            eager = call(name, query, code, similarity, module=reference, **options)
            eager = loss_and_gradients(eager, query, code)
            assert got[0].dtype == torch.float32
            for part, base, expected in zip(got, eager, wanted, strict=True):
                # Scores up to 64 are themselves rounded by 4e-6, ours and eager's differently.
                slack = 4e-6 if scale == 100 else 1e-6
                assert error(part, expected) <= error(base, expected) + slack, (kind, scale)
            if dtype == torch.float32:
                assert max(map(error, got, wanted)) <= 1e-5, (kind, scale)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_first_and_second_derivative_in_float64(impl, name, reduction):
    query, code = problems.embeddings(5, 7, 4)
    z = problems.similarity("dense", 5, 7)
    groups = (torch.tensor([0, 1, 2, 3, 4]), torch.tensor([9, 0, 1, 2, 3, 4, 0]))

    def loss(query, code):
        options = {"positive_offset": 1, "groups": groups, "reduction": reduction}
        return call(name, query, code, z, impl=impl, **options)

    assert torch.autograd.gradcheck(loss, (query, code))
    if impl == "torch":
        assert torch.autograd.gradgradcheck(loss, (query, code), fast_mode=True)


@pytest.mark.parametrize("name", FAMILY)
def test_functorch_falls_back_to_torch(name):
    query, code = problems.embeddings(6, 8, 5)
    for kind in KINDS:
        similarity = problems.similarity(kind, 6, 8)
        wanted = run(name, "native", query, code, similarity)[1]
        got = torch.func.grad(call, argnums=1)(name, query.detach(), code.detach(), similarity)
        assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-12)


KIND_TO_COMPILE = {"threshold": "dense", "weighted": "teacher"}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", FAMILY)
def test_compiles_without_a_graph_break_and_once_for_new_sizes(impl, name):
    def loss(query, code, similarity):
        return plainly(name, query, code, similarity, impl)

    batches = []
    for n in (8, 12, 20):
        similarity = problems.similarity(KIND_TO_COMPILE.get(name, "factors"), n, n + 4)
        batches.append((*problems.embeddings(n, n + 4, 8), similarity))
    assert graphs_of(loss, *batches) <= 2


def plainly(name, query, code, similarity, impl):
    function, rule = FAMILY[name]
    return getattr(sx, function)(query, code, similarity, **rule, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_compiled_code_computes_the_same(impl):
    query, code = problems.embeddings(9, 12, 8, torch.float32)
    similarity = problems.factors(9, 12)
    torch._dynamo.reset()
    compiled = torch.compile(lambda q, c: plainly("bce", q, c, similarity, impl), fullgraph=True)
    plain = loss_and_gradients(plainly("bce", query, code, similarity, impl), query, code)
    for a, b in zip(plain, loss_and_gradients(compiled(query, code), query, code), strict=True):
        assert torch.equal(a, b) if impl == "native" else torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_bitwise_equal_over_repeats_and_threads(name):
    query, code = problems.embeddings(300, 1100, 64, torch.float32)
    threads = torch.get_num_threads()
    for kind in ("teacher", "factors"):
        similarity = problems.similarity(kind, 300, 1100, torch.float32)
        first = run(name, "native", query, code, similarity, scale=5.0)
        try:
            for count in (1, 2, 4):
                torch.set_num_threads(count)
                again = run(name, "native", query, code, similarity, scale=5.0)
                assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        finally:
            torch.set_num_threads(threads)


class Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("name", FAMILY)
def test_factors_never_become_a_matrix_in_plain_torch(name, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 16)
    query, code = problems.embeddings(160, 160, 4)
    similarity = problems.factors(160, 160)._replace()
    with Largest() as largest:
        run(name, "torch", query, code, similarity)
    assert largest.numel <= max(160 * 16 * 2, len(similarity.weight))


@pytest.mark.parametrize("impl", IMPLS)
def test_bce_is_torchs_where_nothing_rounds(impl):
    query, code = problems.embeddings(9, 9, 4)
    z = problems.similarity("dense", 9, 9)
    share = reference.log_shares(z, ~torch.eye(9, dtype=torch.bool), 0.7).exp()
    target = torch.where(torch.eye(9, dtype=torch.bool), 1.0, share)
    wanted = torch.nn.BCELoss()(torch.softmax(query @ code.T, dim=1), target)
    assert torch.allclose(call("bce", query, code, z, impl=impl), wanted, rtol=1e-12)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [10.0, 40.0, 90.0, 99.0, 101.0, 500.0])
def test_bce_of_a_confident_mistake_is_exact_to_its_floor(impl, dtype, margin):
    # P of one negative rounds to 1; log(1 - P) = log(1 + exp(-1)) - margin for the three columns.
    query = torch.ones(1, 1, dtype=dtype, requires_grad=True)
    code = torch.tensor([[0.0], [margin], [-1.0]], dtype=dtype, requires_grad=True)
    z = torch.tensor([[0.0, 0.0, 0.0]], dtype=dtype)
    loss = call("bce", query, code, z, impl=impl)
    rest = math.log1p(math.exp(-1)) - margin  # log(1 - P) P, to rounding
    log_p = (-margin, 0.0, -1 - margin)
    total = max(-100, log_p[0]) + 0.5 * max(-100, rest) + 0.5 * max(-100, log_p[2])
    assert loss.item() == pytest.approx(-total / 3, rel=1e-5)
    gradient = torch.autograd.grad(loss, code)[0][:, 0]
    above = [float(value > -100) for value in (log_p[0], rest, log_p[2])]
    others = [1 / (1 + math.exp(-1)), 0.0, math.exp(-1) / (1 + math.exp(-1))]
    wanted = [
        -(above[0] + 0.5 * above[1] * others[0]) / 3,
        (above[0] + 0.5 * above[2] + 0.5 * above[1]) / 3,
        -(0.5 * above[2] + 0.5 * above[1] * others[2]) / 3,
    ]
    assert gradient.tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["kl", "weighted", "weighted_eps", "bce"])
def test_a_share_that_underflows_is_no_nan(impl, name):
    query, code = problems.embeddings(6, 6, 4, torch.float32)
    z = 1e4 * problems.similarity("dense", 6, 6, torch.float32)
    share = torch.softmax(z / 0.7, dim=1)
    assert (share * share.log()).isnan().any()  # as the published KL takes it
    got = run(name, impl, query, code, z)
    for part, wanted in zip(got, truth(name, query, code, z), strict=True):
        assert torch.isfinite(part).all()
        assert error(part, wanted) < 1e-5


@pytest.mark.parametrize("impl", IMPLS)
def test_top_k_drops_the_lower_column_of_equals(impl):
    query, code = problems.embeddings(1, 6, 4)
    z = torch.tensor([[9.0, 2.0, -0.0, 0.0, 2.0, 2.0]]).double()
    for k, left in [
        (0, [1, 2, 3, 4, 5]),
        (1, [2, 3, 4, 5]),
        (2, [2, 3, 5]),
        (3, [2, 3]),
        (4, [3]),
        (5, []),
        (10**400, []),
    ]:
        got = sx.top_k_cancellation(query, code, z, k=k, impl=impl)
        kept = code[[0, *left]]
        assert torch.allclose(got, reference.info_nce(query, kept), rtol=1e-13)
        gradient = torch.autograd.grad(got, code)[0]
        assert all(
            (column in [0, *left] and bool(left)) == bool(gradient[column].any())
            for column in range(6)
        )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_threshold_is_strict_to_the_last_bit(impl, dtype):
    query, code = (x.detach() for x in problems.embeddings(1, 4, 4, dtype))
    zero = torch.zeros((), dtype=dtype)
    for value in (0.1, 0.2, 0.3, 0.4, 0.5):  # 0.7 times them is rounded up, down or not
        own = torch.tensor(value, dtype=dtype)
        bound = float(own) * 0.7
        at = torch.tensor(bound, dtype=dtype)
        for z_1 in (at, torch.nextafter(at, zero), torch.nextafter(at, own)):
            z = torch.stack([own, z_1, zero, own])[None]
            left = [0, 1, 2] if float(z_1) < bound else [0, 2]
            got = sx.threshold_cancellation(query, code, z, ratio=0.7, impl=impl)
            assert torch.allclose(got, reference.info_nce(query, code[left]), rtol=1e-6)
    got = sx.threshold_cancellation(
        query, code, torch.ones(1, 4, dtype=dtype), ratio=0.5, impl=impl
    )
    assert got.item() == 0  # nothing is left


def without_text(n: int, m: int, known: list[int]) -> sx.BM25Factors:
    """One term in every query and in the documents `known`."""
    length = torch.zeros(m, dtype=torch.int64)
    length[known] = 5
    return sx.BM25Factors(
        torch.arange(n + 1),
        torch.zeros(n, dtype=torch.int32),
        torch.ones(n),
        torch.tensor([0, len(known)]),
        torch.tensor(known, dtype=torch.int32),
        torch.arange(1.0, len(known) + 1),
        length,
    )


@pytest.mark.parametrize("impl", IMPLS)
def test_codes_without_text_are_compared_with_nobody(impl):
    query, code = (x.detach() for x in problems.embeddings(4, 6, 3))
    plain = reference.info_nce(query, code)
    nothing = without_text(4, 6, [])
    for name in ("soft", "top_k", "threshold", "weighted"):
        assert torch.allclose(call(name, query, code, nothing, impl=impl), plain, rtol=1e-12)
    got = call("kl", query, code, nothing, impl=impl)
    assert torch.allclose(got, 1.3 * plain, rtol=1e-12)
    # Columns 4 and 5 alone have text: no positive has, so the threshold keeps all, and top-k drops
    # what it can.
    two = without_text(4, 6, [4, 5])
    got = sx.threshold_cancellation(query, code, two, ratio=-9.0, impl=impl)
    assert torch.allclose(got, plain, rtol=1e-12)
    got = sx.top_k_cancellation(query, code, two, k=1, impl=impl)
    assert torch.allclose(got, reference.info_nce(query, code[:5]), rtol=1e-12)
    got = sx.top_k_cancellation(query, code, two, k=9, impl=impl)
    assert torch.allclose(got, reference.info_nce(query, code[:4]), rtol=1e-12)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", FAMILY)
def test_a_row_without_negatives_has_nothing_to_learn(impl, name):
    query, code = problems.embeddings(2, 2, 4)
    groups = (torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    z = torch.full((2, 2), float("nan")).double()
    loss, *grads = run(name, impl, query, code, z, groups=groups, reduction="none")
    assert loss.abs().max() <= 1e-3  # eps
    assert all(not grad.any() for grad in grads)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", FAMILY)
def test_a_similarity_that_is_not_finite_is_named(impl, name):
    query, code = problems.embeddings(7, 9, 4, torch.float32)
    for value in (float("nan"), float("inf"), float("-inf")):
        z = problems.similarity("dense", 7, 9, torch.float32)
        z[3, 5] = value
        with pytest.raises(ValueError, match=r"similarity must be finite, got .* at \[3, 5\]"):
            call(name, query, code, z, impl=impl)
        z = problems.similarity("dense", 7, 9, torch.float32)
        z[2, 2] = value  # the positive's own
        if name == "threshold":
            with pytest.raises(ValueError, match=r"similarity must be finite, got .* at \[2, 2\]"):
                call(name, query, code, z, impl=impl)
        else:
            assert torch.isfinite(call(name, query, code, z, impl=impl))
        factors = without_text(7, 9, [0, 8])
        factors.weight[1] = value
        with pytest.raises(ValueError, match=r"similarity.weight must be finite, at \[1\]"):
            call(name, query, code, factors, impl=impl)
    factors = without_text(7, 9, [0, 8])
    factors.query_count.fill_(1e30)
    factors.weight.fill_(1e30)
    with pytest.raises(ValueError, match="similarity must be finite, got inf"):
        call(name, query, code, factors, impl=impl)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grouped", [False, True])
def test_the_search_for_what_is_not_finite_takes_a_block_at_a_time(kind, grouped, monkeypatch):
    monkeypatch.setattr(values, "_BLOCK_ROWS", 16)
    n, m = 160, 170
    similarity = problems.similarity(kind, n, m, torch.float32)
    groups = problems.duplicate_groups(n, m, 3) if grouped else None
    nan = torch.tensor(float("nan"))
    with Largest() as largest:  # whose NaN is of something else
        values.check_finite(nan, similarity, groups, 3, False)
    entries = max(map(len, similarity)) if kind == "factors" else 0
    assert largest.numel <= max(16 * m, entries) < n * m

    z = similarity
    if kind == "factors":  # one term of query 100 makes its products overflow
        similarity.query_count[similarity.query_indptr[100]] = 3e38
        similarity.weight.fill_(3e38)
        z = similarity.dense()
    elif kind == "teacher":
        similarity[0][100], similarity[1][70] = 1e20, 1e20
        z = similarity[0] @ similarity[1].T
    else:
        similarity[100, 70] = float("inf")
    allowed = ~torch.isfinite(z)
    columns = z.shape[1]
    allowed &= ~reference.positives(n, columns, 3, z.device)
    if groups is not None:
        allowed &= groups[0][:, None] != groups[1][None, :columns]
    if kind == "factors":
        allowed &= similarity.known(columns)
    row, column = allowed.nonzero()[0].tolist()
    with pytest.raises(ValueError, match=rf"finite, got inf at \[{row}, {column}\]"):
        values.check_finite(nan, similarity, groups, 3, False)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", FAMILY)
def test_a_nan_score_is_a_nan_loss_of_its_row_alone(impl, name):
    query, code = (x.detach() for x in problems.embeddings(7, 9, 4, torch.float32))
    query[3] = float("nan")
    z = problems.similarity("dense", 7, 9, torch.float32)
    rows = call(name, query, code, z, impl=impl, reduction="none")
    assert rows.isnan().tolist() == [i == 3 for i in range(7)]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", [*FAMILY, "info_nce"])
@pytest.mark.parametrize("left_out", ["masked", "all masked", "dropped"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_score_counts_in_a_column_that_is_left_out_too(impl, name, left_out, kind):
    query, code = problems.embeddings(3, 24, 4, torch.float32)
    with torch.no_grad():
        code[20] = float("nan")
    rule, groups, similarity = {}, None, problems.similarity(kind, 3, 24, torch.float32)
    if left_out != "dropped":  # its score and the gradient's product with 0 are NaN anyway
        groups = torch.zeros(3).long(), (torch.arange(24) == 7 * (left_out == "masked")).long()
        groups[1][0] = 0
    elif name == "soft":
        rule = {"alpha": 100.0, "beta": 0.5, "temperature": 0.01, "min_weight": 0.0}
        similarity = torch.zeros(3, 24)
        similarity[:, 20] = 1.0
    elif name == "top_k":
        rule = {"k": 30}
    elif name == "threshold":
        rule = {"ratio": -1e9} if kind != "factors" else {"ratio": 0.0}
    if name == "info_nce":
        loss = sx.info_nce(query, code, groups=groups, impl=impl, reduction="none")
        wanted = sx.reference.soft_info_nce(query, code, groups=groups, reduction="none", **RULE)
    else:
        function = FAMILY[name][0]
        options = {**FAMILY[name][1], **rule, "groups": groups, "reduction": "none"}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="beta")
            loss = getattr(sx, function)(query, code, similarity, impl=impl, **options)
        wanted = getattr(reference, function)(query, code, similarity, **options)
    assert loss.isnan().all() and wanted.isnan().all()
    assert torch.autograd.grad(loss.sum(), query)[0].isnan().all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", FAMILY)
def test_a_learnable_scale_and_frozen_sides(impl, name):
    query, code = problems.embeddings(5, 6, 4)
    similarity = problems.factors(5, 6)
    scale = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    got = call(name, query, code.detach(), similarity, scale=scale, impl=impl)
    wanted = call(name, query, code, similarity, scale=scale, module=reference)
    for leaf in (scale, query):
        a = torch.autograd.grad(got, leaf, retain_graph=True)[0]
        b = torch.autograd.grad(wanted, leaf, retain_graph=True)[0]
        assert torch.allclose(a, b, rtol=1e-10)
    with torch.inference_mode():
        assert not call(name, query, code, similarity, scale=scale, impl=impl).requires_grad


def change(factors, **parts):
    return factors._replace(**parts)


FACTORS = without_text(3, 5, [0, 2])
BAD = [
    ("top_k", {"k": -1}, ValueError, "k must be >= 0, got -1"),
    ("top_k", {"k": 2.0}, TypeError, "k must be an int, got float"),
    ("threshold", {"ratio": float("nan")}, ValueError, "ratio must be finite, got nan"),
    ("threshold", {"ratio": "0.5"}, TypeError, "ratio must be a number, got str"),
    ("bce", {"temperature": 0.0}, ValueError, "temperature must be > 0, got 0.0"),
    ("weighted", {"eps": -1.0}, ValueError, r"eps must be in \[0, 1\], got -1.0"),
    ("kl", {"kl_weight": -0.5}, ValueError, "kl_weight must be >= 0, got -0.5"),
    ("kl", {"info_nce_weight": True}, TypeError, "info_nce_weight must be a number, got bool"),
    ("bce", {"similarity": None}, TypeError, "similarity must be a Tensor .*, got NoneType"),
    ("bce", {"groups": torch.arange(3)}, TypeError, "groups must be None or"),
    (
        "bce",
        {"similarity": change(FACTORS, weight=torch.ones(2).double())},
        TypeError,
        "similarity.weight must be a Tensor of torch.float32, got torch.float64",
    ),
    (
        "bce",
        {"similarity": change(FACTORS, indptr=[0, 2])},
        TypeError,
        "similarity.indptr must be a Tensor of torch.int64, got list",
    ),
    (
        "bce",
        {"similarity": change(FACTORS, query_indptr=torch.arange(3))},
        ValueError,
        "similarity.query_indptr must have length 4, got 3",
    ),
    (
        "bce",
        {"similarity": change(FACTORS, query_count=torch.ones(4))},
        ValueError,
        "similarity.query_count must have length 3, got 4",
    ),
    (
        "bce",
        {"similarity": change(FACTORS, weight=torch.ones(4)[::2])},
        ValueError,
        "similarity.weight must be contiguous with one dimension",
    ),
    (
        "bce",
        {"similarity": change(FACTORS, document_length=torch.ones(6).long())},
        ValueError,
        "similarity.document_length must have at most 5 elements, one per code, got 6",
    ),
    (
        "bce",
        {"similarity": change(FACTORS, indptr=torch.zeros(0).long())},
        ValueError,
        "similarity.indptr must have at least one element",
    ),
    (
        "bce",
        {"similarity": change(FACTORS, weight=torch.ones(2, device="meta"))},
        ValueError,
        "similarity.weight must be on query's device cpu, got meta",
    ),
]


@pytest.mark.parametrize(("name", "change", "kind", "sentence"), BAD)
def test_bad_input_is_named_in_one_sentence(name, change, kind, sentence):
    function, rule = FAMILY[name]
    arguments = {"query": torch.randn(3, 4), "code": torch.randn(5, 4), "similarity": FACTORS}
    with pytest.raises(kind, match=sentence):
        getattr(sx, function)(**{**arguments, **rule, **change})


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("SoftInfoNCE", "soft"),
        ("TopKCancellation", "top_k"),
        ("ThresholdCancellation", "threshold"),
        ("BCE", "bce"),
        ("WeightedInfoNCE", "weighted_eps"),
        ("KLRegularizedInfoNCE", "kl"),
    ],
)
def test_modules_store_their_arguments_and_call_the_function(module, name):
    query, code = problems.embeddings(8, 8, 4)
    z = problems.similarity("dense", 8, 8)
    stored = getattr(sx, module)(**FAMILY[name][1], scale=2.0)
    assert torch.equal(stored(query, code, z), call(name, query, code, z, scale=2.0))
    assert torch.equal(stored(query, code, similarity=z), stored(query, code, z))
    with pytest.raises(TypeError, match="nothing"):
        getattr(sx, module)(**FAMILY[name][1], nothing=1)
    with pytest.raises(TypeError, match="missing"):
        getattr(sx, module)()


@pytest.mark.parametrize(
    ("module", "options", "kind", "sentence"),
    [
        ("TopKCancellation", {"k": -1}, ValueError, "k must be >= 0, got -1"),
        ("TopKCancellation", {"k": 1.5}, TypeError, "k must be an int, got float"),
        ("ThresholdCancellation", {"ratio": "0.5"}, TypeError, "ratio must be a number, got str"),
        ("SoftInfoNCE", {**RULE, "alpha": math.nan}, ValueError, "alpha must be finite, got nan"),
        ("SoftInfoNCE", {**RULE, "min_weight": 2}, ValueError, r"min_weight must be in \[0, 1\]"),
        ("WeightedInfoNCE", {"temperature": 1, "eps": -1}, ValueError, r"eps must be in \[0, 1\]"),
        ("BCE", {"temperature": 0}, ValueError, "temperature must be > 0, got 0"),
        ("BCE", {"temperature": 1, "reduction": "avg"}, ValueError, "reduction must be one of"),
        ("BCE", {"temperature": 1, "impl": "cuda"}, ValueError, "impl must be one of"),
        (
            "BCE",
            {"temperature": 1, "positive_offset": -1},
            ValueError,
            "positive_offset must be >=",
        ),
        ("BCE", {"temperature": 1, "scale": None}, TypeError, "scale must be a number, got None"),
        (
            "BCE",
            {"temperature": 1, "scale": torch.ones(2)},
            ValueError,
            "scale must be a number or",
        ),
        (
            "KLRegularizedInfoNCE",
            {"temperature": 1, "kl_weight": -1},
            ValueError,
            "kl_weight must be >= 0, got -1",
        ),
    ],
)
def test_a_module_refuses_at_once_what_no_batch_could_make_right(module, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        getattr(sx, module)(**options)
