"""A batch whose rows lie on several ranks: what is compared is gathered, gradients go back as sums.

A rank keeps its own queries and gathers the codes of all. The gradients it finds for another
rank's codes belong to that rank: backward adds them up there (reduce-scatter).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

# What gloo and NCCL say of a rank that is gone or stuck.
_LOST = re.compile(
    r"(closed|reset) by peer|timed out waiting|gloo.*(refused|broken pipe|timed ?out)"
    r"|NCCL.*(remote process|timed? ?out|abort)",
    re.IGNORECASE | re.DOTALL,
)

# A rank's columns and the hash of its options are sent as one number.
_COLUMN_BITS = 32


class LostPeerError(RuntimeError):
    """Another rank ended, or did not take part within the time-out."""


class Peers(NamedTuple):
    """The ranks that train on one batch together.

    Attributes:
        sizes: How many rows each rank has; they may differ.
        rank: Which of them is this process.
    """

    sizes: tuple[int, ...]
    rank: int

    @property
    def total(self) -> int:
        """Rows of all ranks, N."""
        return sum(self.sizes)

    @property
    def rows(self) -> slice:
        """Where this rank's rows lie among all."""
        start = sum(self.sizes[: self.rank])
        return slice(start, start + self.sizes[self.rank])

    @property
    def share(self) -> float:
        """What the mean over this rank's rows must be multiplied by.

        Data-parallel training averages gradients over the ranks, whatever their rows: so it is the
        mean over all rows.
        """
        return self.sizes[self.rank] * len(self.sizes) / self.total

    def gather(self, rows: Tensor) -> Tensor:
        """Return all ranks' rows, [N, ...]; the gradient of each is the sum over the ranks."""
        return gather(rows, self)

    def gather_columns(self, columns: Tensor) -> Tensor:
        """Return all ranks' columns, [C N, D], of this rank's, [C n, D], one after the other.

        Column by column: the positives of all ranks, then the first negatives of all ranks.
        """
        if len(self.sizes) == 1:
            return columns
        rows = self.sizes[self.rank]
        by_row = columns.reshape(-1, rows, columns.shape[1]).transpose(0, 1)  # [n, C, D]
        return self.gather(by_row).transpose(0, 1).flatten(0, 1)


def alone(rows: int) -> Peers:
    """Return a batch that lies on this rank alone."""
    return Peers((rows,), 0)


def meet(
    rows: int, columns: int, device: torch.device, options: Mapping[str, Any] | None = None
) -> Peers:
    """Learn how many rows each rank has: every rank must call it, and have as many columns.

    Args:
        rows: Of this rank, n.
        columns: Of texts; only compared.
        device: Where the collectives' tensors must be.
        options: Of the loss, as JSON values; only compared. Ranks with losses of different options
            would take part in different collectives, or mean different things by one.

    Raises:
        ValueError: On all ranks, where one has no row, or they have different columns or options.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return alone(rows)
    written = _written(options or {})
    own = torch.tensor([[rows, columns | _short_hash(written) << _COLUMN_BITS]], device=device)
    told = _all_gather(own, dist.get_world_size()).tolist()
    peers = Peers(tuple(size for size, _ in told), dist.get_rank())
    counts, hashes = zip(*(divmod(both, 1 << _COLUMN_BITS)[::-1] for _, both in told), strict=True)
    if min(peers.sizes) == 0:
        raise ValueError(f"every rank must have at least one row, got {list(peers.sizes)}")
    if len(set(counts)) > 1:
        raise ValueError(f"every rank must have as many columns, got {list(counts)}")
    if len(set(hashes)) > 1:
        each = [json.loads(text) for text in gather_texts([written], peers)]
        names = [n for n in dict.fromkeys(n for found in each for n in found)]
        other = {n: [found.get(n) for found in each] for n in names}
        shown = [f"{n} {got}" for n, got in other.items() if any(g != got[0] for g in got)]
        raise ValueError(
            "every rank must have a loss of the same options in a step, as must all of a dict of "
            f"losses for several data sets, got {', '.join(shown)}"
        )
    return peers


def _written(options: Mapping[str, Any]) -> str:
    """Write options down in one form: 20 is 20.0."""
    plain = {name: float(v) if type(v) is int else v for name, v in options.items()}
    return json.dumps(plain, default=str)


def _short_hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def gather(rows: Tensor, peers: Peers) -> Tensor:
    """Return the ranks' rows one after the other; `peers.sizes` may count anything, as tokens."""
    if len(peers.sizes) == 1:
        return rows
    return _Gather.apply(rows, peers)  # type: ignore[no-any-return, no-untyped-call]


def gather_texts(texts: list[str], peers: Peers) -> list[str]:
    """Return all ranks' texts."""
    if len(peers.sizes) == 1:
        return texts
    parts: list[Any] = [None] * len(peers.sizes)
    with _answered():
        dist.all_gather_object(parts, texts)
    return [text for part in parts for text in part]


def lost_peer(error: BaseException) -> LostPeerError | None:
    """Return what to say of an error that is a lost rank's doing; None: it is not."""
    if isinstance(error, LostPeerError):
        return error
    is_lost = isinstance(error, (dist.DistNetworkError, dist.DistStoreError))
    if not is_lost and not (isinstance(error, RuntimeError) and _LOST.search(str(error))):
        return None
    return LostPeerError(
        f"rank {dist.get_rank()} of {dist.get_world_size()} lost another rank, which ended or did "
        "not answer in time: mend what that one printed last (or the lack of memory that the "
        "system's log tells of) and start all ranks again; where it only was slow, give "
        "torch.distributed.init_process_group a longer timeout before the trainer's arguments are "
        "made (their ddp_timeout does the same, but not with use_cpu=True)"
    )


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        lost = lost_peer(error)
        if lost is None:
            raise
        raise lost from error


class _Gather(torch.autograd.Function):
    """Collectives need one size on all ranks: shorter ranks are padded, and cut again."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, peers: Peers) -> Tensor:
        ctx.peers = peers
        sizes, most = peers.sizes, max(peers.sizes)
        found = _all_gather(_padded(rows, most), len(sizes))
        if min(sizes) == most:
            return found
        parts = torch.split(found, most)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        sizes, most = ctx.peers.sizes, max(ctx.peers.sizes)
        wide = grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad
        parts = torch.cat([_padded(part, most) for part in torch.split(wide, list(sizes))])
        total = parts.new_empty(most, *parts.shape[1:])
        # The name of newer versions; the older one, which 2.10 has, warns there.
        scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        with _answered():
            scatter(total, parts)
        return total[: sizes[ctx.peers.rank]].to(grad.dtype), None


def _all_gather(rows: Tensor, ranks: int) -> Tensor:
    found = rows.new_empty(ranks * rows.shape[0], *rows.shape[1:])
    collect = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    with _answered():
        collect(found, rows.contiguous())
    return found


def _padded(rows: Tensor, length: int) -> Tensor:
    missing = length - rows.shape[0]
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows
