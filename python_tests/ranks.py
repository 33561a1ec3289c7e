"""Several ranks of torch.distributed as processes of this machine, and a model small enough."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

PADDING, WORDS, LENGTH, WIDTH = 0, 24, 9, 6


class MeanOfWords(nn.Module):
    """What a loss needs of a SentenceTransformer, without its seconds of import."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        table = torch.randn(WORDS, WIDTH, generator=generator, dtype=dtype)
        self.words = nn.Parameter(table)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        mask = features["attention_mask"][:, :, None].to(self.words.dtype)
        mean = (self.words[features["input_ids"]] * mask).sum(1) / mask.sum(1)
        return {"sentence_embedding": mean}


def batch(rows: int, columns: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Columns of `rows` texts, some of which repeat another row's query or code."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(columns):
        lengths = torch.randint(2, LENGTH, (rows, 1), generator=generator)
        mask = (torch.arange(LENGTH) < lengths).long()
        ids = torch.randint(1, WORDS, (rows, LENGTH), generator=generator) * mask
        found.append({"input_ids": ids, "attention_mask": mask})
    for column, (row, twin) in zip(found, ((rows - 1, 0), (1, rows - 2)), strict=False):
        for name in column:
            column[name][row] = column[name][twin]
    return found


def part(columns: list[dict[str, Tensor]], rows: slice) -> list[dict[str, Tensor]]:
    """Some rows of a batch, padded to their own longest text."""
    found = []
    for column in columns:
        length = int(column["attention_mask"][rows].sum(1).max())
        found.append({name: value[rows, :length].clone() for name, value in column.items()})
    return found


def spread(sizes: tuple[int, ...], rank: int) -> slice:
    """Where a rank's rows lie."""
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def _start(
    rank: int, work: Callable[..., Any], world: int, folder: str, seconds: float, args: Any
) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=seconds),
    )
    found = work(rank, world, *args)
    torch.save(found, f"{folder}/found{rank}")
    dist.destroy_process_group()


def on_ranks(
    work: Callable[..., Any], world: int, folder: Path, *args: Any, seconds: float = 60
) -> list[Any]:
    """Return what ``work(rank, world, *args)`` returns on each of `world` ranks."""
    mp.spawn(_start, (work, world, str(folder), seconds, args), world)
    return [torch.load(folder / f"found{rank}", weights_only=True) for rank in range(world)]
