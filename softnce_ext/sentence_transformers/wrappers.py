"""Wrappers of data-parallel training that a cached loss cannot train through."""

from __future__ import annotations

import sys
from typing import Any

from ..distributed import Peers


def check_wrapper(model: Any, size: int | str, peers: Peers) -> None:
    """Refuse what would end inside PyTorch, or with ranks that wait for each other.

    Args:
        model: As the trainer has wrapped it.
        size: Of mini-batches, or "auto", which each rank finds for itself.
        peers: The ranks, where the loss knows them.

    Raises:
        ValueError: It is DDP with a static graph, or FSDP where ranks may differ in mini-batches.
    """
    if getattr(model, "static_graph", False):
        raise ValueError(
            "model must be in DistributedDataParallel without static_graph, since a cached loss "
            "runs it once for each mini-batch, got static_graph=True"
        )
    fsdp = sys.modules.get("torch.distributed.fsdp")  # else nothing is wrapped in it
    if fsdp is None or (size != "auto" and len(set(peers.sizes)) == 1):
        return
    sharded = (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
    if any(isinstance(module, sharded) for module in model.modules()):
        raise ValueError(
            "under FSDP every rank must have as many rows, and mini_batch_size must be an int, "
            "since all ranks take part in each mini-batch, got rows "
            f"{list(peers.sizes)} and mini_batch_size {size!r}"
        )
