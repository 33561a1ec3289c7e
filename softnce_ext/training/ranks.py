"""The processes that train together: what the first does for all, and how one that fails ends all.

torchrun and accelerate launch start them and tell each its number; nothing here needs a flag. A
process that was started alone is the first of one, and no function here does more than its work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

# A step's collectives; transformers' own default.
STEP_TIMEOUT = timedelta(minutes=30)
# What the first rank does alone meanwhile: it reads, encodes a teacher's table, validates. One that
# dies is noticed at once: its connections close.
WAIT_TIMEOUT = timedelta(hours=2)
_LAST_WORDS_S = 1.0  # launchers end the other ranks as soon as one has ended

_waiting: Any = None  # a process group on the CPU, whatever the gradients travel by


@contextmanager
def joined() -> Iterator[None]:
    """Meet the other ranks, if this process was started as one of several and has not met them.

    Of ranks that fail only the first to do so raises, and says why: the others would say the same,
    or that it is gone.

    Raises:
        SystemExit: Another rank has failed, or the first rank tells of a Ctrl-C.
    """
    if not _launched() or _waiting is not None:
        yield
        return
    try:
        _join()
        yield
        part()
    except KeyboardInterrupt:
        if is_first():
            _fails_first()
            raise
        raise SystemExit(130) from None
    except Exception as error:
        if not _fails_first():
            time.sleep(_LAST_WORDS_S)
            raise SystemExit(1) from None
        from ..distributed import lost_peer

        lost = lost_peer(error)
        if lost is not None:
            raise lost from error
        raise


def count() -> int:
    """Return how many ranks train together."""
    return _group_size() if _waiting is not None else 1


def is_first() -> bool:
    """Tell whether this is the rank that reads, prints and writes."""
    return not _launched() or _number() == 0


def from_first(work: Callable[[], T]) -> T:
    """Return on every rank what `work` returns on the first, where alone it is done.

    Raises:
        SystemExit: It has failed; the first rank raises what it raised.
    """
    if count() == 1:
        return work()
    told: list[Any] = [None]
    if is_first():
        try:
            told = [(work(),)]
        except BaseException:
            with suppress(RuntimeError):  # another rank may be gone
                _broadcast([None])
            raise
    _broadcast(told)
    if told[0] is None:
        time.sleep(_LAST_WORDS_S)
        raise SystemExit(1)
    value: T = told[0][0]
    return value


def after_first(work: Callable[[], T]) -> T:
    """Return what `work` returns here; the others do it after the first, and find its files."""
    if count() == 1:
        return work()
    own: list[T] = []
    from_first(lambda: own.append(work()))
    return own[0] if own else work()


def any_rank(here: bool) -> bool:
    """Tell whether it is so on any rank."""
    if count() == 1:
        return here
    import torch
    import torch.distributed as dist

    there = torch.tensor(int(here))
    dist.all_reduce(there, dist.ReduceOp.MAX, group=_waiting)
    return bool(there)


def mean(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the means of figures that every rank has, by name, over the ranks."""
    if count() == 1 or not figures:
        return dict(figures)
    import torch
    import torch.distributed as dist

    names = sorted(figures)
    sums = torch.tensor([figures[name] for name in names], dtype=torch.float64)
    dist.all_reduce(sums, group=_waiting)
    return dict(zip(names, (sums / count()).tolist(), strict=True))


def part() -> bool:
    """End what the ranks do together; return whether this is the first, which may go on alone."""
    global _waiting
    if _waiting is not None:
        import torch.distributed as dist

        dist.barrier(group=_waiting)
        dist.destroy_process_group()
        _waiting = None
    return is_first()


def _launched() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and {"RANK", "LOCAL_RANK"} <= set(os.environ)


def _number() -> int:
    return int(os.environ["RANK"])


def _group_size() -> int:
    import torch.distributed as dist

    return dist.get_world_size(_waiting)


def _join() -> None:
    global _waiting
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():  # transformers takes a group that is there
        device = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        backend = dist.get_default_backend_for_device(device or "cpu")
        dist.init_process_group(backend, timeout=STEP_TIMEOUT)
    _waiting = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)


def _broadcast(told: list[Any]) -> None:
    import torch
    import torch.distributed as dist

    dist.broadcast_object_list(told, src=0, group=_waiting, device=torch.device("cpu"))


def _fails_first() -> bool:
    """Tell whether no rank has failed before, and keep that this one has."""
    import torch.distributed as dist

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    with suppress(RuntimeError, KeyError, ValueError):  # the store may have gone with another rank
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store: Any = dist.TCPStore(  # type: ignore[attr-defined]
            *place, is_master=False, timeout=timedelta(seconds=10)
        )
        return int(store.add(f"softnce/failed/{attempt}", 1)) == 1
    return True
