"""The host's CUDA (csrc/testing/host_cuda) finds in toy kernels what it is there to find."""

from __future__ import annotations

import subprocess
import sys

import bridge
import numpy as np
import pytest
import torch
from bridge import ORDERS, run_kernel, tsan_driver

FULL_WARP = np.arange(32)


def sums(kernel, order):
    values = np.linspace(0.5, 3, 4 * 96, dtype=np.float32)
    out = np.zeros(4, np.float32)
    run_kernel(kernel, {"in": values, "out": out}, grid=4, block=96, shared_bytes=12, order=order)
    wanted = values.reshape(4, 96).sum(1, dtype=np.float64)
    return np.abs(out - wanted).max()  # NaN where shared memory was read that nobody wrote


@pytest.mark.parametrize("order", ORDERS)
def test_reduction_of_a_block_is_right_in_every_order(order):
    assert sums("sum", order) < 1e-3


@pytest.mark.parametrize("which", ["first", "second", "third"])
def test_missing_barrier_is_found_by_some_order(which):
    kernel = f"sum_without_{which}_barrier"
    assert any(not sums(kernel, order) < 1e-3 for order in ORDERS[:2])


def test_missing_syncwarp_is_found_by_some_order():
    def run(kernel, order):
        out = np.zeros(64, np.int32)
        run_kernel(kernel, {"out": out}, block=64, shared_bytes=256, order=order)
        return (out == np.arange(64) // 32 * 32 + (np.arange(64) + 1) % 32).all()

    assert all(run("rotate", order) for order in ORDERS)
    assert not all(run("rotate_without_sync", order) for order in ORDERS[:2])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cluster", [1, 2, 4])
@pytest.mark.parametrize("kernel", ["cluster", "split_cluster"])
def test_blocks_of_a_cluster_read_one_anothers_shared_memory(order, cluster, kernel):
    out = np.zeros((8, 48), np.int32)
    run_kernel(
        kernel, {"out": out}, grid=8, block=48, cluster=cluster, shared_bytes=192, order=order
    )
    block = np.arange(8)
    other = block // cluster * cluster + (block + 1) % cluster
    assert (out == other[:, None] * 1000 + np.arange(48)).all()


def test_launch_of_much_shared_memory_must_ask_for_it():
    out = np.zeros((4, 48), np.int32)
    with pytest.raises(RuntimeError, match="65536 bytes of shared memory"):
        run_kernel("configured", {"out": out}, asks=False)
    run_kernel("configured", {"out": out}, asks=True)
    assert (out == np.array([1, 0, 3, 2])[:, None] * 1000 + np.arange(48)).all()


@pytest.mark.parametrize("order", ORDERS[:2])
@pytest.mark.parametrize("which", ["first", "last"])
def test_missing_cluster_barrier_is_found(order, which):
    with pytest.raises(RuntimeError, match=r"a read of byte .* of its cluster's block . .*closed"):
        run_kernel(
            f"cluster_without_{which}_sync",
            {"out": np.zeros(96, np.int32)},
            grid=2,
            block=48,
            cluster=2,
            shared_bytes=192,
            order=order,
        )


def grid_sums(kernel, order, grid, block):
    out, scratch = np.zeros(grid, np.int32), np.full(grid, -1, np.int32)
    arrays = {"out": out, "scratch": scratch}
    run_kernel(kernel, arrays, grid=grid, block=block, cooperative=True, order=order)
    return (out == grid * (grid + 1) // 2).all()


@pytest.mark.parametrize("order", ORDERS)
def test_grid_barrier_waits_for_every_block(order):
    assert grid_sums("grid", order, 5, 64)
    assert not grid_sums("grid_without_sync", order, 5, 64)


def test_many_blocks_can_be_live_at_once():
    assert grid_sums("grid", ORDERS[0], 64, 256)


@pytest.mark.parametrize("order", ORDERS)
def test_last_block_and_a_waiting_thread_see_what_others_wrote(order):
    arrays = {"out": np.zeros(1, np.int32), "scratch": np.zeros(9, np.int64)}
    arrays["counter"] = np.zeros(1, np.uint32)
    run_kernel("last_block", arrays, grid=9, order=order)
    assert arrays["out"] == 45
    arrays = {"out": np.zeros(1, np.int32), "flag": np.zeros(1, np.int32)}
    run_kernel("flag", arrays, grid=2, cooperative=True, order=order)
    assert arrays["out"] == 1


def test_atomics_count():
    values = np.random.default_rng(0).integers(0, 4, 3 * 64, dtype=np.int32)
    out = np.zeros(4, np.int32)
    run_kernel("count", {"in": values, "out": out}, grid=3, block=64, shared_bytes=16)
    assert (out == np.bincount(values, minlength=4)).all()


def test_threads_know_where_they_are():
    out = np.zeros(2 * 3 * 4 * 5 * 6, np.int32)
    run_kernel("place", {"out": out}, grid=(2, 3, 4), block=(5, 6, 1))
    assert (out == np.arange(out.size)).all()


# Bytes asked for, and an int's index beyond them: at a guard page, and in the slack below it.
@pytest.mark.parametrize("index, bytes_", [(4, 16), (4, 17), (3, 12), (1024, 4096), (-1, 4096)])
def test_write_beside_shared_memory_is_found(index, bytes_):
    place = rf"a write to byte \S+ of shared memory \({bytes_} bytes\)"
    with pytest.raises(RuntimeError, match=rf"block \(0, 0, 0\).*: {place}"):
        run_kernel("write_shared", {}, shared_bytes=bytes_, index=index)
    run_kernel("write_shared", {}, shared_bytes=bytes_, index=bytes_ // 4 - 1)


def test_read_beside_shared_memory_is_found():
    out = np.zeros(32, np.float32)
    run_kernel("read_shared", {"out": out}, shared_bytes=64, index=15)
    with pytest.raises(RuntimeError, match=r"thread \(0, 0, 0\): a\w* \w+ \w+ byte 64 of shared"):
        run_kernel("read_shared", {"out": out}, shared_bytes=64, index=16)


def test_each_block_finds_its_shared_memory_poisoned():
    out = np.zeros(3 * 32, np.float32)
    run_kernel("leftover", {"out": out}, grid=3, shared_bytes=128)
    assert np.isnan(out).all()


@pytest.mark.parametrize("index", [-1, 10, 12, 1 << 19])
def test_write_beside_an_array_is_found(index):
    with pytest.raises(RuntimeError, match=r"a write to byte \S+ of out \(40 bytes\)"):
        run_kernel("write_global", {"out": np.zeros(10, np.int32)}, index=index)


@pytest.mark.parametrize("kernel", ["load16", "load16_hint"])
def test_misaligned_16_byte_load_is_found(kernel):
    values = np.arange(64, dtype=np.float32)
    out = np.zeros(15, np.float32)
    run_kernel(kernel, {"in": values, "out": out}, block=15, first=4)
    assert (out == values[4:].reshape(15, 4).sum(1)).all()
    if kernel == "load16" and bridge.kernels().compiler == "clang":
        pytest.skip("clang's -fsanitize=alignment does not look at copies of a whole vector")
    where = "" if kernel == "load16_hint" else r".*float4.*16 bytes \(toy_faults.cuh:"
    with pytest.raises(RuntimeError, match=rf"thread \(0, 0, 0\): misaligned address{where}"):
        run_kernel(kernel, {"in": values, "out": out}, block=15, first=1)


DIVERGENCES = {
    0: r"thread \(0, 0, 0\) waits at __syncthreads .*thread \(40, 0, 0\) has ended",
    1: r"waits at __syncthreads .*thread \(40, 0, 0\) waits at __syncthreads_or ",
    2: r"waits at __syncthreads .*thread \(40, 0, 0\) waits at __syncthreads ",
    3: r"waits at __shfl_sync .* 0xffffffff.*thread \(40, 0, 0\) waits at __syncwarp ",
    4: r"waits at __shfl_sync .* 0x0000ffff, which leaves out its own lane",
    5: r"reads lane 7, which is not in it",
    6: r"a thread waits in __nanosleep for what no other thread does",
    7: r"grid_group::sync .*in a launch that is not cooperative",
    8: r"arrives at __cluster_barrier_arrive .* and has not waited since it did",
    9: r"waits at __cluster_barrier_wait .* and has not arrived",
    10: r"waits at cluster_group::sync .*thread \(40, 0, 0\) has ended",
    11: r"arrives at cluster_group::sync .*another of its cluster at cluster_group::sync",
}


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("order", ORDERS[:3])
def test_threads_that_do_not_meet_are_named(kind, order):
    pattern = DIVERGENCES[kind]
    if order != ORDERS[0]:  # another thread may be the first to be found
        pattern = pattern.replace(r"\(0, 0, 0\)", ".*").replace(r"\(40, 0, 0\)", ".*")
        pattern = pattern if kind != 5 else r"reads lane 7, which is not in it"
    with pytest.raises(RuntimeError, match=pattern):
        run_kernel("divergent", {}, block=96, kind=kind, order=order)


def test_stack_too_small_is_found_and_the_next_launch_runs():
    with pytest.raises(RuntimeError, match="its stack has overflown"):
        run_kernel("deep", {"out": np.zeros(1, np.int32)}, block=64)
    assert sums("sum", ORDERS[0]) < 1e-3


@pytest.mark.parametrize("shape", [{"block": 1025}, {"block": 0}, {"grid": 0}, {"cluster": 3},
                                   {"shared_bytes": 232_449}])  # fmt: skip
def test_launch_a_gpu_would_refuse_is_refused(shape):
    with pytest.raises(RuntimeError, match="launch: "):
        run_kernel("write_shared", {}, **({"grid": 4, "shared_bytes": 64} | shape), index=0)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("order", ORDERS[:3])
def test_shuffles_give_each_lane_its_value(dtype, order):
    values = (np.random.default_rng(0).uniform(-1, 1, 32) * 2**30).astype(dtype)
    out = np.zeros((6, 32), dtype)
    run_kernel(f"shuffle_{np.dtype(dtype)}", {"in": values, "out": out}, order=order)
    lane = FULL_WARP
    sources = [
        lane ^ 5,
        np.full(32, 7),
        lane // 8 * 8 + 3,
        np.where(lane + 3 < 32, lane + 3, lane),
        np.where(lane % 16 >= 3, lane - 3, lane),
        lane ^ 8,
    ]
    assert (out == values[np.array(sources)]).all()


@pytest.mark.parametrize("values", [np.zeros(64), np.ones(64), np.arange(64) % 3])
def test_votes_count_every_thread(values):
    values = values.astype(np.int32)
    out = np.zeros((6, 64), np.int32)
    run_kernel("vote", {"in": values, "out": out}, block=64)
    true = values != 0
    ballot = (true.reshape(2, 32) << FULL_WARP).sum(1).astype(np.uint32).view(np.int32)
    assert (out[0] == np.repeat(ballot, 32)).all()
    assert (out[1] == np.repeat(true.reshape(2, 32).any(1), 32)).all()
    assert (out[2] == np.repeat(true.reshape(2, 32).all(1), 32)).all()
    assert (out[3] == true.sum()).all()
    assert (out[4] == true.any()).all()
    assert (out[5] == true.all()).all()


def apply(kernel, values, dtype):
    out = np.zeros(values.size, dtype)
    run_kernel(kernel, {"in": values, "out": out})
    return out


@pytest.mark.parametrize("name, dtype", [("half", torch.float16), ("bfloat16", torch.bfloat16)])
def test_conversions_equal_torch_bit_for_bit(name, dtype):
    every = np.arange(1 << 16, dtype=np.uint16)
    widened = torch.from_numpy(every.view(np.int16)).view(dtype).float().numpy()
    got = apply(f"{name}_to_float", every, np.float32)
    same = got.view(np.uint32) == widened.view(np.uint32)
    assert (same | (np.isnan(got) & np.isnan(widened))).all()

    # Random bits; every value with its neighbours, and what lies halfway to the next, and beside.
    random = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    finite = widened[np.isfinite(widened)].astype(np.float64)
    halfway = ((np.sort(finite)[1:] + np.sort(finite)[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(halfway, np.float32(side)) for side in (-np.inf, np.inf)]
    ends = np.array([65519.99, 65520, 3.3961775e38, 3.4e38, np.inf, np.nan], np.float32)
    values = [random.view(np.float32), halfway, *beside, widened, ends, -ends]
    values = np.concatenate(values)
    got = apply(f"float_to_{name}", values, np.uint16)
    wanted = torch.from_numpy(values).to(dtype).view(torch.int16).numpy().view(np.uint16)
    nan = np.isnan(values)
    assert (got[~nan] == wanted[~nan]).all()
    assert (got[nan] == 0x7FFF).all()  # PTX's NaN, where torch's on the CPU is another


def test_fast_mathematics_is_as_good_as_cudas():
    values = np.random.default_rng(0).uniform(-80, 80, 10_000).astype(np.float32)
    wanted = np.exp(values.astype(np.float64))
    bound = (2 + np.floor(np.abs(1.173 * values))) * 2.0**-23  # CUDA Math API, __expf
    assert (np.abs(apply("expf", values, np.float32) / wanted - 1) <= bound).all()
    assert apply("expf", np.array([-np.inf, -1e4, np.nan], np.float32), np.float32)[:2].max() == 0
    positive = np.abs(values[values != 0])
    error = np.abs(apply("logf", positive, np.float32) - np.log(positive.astype(np.float64)))
    assert (error <= np.where((positive > 0.5) & (positive < 2), 2.0**-21.41, 1e-6)).all()
    reciprocal = apply("reciprocal", np.array([4, 2.0**127, np.inf], np.float32), np.float32)
    assert (reciprocal == [0.25, 0, 0]).all()


TSAN = {
    "sum": "grid=2 block=96 shared_bytes=12 in:f4:192 out:f4:2",
    "rotate": "block=64 shared_bytes=256 out:i4:64",
    "cluster": "grid=4 cluster=2 block=48 shared_bytes=192 out:i4:192",
    "split_cluster": "grid=4 cluster=2 block=48 shared_bytes=192 out:i4:192",
    "grid": "grid=4 cooperative=1 block=32 scratch:i4:4 out:i4:4",
    "last_block": "grid=4 cooperative=1 block=32 scratch:i8:4 out:i4:1 counter:i4:1",
    "flag": "grid=2 cooperative=1 block=32 flag:i4:1 out:i4:1",
    "count": "grid=2 block=64 shared_bytes=16 in:i4:128 out:i4:4",
    "vote": "block=64 in:i4:64 out:i4:384",
    "shuffle_float32": "block=32 in:f4:32 out:f4:192",
}
RACES = [
    "sum_without_first_barrier",
    "sum_without_second_barrier",
    "sum_without_third_barrier",
    "rotate_without_sync",
    "cluster_without_first_sync",
    "grid_without_sync",
    "last_block_without_fence",
]


@pytest.mark.skipif(sys.platform != "linux", reason="ThreadSanitizer's runtime is tried on Linux")
@pytest.mark.parametrize("kernel", [*TSAN, *RACES])
def test_thread_sanitizer_finds_races_and_only_races(kernel):
    words = TSAN[kernel.split("_without")[0]].split()
    done = subprocess.run([*tsan_driver(), kernel, *words], capture_output=True, text=True)
    assert done.returncode == (66 if kernel in RACES else 0), done.stderr[-2000:]
    assert ("WARNING: ThreadSanitizer: data race" in done.stderr) == (kernel in RACES)
    assert "done" in done.stdout
