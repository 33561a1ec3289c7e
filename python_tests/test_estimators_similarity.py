from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import factors

from softnce_ext import reference
from softnce_ext.estimators import similarity as module
from softnce_ext.estimators.similarity import (
    check_similarity,
    compared_columns,
    low_weights,
    negative_logits,
    take_rows,
    widen,
)

RULE = {"alpha": 1.5, "beta": 0.5, "temperature": 0.7, "min_weight": 0.1}


@pytest.fixture(autouse=True)
def seeded_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)


def made(kind: str, rows: int, columns: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """A similarity, the same as a matrix, and which columns are known."""
    known = torch.ones(columns, dtype=torch.bool)
    if kind == "dense":
        dense = 3 * torch.randn(rows, columns)
        return dense, dense, known
    if kind == "pair":
        pair = (2 * torch.randn(rows, 5), torch.randn(columns, 5))
        return pair, pair[0] @ pair[1].T, known
    given = factors(rows, columns)
    return given, given.dense(), given.known(given.document_length.shape[0])


def groups_of(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    code = torch.arange(columns) % max(1, columns - columns // 5)
    return code[:rows].clone(), code


@pytest.mark.parametrize("kind", ["dense", "pair", "factors"])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("size", [(5, 8), (20, 20), (33, 50)])
def test_blocks_are_the_negatives_of_the_matrix(
    kind: str, grouped: bool, size: tuple[int, int]
) -> None:
    given, dense, known = made(kind, *size)
    assert compared_columns(given) == dense.shape[1]
    groups = groups_of(*size) if grouped else None
    blocks = list(negative_logits(given, groups, 0.7))
    logits, count = torch.cat([b[0] for b in blocks]), torch.cat([b[1] for b in blocks])
    for i in range(size[0]):
        for j in range(dense.shape[1]):
            same = grouped and groups[0][i] == groups[1][j]
            if i == j or same or not known[j]:
                assert logits[i, j] == -torch.inf
            else:
                assert logits[i, j].item() == pytest.approx(dense[i, j].item() / 0.7, abs=1e-4)
        assert count[i] == torch.isfinite(logits[i]).sum()


@pytest.mark.parametrize("kind", ["dense", "pair", "factors"])
@pytest.mark.parametrize("grouped", [False, True])
def test_low_weights_are_those_of_equation_4(kind: str, grouped: bool) -> None:
    given, dense, known = made(kind, 40, 50)
    groups = groups_of(40, 50) if grouped else None
    cut = None if groups is None else (groups[0], groups[1][: dense.shape[1]])
    weights = reference.soft_weights(dense, **RULE, groups=cut, known=known)
    low = ((weights < 0.5) & (weights > 0)).sum(1).float().mean()
    assert low > 0.1
    assert low_weights(given, groups, RULE).item() == pytest.approx(low.item())


@pytest.mark.parametrize("kind", ["dense", "pair", "factors"])
@pytest.mark.parametrize("grouped", [False, True])
def test_low_weights_of_many_rows_are_those_of_rows_spread_evenly(
    kind: str, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAMPLE_ROWS", 10)
    given, dense, known = made(kind, 40, 50)
    groups = groups_of(40, 50) if grouped else None
    cut = None if groups is None else (groups[0], groups[1][: dense.shape[1]])
    weights = reference.soft_weights(dense, **RULE, groups=cut, known=known)
    low = ((weights < 0.5) & (weights > 0)).sum(1).float()
    wanted, every = low[::4].mean().item(), low.mean().item()
    assert low_weights(given, groups, RULE).item() == pytest.approx(wanted) != every
    later = (groups[0][20:], groups[1]) if grouped else None  # another rank's rows
    rows = take_rows(given, slice(20, 40))
    wanted = low[20::2].mean().item()
    assert low_weights(rows, later, RULE, 20).item() == pytest.approx(wanted)
    assert [len(block) for block, _ in negative_logits(given, groups, 1.0, 3)] == [7, 7]


@pytest.mark.parametrize("kind", ["dense", "pair"])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
def test_added_codes_weigh_1_and_change_no_other_weight(
    kind: str, grouped: bool, half: torch.dtype | None
) -> None:
    """As where the known codes are named (`known`), and as BM25Factors have it."""
    given, dense, _ = made(kind, 60, 60)
    if half is not None:
        given = tuple(part.to(half) for part in given) if kind == "pair" else given.to(half)
        dense = given[0].float() @ given[1].float().T if kind == "pair" else given.float()
    groups = groups_of(60, 99) if grouped else None
    wide, rule = widen(given, 99, RULE, groups)
    found = wide if kind == "dense" else wide[0] @ wide[1].T
    torch.testing.assert_close(found[:, :60], dense, rtol=0, atol=1e-5)
    padded = torch.nn.functional.pad(dense, (0, 39))
    known = torch.arange(99) < 60
    wanted = reference.soft_weights(padded, **RULE, groups=groups, known=known)
    assert wanted[:, :60].min() < 0.5
    weights = reference.soft_weights(found, **rule, groups=groups)
    atol = 4e-3 if grouped else 2e-5
    torch.testing.assert_close(weights, wanted, rtol=0, atol=atol)


def test_factors_and_full_width_stay_as_they_are() -> None:
    for kind in ("dense", "pair", "factors"):
        given, _, _ = made(kind, 8, 12)
        wide, rule = widen(given, 12, RULE, None)
        assert wide is given
        assert rule is RULE


def test_half_vectors_are_multiplied_in_float() -> None:
    pair = (torch.randn(6, 400).bfloat16(), torch.randn(6, 400).bfloat16())
    ((logits, _),) = negative_logits(pair, None, 1.0)
    wanted = (pair[0].double() @ pair[1].double().T).float()
    off = ~torch.eye(6, dtype=torch.bool)
    torch.testing.assert_close(logits[off], wanted[off], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "given, error, message",
    [
        ([[1.0]], TypeError, "must return a floating-point Tensor, a pair .* got list"),
        (torch.ones(4, 4, dtype=torch.int64), TypeError, "floating-point Tensor, got torch.int64"),
        ((torch.ones(4, 2), torch.ones(4)), TypeError, "got tuple"),
        ((torch.ones(4, 2), torch.ones(4, 2).long()), TypeError, "got torch.int64"),
        (torch.ones(4, 3), ValueError, r"shape \[4, 4 to 6\], got \[4, 3\]"),
        (torch.ones(4), ValueError, r"got \[4\]"),
        ((torch.ones(4, 2), torch.ones(7, 2)), ValueError, r"got \[4, 7\]"),
    ],
)
def test_what_is_no_similarity_is_refused(given: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        check_similarity(given, 4, 6)
