"""Time and memory of callables: in turn, round after round, on the CPU or on a CUDA device.

A sample is the seconds of one call: on the CPU the wall time over calls that last 50 ms together;
on CUDA the GPU's time, under the replay of a CUDA graph where the call can be captured, else
between two events, and the wall time of the plain Python calls beside it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], Any]
Sample = Callable[[], float]

ROUND_S = 0.05  # a round of one contender lasts at least this long
LONG_S = 0.2  # a call of that length is its own round
# A graph holds calls enough that its launch, some microseconds, does not show.
GRAPH_S, GRAPH_CALLS = 2e-3, 20
SLEEP_HZ = 2.0e9  # torch.cuda._sleep counts the multiprocessor's cycles
SLEEP_MOST_S = 0.2


@dataclass
class Clock:
    """How a contender is timed.

    Attributes:
        sample: Returns the seconds of one call.
        kind: "wall", "graph replay" or "events".
        wall: Seconds of one plain Python call on CUDA, waiting for the GPU at the end alone.
        note: Why the call is not captured, where it could have been.
    """

    sample: Sample
    kind: str
    wall: Sample | None = None
    note: str | None = None


@dataclass
class Times:
    """The samples of each round a contender took part in."""

    seconds: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def once(call: Call, device: str) -> float:
    """Return the wall time of one call, to its end."""
    synchronize(device)
    begin = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - begin


def wall_sample(call: Call, inner: int, device: str) -> Sample:
    def sample() -> float:
        synchronize(device)
        begin = time.perf_counter()
        for _ in range(inner):
            call()
        synchronize(device)
        return (time.perf_counter() - begin) / inner

    return sample


def make_clock(call: Call, device: str, *, capture: bool = True) -> Clock:
    """Choose how to time a call; it has run before (compiled, its memory allocated)."""
    one = once(call, device)
    if one < LONG_S:
        one = min(one, *(once(call, device) for _ in range(2)))
    if device == "cpu":
        return Clock(wall_sample(call, max(1, int(ROUND_S / one)), device), "wall")
    least = 3 if one < LONG_S else 1
    inner = max(least, int(ROUND_S / 2 / one))
    wall = wall_sample(call, inner, device)
    note = None
    if capture:
        calls = min(GRAPH_CALLS, max(1, int(GRAPH_S / one)))
        graph, note = try_capture(call, calls)
        if graph is not None:
            gpu = event_sample(graph.replay, max(1, inner // calls))
            return Clock(lambda: gpu() / calls, "graph replay", wall)
    return Clock(event_sample(call, inner), "events", wall, note)


def event_sample(call: Call, inner: int) -> Sample:
    """Time calls between two events, behind a sleep of the GPU in which the host gets ahead."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    host = time.perf_counter() - begin
    sleep = int(min(SLEEP_MOST_S, 2 * host * inner) * SLEEP_HZ)

    def sample() -> float:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(sleep)
        first.record()
        for _ in range(inner):
            call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3 / inner

    return sample


_failed: list[Any] = []  # graphs whose capture failed: torch's allocator still refers to them


def try_capture(call: Call, calls: int) -> tuple[torch.cuda.CUDAGraph | None, str | None]:
    """Capture calls in one graph; (None, why) where they wait for the GPU or cannot be captured."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return None, first_line(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):  # warm-up on another stream, as torch asks before a capture
        for _ in range(3):
            call()
    current.wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(calls):
                call()
    except Exception as error:
        _failed.append(graph)
        torch.cuda.set_stream(current)  # torch's context manager leaves the capture's one behind
        return None, f"capture failed: {first_line(error)}"
    graph.replay()
    torch.cuda.synchronize()
    return graph, None


def take_turns(
    clocks: dict[str, Clock], repeats: int, budget_s: float, *, least: int = 3
) -> tuple[dict[str, Times], dict[str, str]]:
    """Sample each contender once a round, each round beginning with another one.

    A contender takes part in the first rounds only, where all would cost it more than budget_s.

    Returns:
        The samples, and why a contender that failed on the way has none.
    """
    times = {name: Times() for name in clocks}
    failed: dict[str, str] = {}
    spent = dict.fromkeys(clocks, 0.0)
    names = list(clocks)
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            costly = turn >= least and spent[name] * (turn + 1) / turn > budget_s
            if costly or name in failed:
                continue
            begin = time.perf_counter()
            clock = clocks[name]
            try:
                times[name].seconds.append(clock.sample())
                if clock.wall is not None:
                    times[name].wall.append(clock.wall())
            except RuntimeError as error:
                failed[name] = first_line(error)
            spent[name] += time.perf_counter() - begin
    return {name: found for name, found in times.items() if name not in failed}, failed


def ratio(values: list[float], base: list[float]) -> tuple[float, list[float]]:
    """Return the median over rounds of values by base of the same round, and the quartiles."""
    ratios = sorted(a / b for a, b in zip(values, base, strict=False))
    quarter = len(ratios) // 4
    return statistics.median(ratios), [ratios[quarter], ratios[-1 - quarter]]


def peak_bytes(step: Callable[[], list[torch.Tensor]], device: str) -> int:
    """Return the most that torch had allocated during a step, beside inputs and gradients.

    The step has run before, so that what a library keeps for good (cuBLAS's workspace) is there.
    """
    if device == "cuda":
        free()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        grads = step()[1:]
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            grads = step()[1:]
        held = peak = 0
        for event in recorded.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
    return peak - sum(grad.nbytes for grad in grads)


def free() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """Say what went wrong in one line; out of memory is called so."""
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower():
        return "out of memory"
    return line[:200]
