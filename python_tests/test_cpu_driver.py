"""The CPU's block driver: what it does beside the mathematics, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from softnce_ext import ops
from softnce_ext.factors import BM25Factors


def printed(code: str, *words: str, **environment: str) -> list[str]:
    """Run Python code and return what it printed, word by word."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


BF16 = """
import torch
import softnce_ext as sx
from softnce_ext import reference

RULE = {"alpha": 1.3, "beta": 0.7, "temperature": 5.0}

def error(got, wanted):
    return float((got.double() - wanted).abs().max() / wanted.abs().max())

SHAPES = [(1, 3, 1), (3, 7, 2), *[(65, 130, 96)] * 12, (300, 1500, 33)]
for seed, (n, m, d) in enumerate(SHAPES):
  for scale in (1.0, 20.0):
    torch.manual_seed(seed)
    query, code = (
        torch.nn.functional.normalize(torch.randn(k, d)).bfloat16().requires_grad_()
        for k in (n, m)
    )
    teacher = tuple(torch.randn(k, 5).bfloat16() for k in (n, m))
    wide = [x.detach().double().requires_grad_() for x in (query, code)]
    truth = reference.soft_info_nce(*wide, tuple(t.double() for t in teacher), scale=scale, **RULE)
    native = sx.soft_info_nce(query, code, teacher, scale=scale, impl="native", **RULE)
    weights = reference.soft_weights(teacher[0] @ teacher[1].T, **RULE)
    scores = scale * (query @ code.T) + weights.log()
    eager = torch.nn.functional.cross_entropy(scores, torch.arange(n))
    wanted = [truth, *torch.autograd.grad(truth, wide)]
    for got, plain, expected in zip(
        [native, *torch.autograd.grad(native, (query, code))],
        [eager, *torch.autograd.grad(eager, (query, code))],
        wanted,
    ):
        if expected.abs().max() > 1e-9:
            print(error(got, expected) <= error(plain, expected) + 1e-6)
"""


@pytest.mark.parametrize("multiplied", ["1", "0"])
def test_bf16_inputs_err_no_more_than_eager_multiplied_as_they_are_or_converted(multiplied):
    answers = printed(BF16, SOFTNCE_CPU_BF16=multiplied)
    assert len(answers) >= 80
    assert set(answers) == {"True"}


LARGE = """
import torch
import softnce_ext as sx

far = torch.randn(8).bfloat16().as_strided((1, 8), (2**31 + 5, 1)).requires_grad_()
code = torch.randn(3, 8).bfloat16()
results = []
for query in (far, far.detach().clone().requires_grad_()):
    loss = sx.info_nce(query, code, impl="native")
    results.append([loss.detach(), torch.autograd.grad(loss, query)[0]])
print(all(torch.equal(a, b) for a, b in zip(*results)))
wide = torch.empty(1, 2**31, dtype=torch.bfloat16)  # 4 GiB that nobody touches
try:
    sx.info_nce(wide, wide, impl="native")
except RuntimeError as error:
    print("sizes must be below 2^31, got 2147483648" in str(error))
"""


def test_bf16_sizes_beyond_an_int_are_refused_and_a_stride_of_one_row_is_none():
    assert printed(LARGE, SOFTNCE_CPU_BF16="1") == ["True", "True"]


NARROW = """
import resource
import sys
import torch
import softnce_ext as sx

torch.manual_seed(0)
n, m, dtype = 512, 100_000, getattr(torch, sys.argv[2])
query, code = (torch.randn(rows, 16).to(dtype).requires_grad_() for rows in (n, m))
z = {
    "none": lambda: None,
    "half": lambda: torch.randn(n, m).to(torch.bfloat16),
    "transposed": lambda: torch.randn(m, n).T,
}[sys.argv[1]]()
rule = {} if z is None else {"alpha": 1.5, "beta": 0.5, "temperature": 1.0}
def step():
    function = sx.info_nce if z is None else sx.soft_info_nce
    given = () if z is None else (z,)
    loss = function(query, code, *given, scale=0.1, impl="native", **rule)
    return [loss.detach(), *torch.autograd.grad(loss, (query, code))]
wanted = step()  # with one block: 200 MB, and as much for similarities
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 150_000_000,) * 2)
try:
    torch.empty(n, m)
except RuntimeError:
    print("full")
for a, b in zip(step(), wanted):
    print(torch.allclose(a, b, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-9))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="asks Linux for its own size")
@pytest.mark.parametrize(
    "words", [("none", "float32"), ("half", "bfloat16"), ("transposed", "float32")]
)
def test_too_little_memory_means_smaller_blocks_and_the_same_result(words):
    assert printed(NARROW, *words, OMP_NUM_THREADS="1") == ["full", "True", "True", "True"]


def factors() -> dict[str, torch.Tensor]:
    """Two queries of one term each; two documents that hold both terms."""
    return {
        "query_indptr": torch.tensor([0, 1, 2]),
        "query_term": torch.tensor([0, 1], dtype=torch.int32),
        "query_count": torch.tensor([1.0, 2.0]),
        "indptr": torch.tensor([0, 2, 4]),
        "document": torch.tensor([0, 1, 0, 1], dtype=torch.int32),
        "weight": torch.tensor([0.5, 1.5, -0.5, 2.0]),
        "document_length": torch.tensor([2, 2]),
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("query_indptr", torch.tensor([0, 3, 2]), "query_indptr must rise from 0 to 2"),
        ("query_indptr", torch.tensor([0, 1, 9]), "query_indptr must rise from 0 to 2"),
        ("indptr", torch.tensor([1, 2, 4]), "indptr must rise from 0 to 4"),
        ("query_term", torch.tensor([0, 2], dtype=torch.int32), r"query_term must lie in \[0, 2\)"),
        ("query_term", torch.tensor([0, -1], dtype=torch.int32), r"query_term must lie in"),
        ("document", torch.tensor([0, 1, 0, 2], dtype=torch.int32), r"document must lie in \[0, 2"),
        ("weight", torch.tensor([0.5, 1.5]), "weight must have one dimension and length 4"),
        ("query_count", torch.tensor([1, 2]), "query_count must be fp32"),
        ("document_length", torch.ones(4, dtype=torch.int64), "at most 3 elements"),
        ("document_length", None, "BM25 factors must come together"),
    ],
)
def test_factors_that_point_outside_are_refused_by_the_op_itself(name, value, message):
    query, code = torch.randn(2, 4), torch.randn(3, 4)
    assert ops.unavailable("cpu") is None

    def run(parts):
        numbers = (1.5, 0.5, 1.0, 0.1, 0.0, 1.0, 0.0, 0, 0)
        op = torch.ops.softnce_ext.soft_info_nce_rows.default
        return op(query, code, None, None, None, *parts, None, None, 0, *numbers)

    assert torch.isfinite(run(BM25Factors(**factors()))).all()
    with pytest.raises(RuntimeError, match=message):
        run({**factors(), name: value}.values())


@pytest.mark.parametrize("place", [0, 1, 3, 4, 5, 6])
def test_numbers_that_are_not_finite_are_refused_by_the_op_itself(place):
    """Compiled code cannot ask before; torch's own product may take a factor of NaN for 1."""
    assert ops.unavailable("cpu") is None
    query = torch.randn(2, 4)
    numbers = [1.5, 0.5, 1.0, 0.1, 0.0, 1.0, 0.0]
    numbers[place] = float("nan")
    with pytest.raises(RuntimeError, match="must be finite, got nan"):
        torch.ops.softnce_ext.soft_info_nce_rows.default(
            query, query, *(None,) * 12, 0, *numbers, 0, 0
        )
