"""The loss forward and the whole step, of every contender that can run here."""

from __future__ import annotations

import contenders
import pytest
import torch
from contenders import CONTENDERS
from problem import NONE, TEACHER, make_problem
from truth import errors_of, truth, within

# Tuned compilation takes minutes; bench_loss.py measures it.
NAMES = [name for name in CONTENDERS if not name.startswith("compile,")]
CASES = [
    (kind, name) for name in NAMES for kind in (NONE, TEACHER) if kind in CONTENDERS[name].kinds
]


@pytest.mark.parametrize("rows", [64, 512])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_step(timed, device, rows, kind, name):
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    problem = make_problem(rows, 256, kind, dtype, device)
    found, absent = contenders.steps(problem, [name])
    if name in absent:
        pytest.skip(absent[name])
    got = timed(found[name], f"step, {kind}, N = {rows}")
    errors = errors_of(got, truth(problem))
    assert within(problem, errors), errors


@pytest.mark.parametrize("rows", [64, 512])
@pytest.mark.parametrize("kind", [NONE, TEACHER])
@pytest.mark.parametrize("name", ["native", "torch path", "eager"])
def test_forward(timed, device, rows, kind, name):
    """The loss alone, no gradient asked for."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    problem = make_problem(rows, 256, kind, dtype, device)
    loss = contenders.LOSSES[name]

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return loss(problem.query, problem.code, problem.similarity)

    got = timed(forward, f"forward, {kind}, N = {rows}")
    assert within(problem, errors_of([got], truth(problem)[:1]))
