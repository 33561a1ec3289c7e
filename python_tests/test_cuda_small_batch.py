"""The small batch's one launch on a GPU, against the composed path and the oracle."""

from __future__ import annotations

import problems
import pytest
import torch
from gpu import HALVES, on_device, op_arguments, small_inputs, truth
from problems import error

# N, M, D: the smallest, tiles that are not whole, and both sizes of tile; M = 1536 is the most.
SMALL = [(1, 1, 8), (5, 9, 16), (64, 64, 768), (65, 130, 96), (512, 512, 768), (900, 1536, 64)]


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("kind", ["none", "dense", "teacher", "factors"])
@pytest.mark.parametrize("shape", SMALL)
@pytest.mark.parametrize("grouped", [False, True])
def test_small_batch_equals_the_composed_path(dtype, kind, shape, grouped):
    n, m, d = shape
    offset = (m - n) // 2
    query, code, similarity = small_inputs(*shape, dtype, kind)
    groups = on_device(problems.duplicate_groups(n, m, offset)) if grouped else None
    op = torch.ops.softnce_ext.soft_info_nce
    one, composed = (
        op(*op_arguments(query, code, similarity, b, offset, 20.0, groups), True, True, True)
        for b in (0, n)
    )
    # Scores of different orders of summation, exponentiated; G is rounded once on both sides.
    tolerance = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    assert error(one[0], composed[0].double()) <= 5e-6
    for part, expected in zip(one[1:], composed[1:], strict=True):
        assert part.dtype == expected.dtype
        assert error(part, expected.double()) <= tolerance


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("kind", ["none", "dense", "teacher", "factors"])
def test_small_batch_errs_no_more_than_the_composed_path(dtype, kind):
    shape = (100, 140, 96)
    query, code, similarity = small_inputs(*shape, dtype, kind)
    options = {"scale": 100.0, "positive_offset": 2, "reduction": "mean"}
    wanted = truth(query, code, similarity, **options)
    op = torch.ops.softnce_ext.soft_info_nce
    one, composed = (
        op(*op_arguments(query, code, similarity, b, scale=100.0), True, True, True)
        for b in (0, shape[0])
    )
    rounding = torch.finfo(dtype).eps
    for part, base, expected in zip(one, composed, wanted, strict=True):
        slack = 2e-6 if dtype == torch.float32 or part.dim() == 0 else rounding
        assert error(part, expected) <= error(base, expected) + slack


def kernels_of(call_op, tmp_path):
    """Capture a call in a CUDA graph and return its nodes as text."""
    call_op()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    graph.enable_debug_mode()
    with torch.cuda.graph(graph):
        call_op()
    path = tmp_path / "graph.dot"
    graph.debug_dump(str(path))
    return path.read_text()


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_small_batch_is_one_kernel(dtype, tmp_path):
    query, code, similarity = small_inputs(64, 64, 768, dtype, "teacher")
    op = torch.ops.softnce_ext.soft_info_nce
    arguments = [op_arguments(query, code, similarity, b, 0) for b in (0, 64)]
    one, composed = (kernels_of(lambda a=a: op(*a, True, True, True), tmp_path) for a in arguments)
    assert "fused_step_kernel" in one and "row_kernel" not in one and "gemm" not in one.lower()
    assert "row_kernel" in composed and "fused_step_kernel" not in composed


def test_small_batch_repeats_are_bitwise_equal():
    query, code, similarity = small_inputs(500, 510, 256, torch.bfloat16, "teacher")
    op = torch.ops.softnce_ext.soft_info_nce
    first = op(*op_arguments(query, code, similarity, 0), True, True, True)
    for _ in range(30):
        again = op(*op_arguments(query, code, similarity, 0), True, True, True)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_small_batches_on_several_streams_do_not_meet():
    """Each launch has a grid barrier of its own."""
    op = torch.ops.softnce_ext.soft_info_nce
    batches = [
        op_arguments(*small_inputs(64, 64, 64, torch.bfloat16, "dense"), 0, 0) for _ in range(4)
    ]
    expected = [op(*batch, True, True, True) for batch in batches]
    streams = [torch.cuda.Stream() for _ in batches]
    torch.cuda.synchronize()
    got = []
    for _ in range(50):
        for stream, batch in zip(streams, batches, strict=True):
            with torch.cuda.stream(stream):
                got.append(op(*batch, True, True, True))
    torch.cuda.synchronize()
    for index, outputs in enumerate(got):
        for part, wanted in zip(outputs, expected[index % 4], strict=True):
            assert torch.equal(part, wanted)
