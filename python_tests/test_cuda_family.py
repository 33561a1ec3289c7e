"""Every loss of the family on a GPU, against the oracle in float64."""

from __future__ import annotations

import warnings

import problems
import pytest
import torch
from gpu import DEVICE, HALVES, inputs, on_device
from problems import FAMILY, KINDS, error, loss_and_gradients

import softnce_ext as sx
from softnce_ext import reference


def call(name, query, code, similarity, impl="native", **options):
    """One loss of the family; `impl` None is the oracle."""
    function, rule = FAMILY[name]
    door, chosen = (sx, {"impl": impl}) if impl else (reference, {})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="beta")  # small shapes, asked for
        loss = getattr(door, function)(query, code, similarity, **rule, **options, **chosen)
    return loss_and_gradients(
        loss if impl else loss.to(torch.promote_types(loss.dtype, torch.float32)), query, code
    )


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 8), (5, 9, 16), (33, 130, 24), (17, 1100, 16)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_family_equals_the_reference_in_float64(name, kind, grouped, shape, reduction):
    n, m, _ = shape
    offset = (m - n) // 2
    query, code, similarity = inputs(*shape, torch.float64, kind)
    groups = on_device(problems.duplicate_groups(n, m, offset)) if grouped else None
    options = {"scale": 3.0, "positive_offset": offset, "groups": groups, "reduction": reduction}
    got = call(name, query, code, similarity, **options)
    wanted = call(name, query, code, similarity, None, **options)
    for part, expected in zip(got, wanted, strict=True):
        assert torch.allclose(part, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("kind", ["dense", "factors"])  # the teacher's own products would round
@pytest.mark.parametrize("shape", [(65, 130, 96), (127, 1025, 33), (40, 2100, 64)])
def test_family_errs_no_more_than_eager_in_the_same_type(dtype, name, kind, shape):
    query, code, similarity = inputs(*shape, dtype, kind, torch.float32)
    options = {"scale": 20.0, "positive_offset": 3}
    doubles = (problems.as_double(x) for x in (query, code, similarity))
    wanted = call(name, *doubles, None, **options)
    got = call(name, query, code, similarity, **options)
    plain = call(name, query, code, similarity, None, **options)
    rounding = torch.finfo(dtype).eps / 2
    # Soft targets are exponentials of differences of logarithms: roundings that do not average out.
    fp32_slack = 1e-6 if name in ("soft", "top_k", "threshold") else 5e-6
    for part, base, expected in zip(got, plain, wanted, strict=True):
        slack = fp32_slack if part.dtype == torch.float32 else rounding
        assert error(part, expected) <= error(base, expected) + slack


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("columns", [9000, 40_000, 300_000])
@pytest.mark.parametrize("kind", ["dense", "factors"])
def test_family_on_rows_of_every_place(name, columns, kind):
    """A block, clusters, global memory: a row of soft targets takes twice the room."""
    query, code, similarity = inputs(2, columns, 16, torch.float32, "none")
    if kind == "dense":
        similarity = torch.randn(2, columns, device=DEVICE)
    else:  # few terms: a dense matrix of terms and documents is made on the way
        few = problems.factors(2, 600)
        length = torch.nn.functional.pad(few.document_length, (0, columns // 2), value=3)
        similarity = on_device(few._replace(document=few.document + 5, document_length=length))
    options = {"scale": 10.0, "positive_offset": columns - 3}
    got = call(name, query, code, similarity, **options)
    wanted = call(
        name, *(problems.as_double(x) for x in (query, code, similarity)), None, **options
    )
    assert error(got[0], wanted[0]) <= 1e-5
    # The row kernel's own share is below 2e-5: fp32 products over so many columns round as often.
    assert max(error(got[1], wanted[1]), error(got[2], wanted[2])) <= 2e-4


@pytest.mark.parametrize("name", ["soft", "top_k", "threshold", "bce"])
@pytest.mark.parametrize("width", [13, 16])
def test_no_index_of_the_factors_is_trusted(name, width):
    query, code, factors = inputs(4, 60, width, torch.float32, "factors")
    expected = call(name, query, code, factors)
    nowhere = torch.tensor([-1, 60, 1 << 30], dtype=torch.int32, device=DEVICE)
    ones = torch.ones(3, device=DEVICE)
    broken = factors._replace(  # the last postings, and the last terms of a query, lead nowhere
        document=torch.cat([factors.document, nowhere]),
        weight=torch.cat([factors.weight, ones]),
        indptr=torch.cat([factors.indptr, factors.indptr[-1:] + 3]),
        query_term=torch.cat([factors.query_term, nowhere[[0, 2]]]),
        query_count=torch.cat([factors.query_count, ones[:2]]),
        query_indptr=factors.query_indptr + torch.tensor([0, 0, 0, 0, 2], device=DEVICE),
    )
    for part, wanted in zip(call(name, query, code, broken), expected, strict=True):
        assert torch.equal(part, wanted)
    wild = torch.tensor([-(1 << 62), 1 << 62, 0, 5, -3, 1 << 40], device=DEVICE)
    call(name, query, code, broken._replace(indptr=wild, query_indptr=wild[:5].clone()))
    torch.cuda.synchronize()  # where an access that is not there would be told
