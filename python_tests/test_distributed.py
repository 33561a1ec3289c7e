"""Several real processes against one: the same loss, the same gradients."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import WIDTH, MeanOfWords, batch, on_ranks, part, spread
from torch import Tensor, nn
from torch.multiprocessing import ProcessRaisedException
from torch.nn.parallel import DistributedDataParallel

from softnce_ext import reference
from softnce_ext.distributed import Peers, alone, meet
from softnce_ext.estimators.bm25 import InBatchBM25
from softnce_ext.estimators.encoder import SimCSEEstimator, TeacherEstimator
from softnce_ext.estimators.table import TeacherTable
from softnce_ext.presets import PRESETS
from softnce_ext.sentence_transformers import CachedSoftInfoNCELoss, SoftInfoNCELoss

SIZES = {2: ((5, 5), (6, 3)), 3: ((4, 4, 4), (4, 2, 5))}
ESTIMATORS = ("none", "alpha=0", "bm25", "text-code", "factors", "table", "simcse", "online", "own")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"mask_duplicates": False},
    {"symmetric": True},
    {"exclude_hard_negatives": True},
    {"alpha_scaling": "expected", "false_negative_rate": 0.5},
    {"mini_batch_size": 2},  # cached: as many passes as there are mini-batches, which differ
)
CASES = [
    *itertools.product(ESTIMATORS, (0, 1, 2), OPTIONS[:1], (0, 1)),
    *itertools.product(("bm25", "text-code", "table", "factors"), (1,), OPTIONS[1:], (1,)),
]

# The side that is frozen, and find_unused_parameters.
SIDES = tuple(itertools.product(("query", "code"), (False, True)))


class Factors:
    """BM25 as factors, however small the batch."""

    def __call__(self, columns: Any) -> Any:
        return InBatchBM25([0], sides="text-code").factors(columns)


class Lexical:
    """A function of a user's own: how many words two texts share."""

    def __call__(self, columns: Any) -> Tensor:
        if "offsets" in columns[0]:
            ends = [*columns[0]["offsets"].tolist()[1:], len(columns[0]["input_ids"])]
            ids = columns[0]["input_ids"].tolist()
            starts = columns[0]["offsets"].tolist()
            texts = [set(ids[a:b]) for a, b in zip(starts, ends, strict=True)]
        else:
            texts = [set(row.tolist()) - {0} for row in columns[0]["input_ids"]]
        return torch.tensor([[float(len(a & b)) for b in texts] for a in texts])


def table(rows: int, seed: int) -> TeacherTable:
    vectors = np.random.default_rng(seed).normal(size=(rows, 5)).astype(np.float32)
    return TeacherTable(vectors, Path("nowhere"), False, 0.0, 0.0)


def make_loss(model: nn.Module, estimator: str, options: dict[str, Any]) -> SoftInfoNCELoss:
    kind = CachedSoftInfoNCELoss if "mini_batch_size" in options else SoftInfoNCELoss
    made: Any
    rule: dict[str, Any] = {**PRESETS["bm25"]._asdict(), "scale": 3.0}  # each row and code tells
    if estimator == "none":
        return kind(model, None, scale=3.0, gather_across_devices=True, **options)
    if estimator == "alpha=0":
        made, rule["alpha"] = InBatchBM25([0]), 0.0
    elif estimator in ("bm25", "text-code"):
        sides = "text-text" if estimator == "bm25" else estimator
        made = InBatchBM25([0], sides=sides, temperature="scaled")
    elif estimator == "factors":
        made = Factors()
    elif estimator == "own":
        made = Lexical()
    elif estimator == "online":
        made = TeacherEstimator(mode="online")
    elif estimator == "table":
        made = TeacherEstimator(MeanOfWords())
        made.tables = {"query": table(40, 1), "code": table(40, 2)}
    else:
        made = SimCSEEstimator(MeanOfWords())
        made.tables = {"query": table(40, 1)}
    return kind(model, made, gather_across_devices=True, **{**rule, **options})


def labels(rows: int, columns: int) -> Tensor:
    """Row numbers of the pairs, then of each column of negatives."""
    return (torch.arange(rows)[:, None] + 7 * torch.arange(columns - 1)) % 40


def step(
    model: nn.Module, case: tuple[Any, ...], rows: slice | None, world: int
) -> tuple[Tensor, Tensor]:
    """Return a case's loss and the gradient of the model, over some rows or all."""
    estimator, negatives, options, sizes = case
    if rows is None:  # one process, which does not cache
        options = {name: value for name, value in options.items() if name != "mini_batch_size"}
    total = sum(SIZES[world][sizes])
    columns, ids = batch(total, 2 + negatives), labels(total, 2 + negatives)
    if rows is not None:
        columns, ids = part(columns, rows), ids[rows]
    loss = make_loss(MeanOfWords(), estimator, options)  # the estimator attaches to the bare model
    loss.model = model
    model.zero_grad()
    value = loss(columns, ids)
    value.backward()
    bare: Any = getattr(model, "module", model)
    return value.detach(), bare.words.grad.clone()


def everything(rank: int, world: int) -> dict[str, Any]:
    """All that is to be seen on the ranks, since to start them takes the most time."""
    model = DistributedDataParallel(MeanOfWords())
    cases = [step(model, case, spread(SIZES[world][case[3]], rank), world) for case in CASES]
    return {
        "cases": cases,
        "sides": [one_side(rank, world, *case) for case in SIDES],
        "gathered": gather_all(rank),
        "told": broken_ranks(rank),
        "options": other_options(rank),
        "wrapped": wrapped(rank, world),
    }


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    world = request.param
    return world, on_ranks(everything, world, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str(case) for case in CASES])
def test_ranks_equal_one_process(ranks: Any, number: int) -> None:
    world, found = ranks
    loss, gradient = step(MeanOfWords(), CASES[number], None, world)
    losses = [results["cases"][number][0] for results in found]
    assert torch.stack(losses).mean().item() == pytest.approx(loss.item(), rel=1e-6)
    for _, theirs in (results["cases"][number] for results in found):  # DDP's average, on each rank
        error = (theirs - gradient).abs().max() / gradient.abs().max()
        assert error.item() <= 1e-6


class TwoSides(nn.Module):
    """An encoder of its own for each side, as a Router has them, one of them frozen."""

    def __init__(self, frozen: str) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"query": MeanOfWords(), "code": MeanOfWords()})
        self.encoders[frozen].requires_grad_(False)

    def forward(self, features: dict[str, Any]) -> Any:
        return self.encoders[features["side"]](features)


def side_step(kind: Any, model: nn.Module, world: int, rows: slice, **options: Any) -> Tensor:
    """The gradient of the encoder that is trained."""
    columns: list[dict[str, Any]] = [*part(batch(sum(SIZES[world][1]), 2), rows)]
    for column, side in zip(columns, ("query", "code"), strict=True):
        column["side"] = side
    model.zero_grad()
    kind(model, None, **options)(columns).backward()
    return next(p.grad.clone() for p in model.parameters() if p.grad is not None)


def one_side(rank: int, world: int, frozen: str, find: bool) -> list[Tensor]:
    model = DistributedDataParallel(TwoSides(frozen), find_unused_parameters=find)
    options = {"mini_batch_size": 2, "gather_across_devices": True}
    rows = spread(SIZES[world][1], rank)
    return [side_step(CachedSoftInfoNCELoss, model, world, rows, **options) for _ in range(2)]


@pytest.mark.parametrize("number", range(len(SIDES)), ids=[str(case) for case in SIDES])
def test_ranks_with_a_frozen_side_equal_one_process(ranks: Any, number: int) -> None:
    world, found = ranks
    wanted = side_step(SoftInfoNCELoss, TwoSides(SIDES[number][0]), world, slice(None))
    for results in found:
        for gradient in results["sides"][number]:
            torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)


def test_the_options_matter() -> None:
    """Cases that all gave one number would say nothing."""
    for estimator in ("bm25", "table"):
        values = {}
        for options in OPTIONS[:-1]:
            value, _ = step(MeanOfWords(), (estimator, 2, options, 0), None, 3)
            values[str(options)] = round(value.item(), 5)
        if estimator == "bm25":  # of queries: mined negatives weigh 1 anyway
            values.pop(str({"exclude_hard_negatives": True}))
        assert len(set(values.values())) == len(values)


@pytest.mark.parametrize("options", [{}, {"mask_duplicates": False}])
def test_negatives_and_duplicates_on_ranks_are_the_reference(
    ranks: Any, options: dict[str, Any]
) -> None:
    world, found = ranks
    number = CASES.index(("table", 1, options, 1))
    total = sum(SIZES[world][1])
    model, columns, ids = MeanOfWords(), batch(total, 3), labels(total, 3)
    query, code, negative = (
        nn.functional.normalize(model(column)["sentence_embedding"]) for column in columns
    )
    similarity = table(40, 1).take(ids[:, 0]) @ table(40, 2).take(ids.T.flatten()).T
    groups = torch.arange(total)
    groups[total - 1], groups[1] = 0, total - 2  # as `batch` repeats texts
    wanted = reference.soft_info_nce(
        query,
        torch.cat([code, negative]),
        similarity.double(),
        **PRESETS["bm25"]._asdict(),
        scale=3.0,
        groups=None if options else (groups, torch.cat([groups, total + torch.arange(total)])),
    )
    wanted.backward()
    values = torch.stack([results["cases"][number][0] for results in found])
    assert values.mean().item() == pytest.approx(wanted.item(), rel=1e-6)
    for results in found:
        gradient = results["cases"][number][1]
        torch.testing.assert_close(gradient, model.words.grad, rtol=1e-6, atol=1e-9)


def gather_all(rank: int) -> list[Tensor]:
    """Rows of several types, rank + 1 of them, and the gradients they get."""
    found = []
    peers = meet(rank + 1, 2, torch.device("cpu"))
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64):
        rows = (torch.arange(2 * (rank + 1)).view(-1, 2) + 10 * rank).to(dtype)
        if dtype.is_floating_point:
            rows.requires_grad_()
            gathered = peers.gather(rows)
            (gathered * torch.arange(len(gathered))[:, None] * (rank + 1)).sum().backward()
            found.append(rows.grad)
        found.append(peers.gather(rows).detach())
    for dtype in (torch.bfloat16, torch.float16):  # a sum this type cannot add up bit by bit
        rows = torch.ones(1, 2, dtype=dtype, requires_grad=True)
        gathered = Peers((1,) * dist.get_world_size(), rank).gather(rows)
        (gathered * (2 / torch.finfo(dtype).eps if rank == 0 else 1)).sum().backward()
        found.append(rows.grad)
    return found


def test_rows_of_all_sizes_and_types_are_gathered_and_their_gradients_summed(ranks: Any) -> None:
    world, found = ranks
    wanted = [[0, 1], [10, 11], [12, 13], [20, 21], [22, 23], [24, 25]]
    wanted = wanted[: world * (world + 1) // 2]
    for rank, results in enumerate(found):
        values = results["gathered"]
        place = torch.arange(len(wanted))[[[0], [1, 2], [3, 4, 5]][rank], None]
        own = place * sum(range(1, world + 1))  # each rank multiplies by its number
        for gradient, gathered in zip(values[:6:2], values[1:6:2], strict=True):
            assert gathered.tolist() == wanted
            assert gradient.dtype == gathered.dtype
            torch.testing.assert_close(gradient.double(), own.expand(-1, 2).double())
        assert values[6].tolist() == wanted
        for gradient in values[7:]:
            total = torch.tensor(2 / torch.finfo(gradient.dtype).eps + world - 1)
            assert gradient.tolist() == [[total.to(gradient.dtype).item()] * 2]


def broken_ranks(rank: int) -> str:
    told = []
    for rows, columns in ((rank, 2), (3, 2 + rank)):
        with pytest.raises(ValueError) as error:
            meet(rows, columns, torch.device("cpu"))
        told.append(str(error.value))
    return "; ".join(told)


def test_ranks_that_do_not_fit_are_told_on_every_rank(ranks: Any) -> None:
    world, found = ranks
    for results in found:
        assert results["told"] == (
            f"every rank must have at least one row, got {[0, 1, 2][:world]}; "
            f"every rank must have as many columns, got {[2, 3, 4][:world]}"
        )


def other_options(rank: int) -> list[str]:
    """What is said of losses of different options, as a dict of losses gives the ranks."""
    columns, told = batch(4, 2), []
    bm25, text_code = (InBatchBM25([0], sides=sides) for sides in ("text-text", "text-code"))
    scaled = InBatchBM25([0], temperature="scaled")
    for first, other in (
        ({}, {"symmetric": True}),
        ({"estimator": bm25}, {"estimator": None}),
        ({"estimator": bm25}, {"estimator": text_code}),
        ({"estimator": bm25}, {"estimator": scaled}),
        ({"estimator": Lexical(), "alpha": 1, "beta": 1, "temperature": 1}, {"estimator": None}),
    ):
        options = {"estimator": None, **(other if rank == 1 else first)}
        loss = SoftInfoNCELoss(MeanOfWords(), gather_across_devices=True, **options)
        with pytest.raises(ValueError) as error:
            loss(columns).backward()
        told.append(str(error.value))
    # One number in two forms, and how many texts a rank embeds at once, are no other options.
    options = {"scale": 20 if rank == 1 else 20.0, "mini_batch_size": 2 + rank}
    loss = CachedSoftInfoNCELoss(MeanOfWords(), None, gather_across_devices=True, **options)
    loss(columns).backward()
    return told


def test_losses_of_other_options_are_told_on_every_rank(ranks: Any) -> None:
    world, found = ranks
    for results in found:
        symmetric, estimator, sides, temperature, own = results["options"]
        assert symmetric == (
            "every rank must have a loss of the same options in a step, as must all of a dict of "
            f"losses for several data sets, got symmetric {[False, True, False][:world]}"
        )
        assert f"got estimator {['InBatchBM25', None, 'InBatchBM25'][:world]}" in estimator
        assert f"estimator.sides {['text-text', 'text-code', 'text-text'][:world]}" in sides
        assert f"estimator.temperature {['fixed', 'scaled', 'fixed'][:world]}" in temperature
        assert f"got estimator {['Lexical', None, 'Lexical'][:world]}" in own


def wrapped(rank: int, world: int) -> list[str]:
    """What is said of wrappers that a cached loss cannot train through."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    static = DistributedDataParallel(MeanOfWords(), static_graph=True)
    sharded = fully_shard(MeanOfWords(), mesh=init_device_mesh("cpu", (world,)))
    told = []
    for model, size, rows in ((static, 2, 4), (sharded, "auto", 4), (sharded, 2, 4 + rank)):
        loss = CachedSoftInfoNCELoss(model, None, mini_batch_size=size, gather_across_devices=True)
        with pytest.raises(ValueError) as error:
            loss(batch(rows, 2))
        told.append(str(error.value))
    return told


def test_wrappers_that_do_not_fit_are_told_on_every_rank(ranks: Any) -> None:
    world, found = ranks
    for results in found:
        static, auto, uneven = results["wrapped"]
        assert static.startswith("model must be in DistributedDataParallel without static_graph")
        assert auto.endswith(f"got rows {[4] * world} and mini_batch_size 'auto'")
        assert uneven.endswith(f"got rows {[4, 5, 6][:world]} and mini_batch_size 2")


def die_or_train(rank: int, world: int) -> None:
    columns = part(batch(8, 2), spread((4, 4), rank))
    loss = make_loss(MeanOfWords(), "bm25", {})
    loss(columns).backward()
    if rank == 1:
        os._exit(0)  # as if all were well: nobody but the other rank can tell
    loss(columns).backward()


def test_a_rank_that_dies_ends_the_others_with_an_error(tmp_path: Path) -> None:
    begin = time.perf_counter()
    with pytest.raises(ProcessRaisedException) as error:
        on_ranks(die_or_train, 2, tmp_path, seconds=10)
    assert "LostPeerError: rank 0 of 2 lost another rank, which ended" in str(error.value)
    assert "start all ranks again" in str(error.value)
    assert "ddp_timeout does the same, but not with use_cpu=True" in str(error.value)
    assert time.perf_counter() - begin < 60  # two starts of a process, and the time-out


def test_one_process_needs_no_process_group() -> None:
    assert meet(3, 2, torch.device("cpu")) == alone(3) == Peers((3,), 0)
    assert alone(3).share == 1 and alone(3).rows == slice(0, 3)
    rows = torch.randn(6, WIDTH)
    assert alone(3).gather(rows) is rows and alone(3).gather_columns(rows) is rows
