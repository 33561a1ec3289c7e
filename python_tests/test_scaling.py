"""docs/scaling.md's model against what real processes receive and hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from memory import peak_bytes
from ranks import MeanOfWords, batch, on_ranks, part, spread
from torch import Tensor

from softnce_ext.estimators.bm25 import InBatchBM25
from softnce_ext.estimators.encoder import SimCSEEstimator, TeacherEstimator
from softnce_ext.estimators.table import TeacherTable
from softnce_ext.sentence_transformers import SoftInfoNCELoss

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))
import scaling  # noqa: E402

WIDTH, TEACHER_WIDTH = 6, 5
SIZES = {2: ((6, 6), (7, 4)), 3: ((4, 4, 4), (5, 2, 4))}
CASES = [(kind, uneven) for kind in scaling.KINDS for uneven in (False, True)]
ROWS, BROAD = 1536, 64  # of the memory's case: two blocks of rows on each of 2 ranks
PEAKS = ("none", "teacher")


class Counted:
    """Counts what this rank receives in the collectives the loss calls."""

    NAMES = ("all_gather_single", "all_gather_into_tensor")
    SUMS = ("reduce_scatter_single", "reduce_scatter_tensor")

    def __enter__(self) -> Counted:
        self.received = 0
        self.before = {
            name: getattr(dist, name) for name in self.NAMES + self.SUMS if hasattr(dist, name)
        }
        for name, collective in self.before.items():
            setattr(dist, name, self.counting(collective))
        return self

    def counting(self, collective: Any) -> Any:
        def call(out: Tensor, given: Tensor, *rest: Any, **options: Any) -> Any:
            # Of a gather all but one's own; of a sum each other rank's share of it.
            self.received += abs(out.nbytes - given.nbytes)
            return collective(out, given, *rest, **options)

        return call

    def __exit__(self, *error: object) -> None:
        for name, collective in self.before.items():
            setattr(dist, name, collective)


def table(rows: int, seed: int, width: int) -> TeacherTable:
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return TeacherTable(vectors, Path("nowhere"), False, 0.0, 0.0)


def make_loss(model: Any, kind: str, width: int = TEACHER_WIDTH, **options: Any) -> SoftInfoNCELoss:
    made: Any = InBatchBM25([0]) if kind == "bm25" else None
    if kind == "teacher":
        made = TeacherEstimator(MeanOfWords())
        made.tables = {side: table(64, seed, width) for seed, side in enumerate(("query", "code"))}
    elif kind == "simcse":
        made = SimCSEEstimator(MeanOfWords())
        made.tables = {"query": table(64, 0, width)}
    return SoftInfoNCELoss(model, made, temperature=0.5, gather_across_devices=True, **options)


def step_bytes(rank: int, world: int, kind: str, uneven: bool) -> list[int]:
    """Return what a step's collectives bring to this rank, and its tokens."""
    sizes = SIZES[world][uneven]
    columns = part(batch(sum(sizes), 2), spread(sizes, rank))
    loss = make_loss(MeanOfWords(torch.float32), kind)
    with Counted() as counted:
        loss(columns, torch.arange(sizes[rank])).backward()
    return [counted.received, int(columns[0]["attention_mask"].sum())]


def peak_of_loss(rank: int, world: int, kind: str) -> int:
    """Return what the loss's side holds at most, beside the embeddings."""
    generator = torch.Generator().manual_seed(rank)
    own = ROWS // world
    sides = [torch.randn(own, BROAD, generator=generator).requires_grad_() for _ in range(2)]
    loss = make_loss(torch.nn.Identity(), kind, BROAD, mask_duplicates=False, impl="native")
    numbers = torch.arange(own) % 64
    columns = [{"row": numbers, "input_ids": numbers[:, None]} for _ in range(2)]

    def step() -> None:
        beside = loss.beside(columns, None)
        loss.compute_loss_from_embeddings(sides, **beside).backward()

    step()
    for side in sides:
        side.grad = None
    return peak_bytes(step)


def everything(rank: int, world: int) -> dict[str, Any]:
    return {
        "bytes": [step_bytes(rank, world, *case) for case in CASES],
        "peaks": {kind: peak_of_loss(rank, world, kind) for kind in PEAKS},
    }


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    world = request.param
    return world, on_ranks(everything, world, tmp_path_factory.mktemp("scaling"))


@pytest.mark.parametrize(("kind", "uneven"), CASES)
def test_the_bytes_of_a_step_are_the_model_s(ranks: Any, kind: str, uneven: bool) -> None:
    world, found = ranks
    counted = [each["bytes"][CASES.index((kind, uneven))] for each in found]
    model = scaling.Batch(
        sum(SIZES[world][uneven]),
        world,
        width=WIDTH,
        kind=kind,
        teacher_width=TEACHER_WIDTH,
        tokens=max(tokens for _, tokens in counted),
        row_numbers=True,
    )
    most = max(SIZES[world][uneven])
    if model.own != most:  # the model's ranks are as even as can be
        model = scaling.Batch(**{**vars(model), "rows": most * world})
    wanted = scaling.received(model)
    assert [received for received, _ in counted] == [sum(wanted.values())] * world
    assert (wanted["teacher's vectors"] > 0) == (kind in ("teacher", "simcse"))
    assert (wanted["token ids"] > 0) == (kind == "bm25")


def test_the_memory_of_ranks_is_the_model_s(ranks: Any) -> None:
    world, found = ranks
    for kind in PEAKS:
        model = scaling.Batch(
            ROWS, world, BROAD, kind, BROAD, mask_duplicates=False, row_numbers=True
        )
        for each in found:
            assert each["peaks"][kind] == pytest.approx(scaling.cpu_memory(model), rel=0.02), kind


def test_the_memory_of_one_process_is_what_the_benchmark_measured() -> None:
    steps = json.loads((BENCHMARKS / "results" / "loss_cpu.json").read_text())["results"]["steps"]
    assert len(steps) > 6
    for entry in steps:
        n, width = entry["rows"], entry["dimension"]
        kind = entry["similarity"]
        if kind not in ("none", "teacher"):
            continue
        model = scaling.Batch(n, 1, width, kind, width, mask_duplicates=False)
        # The benchmark holds neither cosines nor other ranks' codes, teacher or gradients.
        teacher = 2 * n * width * (kind == "teacher")
        block = scaling.cpu_memory(model) - 4 * (5 * n * width + teacher)
        measured = entry["contenders"]["native"]["peak_mib"] * 2**20
        assert measured == pytest.approx(block, rel=0.02)
        eager = entry["contenders"]["eager"]["peak_mib"] * 2**20
        if n == 8192:
            assert eager == pytest.approx(4 * n * n * scaling.EAGER_MATRICES[kind], rel=0.02)
