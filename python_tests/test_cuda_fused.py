"""The CUDA kernel of small batches, run on the host thread for thread: no GPU needed."""

from __future__ import annotations

import subprocess
from typing import Any

import problems
import pytest
import torch
from bridge import ORDERS, run_kernel, tsan_driver
from cuda_rows import OBJECTIVES, RULE_OF, STORAGE, words
from problems import FAMILY

from softnce_ext import reference

NAMES = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}
# Rows, codes, D, Dt: below, at and above a tile; codes that are no multiple of the padding.
SHAPES = [(1, 1, 8, 8), (5, 7, 24, 16), (33, 70, 40, 8), (17, 131, 72, 48)]
# How 8 warps share a tile: rows, columns, parts of k, and whether its parts are fine (tiles.h).
TILES = [2410, 2220, 1240, 1180, 1241, 1181]


class Batch:
    """A batch, and the step over it in float64 and by the kernel."""

    def __init__(
        self,
        shape: tuple[int, ...],
        kind: str,
        dtype: torch.dtype,
        masked: bool,
        loss: str = "soft",
    ) -> None:
        n, m, d, teacher_width = shape
        self.function, self.rule = FAMILY[loss]
        self.dtype, self.kind, self.offset = dtype, kind, (m - n) // 2
        self.query, self.code = torch.randn(n, d).to(dtype), torch.randn(m, d).to(dtype)
        self.similarity: Any = None
        if kind == "dense":
            self.similarity = torch.randn(n, m)
        elif kind == "factors":
            self.similarity = problems.factors(n, m)
        elif kind == "teacher":
            teacher = torch.randn(n + m, teacher_width) / teacher_width**0.5
            self.similarity = tuple(teacher.to(dtype).split([n, m]))
        self.groups = problems.duplicate_groups(n, m, self.offset) if masked else None
        self.row_weights: torch.Tensor | None = None
        if kind == "none":
            self.rule = {"alpha": 0.0, "beta": 1.0, "temperature": 1.0}

    def wanted(self) -> list[torch.Tensor]:
        query, code = (x.double().requires_grad_() for x in (self.query, self.code))
        loss = getattr(reference, self.function)(
            query,
            code,
            problems.as_double(self.similarity),
            **self.rule,
            scale=0.5,
            positive_offset=self.offset,
            groups=self.groups,
            reduction="none",
        )
        weights = 1 / len(loss) if self.row_weights is None else self.row_weights.double()
        total = (loss * weights).sum()
        return [loss.detach(), total.detach(), *torch.autograd.grad(total, (query, code))]

    def run(
        self,
        *,
        order: tuple[str, int] = ORDERS[0],
        blocks: int = 3,
        tiles: tuple[int, int] = (0, 0),
        needs: str = "total grad_query grad_code",
    ) -> list[torch.Tensor]:
        """Return the losses, their mean and the gradients; what is not asked for stays NaN."""
        (n, d), m = self.query.shape, len(self.code)
        padded = (m + 7) // 8 * 8
        nan = float("nan")
        gradient = torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32
        out = {
            "loss": torch.full((n,), nan),
            "total": torch.full((1,), nan),
            "grad_query": torch.full((n, d), nan, dtype=gradient),
            "grad_code": torch.full((m, d), nan, dtype=gradient),
        }
        arrays = {"query": self.query, "code": self.code, "scores": torch.full((n, padded), nan)}
        arrays |= {name: out[name] for name in ("loss", *needs.split())}
        teacher_width = 0
        if self.kind == "factors":
            arrays |= self.similarity._asdict()
        elif self.kind == "dense":
            arrays["similarity"] = self.similarity
        elif self.kind == "teacher":
            arrays["teacher_query"], arrays["teacher_code"] = self.similarity
            arrays["products"] = torch.full((n, padded), nan)
            teacher_width = self.similarity[0].shape[1]
        if self.groups is not None:
            arrays["query_groups"], arrays["code_groups"] = self.groups
        gain, row_weight = 2.0**14 if self.dtype == torch.float16 else 1.0, 1 / n
        if self.row_weights is not None:
            arrays["row_weights"], row_weight = self.row_weights, 1.0
        numbers = {"alpha": 0.0, "beta": 1.0, "temperature": 1.0, "min_weight": 0.1, "cutoff": 0.0}
        numbers |= {RULE_OF.get(name, name): value for name, value in self.rule.items()}
        run_kernel(
            f"fused_step_{NAMES[self.dtype]}",
            {name: words(array) for name, array in arrays.items()},
            order=order,
            grid=blocks,
            columns=m,
            gradient=STORAGE[str(self.dtype).removeprefix("torch.")],
            similarity_type=STORAGE["float32"],
            similarity_stride=m,
            first_positive=self.offset,
            objective=OBJECTIVES.index(self.function),
            eps=0,
            gain=gain,
            need_gradient="grad" in needs,
            round_to_tf32=False,
            **numbers,
            width=d,
            teacher_width=teacher_width,
            scale=0.5,
            alpha_of_products=0.5 * row_weight / gain,
            total_weight=row_weight,
            score_tiles=tiles[0],
            gradient_tiles=tiles[1],
        )
        return [out["loss"], out["total"][0], out["grad_query"], out["grad_code"]]


def check(got: list[torch.Tensor], wanted: list[torch.Tensor], dtype: torch.dtype) -> None:
    # Losses are of scores that are exact but for the order of their sums; G is rounded once.
    rounding = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    for part, expected in zip(got[:2], wanted[:2], strict=True):
        assert problems.error(part, expected) <= 5e-6
    for part, expected in zip(got[2:], wanted[2:], strict=True):
        assert problems.error(part, expected) <= 2 * rounding


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("kind", ["none", "dense", "teacher"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_step_equals_the_oracle(dtype, kind, masked, shape):
    batch = Batch(shape, kind, dtype, masked)
    check(batch.run(), batch.wanted(), dtype)


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("loss", ["soft", "top_k", "threshold"])
@pytest.mark.parametrize("kind", ["factors", "teacher"])
def test_step_with_factors_or_a_cancellation_equals_the_oracle(dtype, loss, kind):
    batch = Batch((9, 70, 40, 8), kind, dtype, True, loss)
    check(batch.run(), batch.wanted(), dtype)


@pytest.mark.parametrize(
    ("dtype", "tiles"),
    # fp32 has no fine tiles.
    [(d, t) for d in NAMES for t in TILES if d != torch.float32 or t % 10 == 0],
)
@pytest.mark.parametrize("blocks", [1, 4])
def test_every_tiling_equals_the_oracle(dtype, tiles, blocks):
    batch = Batch((37, 90, 136, 40), "teacher", dtype, True)
    check(batch.run(tiles=(tiles, tiles), blocks=blocks), batch.wanted(), dtype)


@pytest.mark.parametrize("dtype", NAMES)
def test_results_are_bitwise_equal_in_every_order_and_on_any_number_of_blocks(dtype):
    batch = Batch((40, 50, 104, 24), "teacher", dtype, True)
    tiles = (1180, 1180)
    first = batch.run(tiles=tiles, blocks=1)
    for order in ORDERS:
        again = batch.run(order=order, tiles=tiles, blocks=5)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_may_have_weights_of_their_own(dtype):
    batch = Batch((9, 20, 16, 8), "dense", dtype, False)
    batch.row_weights = torch.linspace(0.1, 30, 9)
    got, wanted = batch.run(needs="grad_query grad_code"), batch.wanted()
    assert got[1].isnan()
    check([got[0], wanted[1], *got[2:]], wanted, dtype)


@pytest.mark.parametrize("needs", ["", "total", "total grad_query", "grad_code"])
def test_what_is_not_asked_for_is_not_touched(needs):
    batch = Batch((6, 9, 16, 8), "dense", torch.bfloat16, False)
    got, whole = batch.run(needs=needs), batch.run()
    assert torch.equal(got[0], whole[0])
    names = ("total", "grad_query", "grad_code")
    for name, part, expected in zip(names, got[1:], whole[1:], strict=True):
        assert torch.equal(part, expected) if name in needs else part.isnan().all()


def test_a_nan_stays_in_its_row():
    batch = Batch((6, 20, 16, 8), "dense", torch.bfloat16, False)
    batch.similarity[2, 0] = float("nan")
    loss, total, grad_query, grad_code = batch.run()
    assert loss.isnan().tolist() == grad_query.isnan().all(1).tolist() == [i == 2 for i in range(6)]
    assert total.isnan() and grad_code.isnan().any()


def test_thread_sanitizer_finds_no_race():
    numbers = (
        "grid=2 columns=20 gradient=3 similarity_type=0 similarity_stride=20 first_positive=7 "
        "objective=0 alpha=1.5 beta=0.5 temperature=0.7 min_weight=0.1 cutoff=0 eps=0 gain=1 "
        "need_gradient=1 round_to_tf32=0 width=16 teacher_width=8 scale=1 alpha_of_products=1 "
        "total_weight=0.2 score_tiles=1181 gradient_tiles=1181 scores:f4:120 products:f4:120 "
        "loss:f4:5 total:f4:1 query:f2:80 code:f2:320 teacher_query:f2:40 teacher_code:f2:160 "
        "grad_query:f2:80 grad_code:f2:320"
    )
    command = [*tsan_driver(), "fused_step_bf16", *numbers.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "done" in done.stdout
