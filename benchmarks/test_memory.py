"""What a step holds at most beside inputs and gradients; `peak_mib` stands in the saved JSON."""

from __future__ import annotations

import clocks
import contenders
import pytest
from problem import NONE, TEACHER, make_problem

ROWS = 2048


@pytest.mark.parametrize("kind", [NONE, TEACHER])
def test_peak(device, benchmark, kind):
    """Ours takes row blocks, eager torch whole matrices: at 2048 rows a quarter at most."""
    problem = make_problem(ROWS, 64, kind, device=device)
    names = [name for name in contenders.CONTENDERS if not name.startswith("compile")]
    found, absent = contenders.steps(problem, names)
    peaks = {}
    for name, step in found.items():
        step()
        peaks[name] = clocks.peak_bytes(step, device) / 2**20
    benchmark.group = f"memory, {kind}, N = {ROWS}, {device}"
    benchmark.extra_info |= {"peak_mib": peaks, "absent": absent}
    benchmark.pedantic(found["native"], rounds=3)
    assert 0 < peaks["native"] < peaks["eager"] / 4, peaks
