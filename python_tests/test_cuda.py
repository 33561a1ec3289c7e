"""The CUDA kernels on a GPU, against the oracle in float64; FAIL_WITHOUT_CUDA=1 forbids a skip."""

from __future__ import annotations

import problems
import pytest
import torch
from gpu import DEVICE, HALVES, eager, inputs, native, on_device, op_arguments, small_inputs, truth
from problems import RULE, SHAPES, SIMILARITIES, error

import softnce_ext as sx
from softnce_ext import reference

# What owns a row, and where it lies, changes between these (csrc/cuda/plan.h): a warp, a block, and
# on sm_90 clusters of 2, 4 and 8 blocks; no cluster holds the last.
COLUMNS = [300, 1025, 5000, 16_384, 16_385, 40_000, 130_000, 500_000]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_and_gradients_equal_the_reference_in_float64(shape, kind, grouped, reduction):
    n, m, d = shape
    offset = (m - n) // 2
    query, code, similarity = inputs(n, m, d, torch.float64, kind)
    groups = on_device(problems.duplicate_groups(n, m, offset)) if grouped else None
    options = {"scale": 1.3, "positive_offset": offset, "groups": groups, "reduction": reduction}
    got = native(query, code, similarity, **options)
    for part, expected in zip(got, truth(query, code, similarity, **options), strict=True):
        assert part.dtype == torch.float64
        assert torch.allclose(part, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("shape", [(65, 130, 96), (127, 1025, 33)])
def test_error_is_no_larger_than_eager_in_the_same_type(dtype, kind, scale, reduction, shape):
    query, code, similarity = inputs(*shape, dtype, kind, dtype)
    options = {"scale": scale, "positive_offset": 3, "reduction": reduction}
    wanted = truth(query, code, similarity, **options)
    got = native(query, code, similarity, **options)
    plain = eager(query, code, similarity, **options)
    assert got[0].dtype == torch.float32
    assert got[1].dtype == got[2].dtype == dtype
    rounding = torch.finfo(dtype).eps / 2  # a half gradient's own, which neither side can help
    for part, base, expected in zip(got, plain, wanted, strict=True):
        slack = 1e-6 if part.dtype == torch.float32 else rounding
        assert error(part, expected) <= error(base, expected) + slack


@pytest.mark.parametrize("similarity_type", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("layout", ["plain", "aligned", "shifted", "odd", "transposed"])
@pytest.mark.parametrize("columns", [37, 40, 2056])
@pytest.mark.parametrize("width", [13, 16])
def test_similarities_are_read_in_their_own_type_and_layout(
    similarity_type, layout, columns, width
):
    """Width 16 takes the small batch's kernel where the columns allow it."""
    query, code, z = inputs(9, columns, width, torch.float32, "dense", similarity_type)
    if layout == "transposed":
        z = z.T.contiguous().T
    elif layout != "plain":  # a window into a wider matrix
        begin, stride = {"aligned": (8, 64), "shifted": (5, 64), "odd": (8, 63)}[layout]
        wide = torch.full((9, columns + stride), float("nan"), dtype=z.dtype, device=DEVICE)
        wide[:, begin : begin + columns] = z
        z = wide[:, begin : begin + columns]
    got, wanted = native(query, code, z), truth(query, code, z)
    assert error(got[0], wanted[0]) <= 2e-6
    assert max(error(got[1], wanted[1]), error(got[2], wanted[2])) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("columns", COLUMNS)
def test_every_row_length_and_place_of_a_row(dtype, kind, grouped, columns):
    n, offset = 3, 7
    query, code, similarity = inputs(n, columns, 16, dtype, kind, dtype)
    groups = on_device(problems.duplicate_groups(n, columns, offset)) if grouped else None
    options = {"scale": 10.0, "positive_offset": offset, "groups": groups}
    got = native(query, code, similarity, **options)
    wanted = truth(query, code, similarity, **options)
    # fp32 products over half a million columns round as often.
    gradient_error = {torch.float64: 1e-9, torch.float32: 5e-5}.get(dtype, 1e-2)
    assert error(got[0], wanted[0]) <= (1e-12 if dtype == torch.float64 else 2e-6)
    assert max(error(got[1], wanted[1]), error(got[2], wanted[2])) <= gradient_error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("block_rows", [1, 17, 64])
def test_result_does_not_depend_on_the_block(dtype, kind, block_rows):
    query, code, similarity = inputs(65, 90, 24, dtype, kind, torch.float32)
    op = torch.ops.softnce_ext.soft_info_nce
    whole = op(*op_arguments(query, code, similarity, 65), True, True, True)
    parts = op(*op_arguments(query, code, similarity, block_rows), True, True, True)
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 8e-3}.get(dtype, 2e-5)
    for part, expected in zip(parts, whole, strict=True):
        assert part.dtype == expected.dtype
        assert error(part, expected.double()) <= tolerance


@pytest.mark.parametrize("need_query", [False, True])
@pytest.mark.parametrize("need_code", [False, True])
def test_gradients_not_asked_for_come_back_empty(need_query, need_code):
    query, code, _ = inputs(5, 9, 8, torch.bfloat16, "none")
    op = torch.ops.softnce_ext.soft_info_nce
    for block_rows in (0, 2):
        arguments = op_arguments(query, code, None, block_rows)
        _, grad_query, grad_code = op(*arguments, False, need_query, need_code)
        assert grad_query.shape == (5 if need_query else 0, 8)
        assert grad_code.shape == (9 if need_code else 0, 8)


def test_fp16_gradients_keep_what_fp16_cannot_hold():
    """A probability of 1e-7 in a small mean; rows that weigh from 1e-4 to a GradScaler's 1e5."""
    n = 1000  # rows with a positive of score 16 and one negative of score 0; the others are masked
    query = torch.eye(8, dtype=torch.float16, device=DEVICE)[0].repeat(n, 1)
    code = torch.cat([query, torch.eye(8, dtype=torch.float16, device=DEVICE)[1:2]])
    code_groups = torch.zeros(n + 1, dtype=torch.int64, device=DEVICE)
    code_groups[n] = 1
    groups = (code_groups[:n], code_groups)
    probability = 1 / (1 + torch.tensor(16.0, dtype=torch.float64).exp())
    op = torch.ops.softnce_ext.soft_info_nce
    for block_rows in (0, n):
        arguments = op_arguments(query, code, None, block_rows, 0, 16.0, groups)
        _, _, grad_code = op(*arguments, True, True, True)
        assert error(grad_code[n, :1].cpu(), 16 * probability) <= 1e-3
        assert error(grad_code[:n, 0].cpu(), -16 * probability / n) <= 1e-3

    query, code, _ = inputs(300, 400, 32, torch.float16, "none")
    q, c = problems.as_double(query), problems.as_double(code)
    loss = reference.soft_info_nce(q, c, None, **RULE, scale=20.0, reduction="none")
    row_weights = torch.logspace(-4, 5, 300, device=DEVICE)
    wanted_query, wanted_code = torch.autograd.grad(loss @ row_weights.double(), (q, c))
    arguments = op_arguments(query, code, None, 0, positive_offset=0)
    backward = torch.ops.softnce_ext.soft_info_nce_rows_backward
    grad_query, grad_code = backward(*arguments, row_weights, True, True)
    for row in (0, 100, 299):  # each row held to its own size
        assert error(grad_query[row], wanted_query[row]) <= 2e-3
    assert error(grad_code, wanted_code) <= 2e-3


@pytest.mark.parametrize("eps", [1e-15, 1e-3])
def test_eps(eps):
    query, code, z = inputs(33, 40, 24, torch.float64, "dense")
    got, wanted = native(query, code, z, eps=eps), truth(query, code, z, eps=eps)
    for part, expected in zip(got, wanted, strict=True):
        assert torch.allclose(part, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_bad_similarity_of_a_negative_makes_its_row_nan(dtype, bad):
    query, code, z = inputs(6, 8, 16, dtype, "dense", torch.float32)
    z[2, 5] = bad
    loss, grad_query, _ = native(query, code, z, reduction="none")
    assert loss.isnan().tolist() == [row == 2 for row in range(6)]
    assert grad_query.isnan().all(dim=1).tolist() == [row == 2 for row in range(6)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_similarity_of_no_negative_is_not_looked_at(bad):
    query, code, z = inputs(6, 8, 16, torch.float32, "dense", torch.float32)
    groups = (torch.arange(6, device=DEVICE), torch.arange(8, device=DEVICE) % 7)
    expected = native(query, code, z, groups=groups)
    z[torch.arange(6), torch.arange(6)] = bad  # the positives
    z[0, 7] = bad  # code 7 is of query 0's group
    for part, wanted in zip(native(query, code, z, groups=groups), expected, strict=True):
        assert torch.equal(part, wanted)


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_nan_score_makes_its_row_nan(kind):
    query, code, similarity = inputs(6, 8, 16, torch.float32, kind, torch.float32)
    query = query.detach().clone().index_fill_(0, torch.tensor([3], device=DEVICE), float("nan"))
    loss, *_ = native(query.requires_grad_(), code, similarity, reduction="none")
    assert loss.isnan().tolist() == [row == 3 for row in range(6)]


def test_row_without_negatives_learns_nothing():
    query, code, z = inputs(4, 4, 8, torch.float32, "dense", torch.float32)
    same = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    for part in native(query, code, z, groups=(same, same)):
        assert torch.equal(part, torch.zeros_like(part))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_repeats_are_bitwise_equal(dtype, reduction):
    query, code, similarity = inputs(700, 900, 64, dtype, "teacher", dtype)
    first = native(query, code, similarity, scale=20.0, reduction=reduction)
    for _ in range(5):
        again = native(query, code, similarity, scale=20.0, reduction=reduction)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_runs_on_the_current_stream():
    query, code, z = inputs(64, 64, 32, torch.float32, "dense", torch.float32)
    expected = native(query, code, z)
    stream = torch.cuda.Stream()
    late = [torch.zeros_like(x) for x in (query, code, z)]
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # about 0.1 s: on any other stream the inputs are still zero
        for target, source in zip(late, (query, code, z), strict=True):
            target.copy_(source.detach())
        got = native(late[0].requires_grad_(), late[1].requires_grad_(), late[2])
    stream.synchronize()
    for part, wanted in zip(got, expected, strict=True):
        assert torch.equal(part, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("width", [31, 32])  # the composed path, and the small batch's kernel
def test_can_be_captured_in_a_cuda_graph(dtype, reduction, width):
    query, code, similarity = small_inputs(64, 96, width, dtype, "teacher")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # warm-up, as torch asks before a capture
        for _ in range(3):
            native(query, code, similarity, reduction=reduction)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = native(query, code, similarity, reduction=reduction)
    with torch.no_grad():  # new values in the same memory
        query.copy_(query.flip(0).clone())
        code.copy_(code.roll(5, 0).clone())
    graph.replay()
    expected = native(query, code, similarity, reduction=reduction)
    torch.cuda.synchronize()
    for part, wanted in zip(captured, expected, strict=True):
        assert error(part, wanted.double()) <= (1e-5 if dtype == torch.float32 else 8e-3)


def test_nothing_waits_for_the_gpu():
    query, code, z = inputs(64, 96, 32, torch.bfloat16, "dense", torch.float32)
    native(query, code, z)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for reduction in ("mean", "none"):
            sx.soft_info_nce(
                query, code, z, impl="native", reduction=reduction, **RULE
            ).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_beside_inputs_and_gradients_is_one_block():
    n, d = 12_288, 64
    query, code, _ = inputs(n, n, d, torch.float32, "none")
    few = op_arguments(query[:64], code[:64], None, 64, 0)  # by cuBLAS, whose workspace
    torch.ops.softnce_ext.soft_info_nce(*few, True, True, True)  # is then there
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    native(query, code, None)
    block, gradients = 4 * 4096 * n, 2 * 4 * n * d
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * block + 4 * gradients


def test_blocks_shrink_where_memory_does_not_suffice():
    n = 8192
    query, code, _ = inputs(n, n, 16, torch.float32, "none")
    op = torch.ops.softnce_ext.soft_info_nce
    expected = op(*op_arguments(query, code, None, 0, 0), True, True, True)
    torch.cuda.empty_cache()
    free = 96 * 2**20  # a block of 2,048 rows and the outputs, but not one of 4,096
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + free) / total)
    try:
        got = op(*op_arguments(query, code, None, 0, 0), True, True, True)
        with pytest.raises(
            RuntimeError, match="no memory for a block of 8192 rows.*fewer would fit"
        ):
            op(*op_arguments(query, code, None, n, 0), True, True, True)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for part, wanted in zip(got, expected, strict=True):
        assert error(part, wanted.double()) <= 2e-5


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_casts_the_vectors_and_keeps_the_loss_in_fp32(dtype):
    query, code, similarity = inputs(33, 40, 24, torch.float32, "teacher", torch.float32)
    halves = [x.detach().to(dtype).requires_grad_() for x in (query, code)]
    teacher = tuple(x.to(dtype) for x in similarity)
    with torch.autocast(DEVICE, dtype=dtype):
        loss = sx.soft_info_nce(query, code, similarity, impl="native", **RULE)
    expected = sx.soft_info_nce(*halves, teacher, impl="native", **RULE)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    loss.backward()
    assert query.grad.dtype == torch.float32


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU: no other device to run on")
def test_runs_on_the_inputs_device():
    query, code, z = inputs(64, 64, 32, torch.float32, "dense", torch.float32)
    expected = native(query, code, z)
    query, code, z = (x.detach().to("cuda:1") for x in (query, code, z))
    got = native(query.requires_grad_(), code.requires_grad_(), z)
    assert torch.cuda.current_device() == 0
    for part, wanted in zip(got, expected, strict=True):
        assert error(part.cpu(), wanted.double().cpu()) <= 1e-6
