"""Which part of a split pairs go to: whole packages, folders or files, in the order of a hash."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from .pairs import Pair, pair_hash

SHARES = (0.7, 0.1, 0.2)  # train, valid, test
# With fewer packages, thresholds on a hash would miss the shares by chance, so rows are counted.
FEW_UNITS = 20
# Of the rows: where valid or test would have less, a finer unit is taken.
LEAST_SHARE = 0.05
# Chosen among 1,000 by the number of rows alone: at seed 0 those of a plain installation come near
# the shares, and no few packages make up valid or test.
_SALT = 762


class Allotted(NamedTuple):
    """A unit that stays together, the unit of a pair, and the part of each unit.

    Attributes:
        unit: "package", "folder", "file" or "function".
        unit_of: The name of a pair's unit.
        parts: Name of a unit -> "train", "valid" or "test".
        by_rows: Whether rows were counted; else the hash of its name alone places a unit.
    """

    unit: str
    unit_of: Callable[[Pair], str]
    parts: dict[str, str]
    by_rows: bool = True


def _package(pair: Pair) -> str:
    return pair.package


def _folder(pair: Pair) -> str:
    return f"{pair.package}/{PurePosixPath(pair.path).parent}"


def _file(pair: Pair) -> str:
    return f"{pair.package}/{pair.path}"


# The coarsest unit that there are enough of is taken. Ten folders make a fair split of one
# repository; below it, files do.
_UNITS: tuple[tuple[str, Callable[[Pair], str], int], ...] = (
    ("package", _package, 3),
    ("folder", _folder, 10),
    ("file", _file, 3),
    ("function", pair_hash, 0),
)


def allot(pairs: Sequence[Pair], seed: int, cap: int | None) -> Allotted:
    """Return the part of each unit of pairs.

    20 packages or more are placed by the hash of their names alone. Other units, and packages that
    would leave valid or test less than 5 % of the rows so, are taken in the order of that hash
    until valid and test have about their share of the rows; if one of them still gets less than
    5 %, a finer unit is tried.

    Args:
        pairs: The pairs.
        seed: Of the hash.
        cap: Rows of a unit beyond it do not count; None for no bound.
    """
    for unit, unit_of, least in _UNITS:
        rows = {name: min(n, cap or n) for name, n in Counter(map(unit_of, pairs)).items()}
        if len(rows) < least:
            continue
        is_many = unit == "package" and len(rows) >= FEW_UNITS
        for by_rows in (False, True) if is_many else (True,):
            parts = (_by_rows if by_rows else _by_threshold)(rows, seed)
            held = Counter[str]()
            for name, part in parts.items():
                held[part] += rows[name]
            if min(held["valid"], held["test"]) >= LEAST_SHARE * sum(rows.values()):
                return Allotted(unit, unit_of, parts, by_rows)
    return Allotted(unit, unit_of, parts)


def take_share(
    pairs: Sequence[Pair], share: float, seed: int
) -> tuple[str, list[Pair], list[Pair]]:
    """Take about a share of pairs, by the coarsest unit that comes near it.

    Near is what misses it by no more than half of the share, or of what is left.

    Returns:
        The unit ("package", "folder", "file" or "function"), the pairs taken, the others. None are
        taken of fewer than two.
    """
    for unit, unit_of, _ in _UNITS:
        rows = Counter(map(unit_of, pairs))
        names = set(_take(rows, seeded(seed, rows), share * len(pairs), len(pairs)))
        taken = [pair for pair in pairs if unit_of(pair) in names]
        slack = min(share, 1 - share) / 2 * len(pairs)
        if abs(len(taken) - share * len(pairs)) <= slack or unit == "function":
            break
    return unit, taken, [pair for pair in pairs if unit_of(pair) not in names]


def seeded_hash(seed: int, text: str) -> int:
    """Return 64 bits of seed and text, the same on every machine."""
    digest = hashlib.sha256(f"{_SALT + seed}\0{text}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def seeded(seed: int, names: Iterable[str]) -> list[str]:
    """Return names in the order of their hash."""
    return sorted(names, key=lambda name: seeded_hash(seed, name))


def _by_threshold(rows: Mapping[str, int], seed: int) -> dict[str, str]:
    order = seeded(seed, rows)
    largest = _largest(rows)
    bounds = (SHARES[0], SHARES[0] + SHARES[1])
    places = {unit: seeded_hash(seed, unit) / 2**64 for unit in order}
    parts = {
        unit: "train" if place < bounds[0] else "valid" if place < bounds[1] else "test"
        for unit, place in places.items()
    }
    if rows[largest] > sum(rows.values()) / 3:
        parts[largest] = "train"  # held out, it would leave little to learn from
    # By chance a part may be empty; the units nearest to its bounds fill it.
    for name, place in (("train", 0.0), ("valid", sum(bounds) / 2), ("test", 1.0)):
        counts = Counter(parts.values())
        if not counts[name]:
            free = [unit for unit in order if counts[parts[unit]] > 1 and unit != largest]
            parts[min(free, key=lambda unit: abs(places[unit] - place))] = name
    return parts


def _by_rows(rows: Mapping[str, int], seed: int) -> dict[str, str]:
    """Valid first, whose share is the smaller one; the largest unit is trained on."""
    total = sum(rows.values())
    parts = dict.fromkeys(rows, "train")
    left = [unit for unit in seeded(seed, rows) if unit != _largest(rows)]
    for name, share in (("valid", SHARES[1]), ("test", SHARES[2])):
        parts.update(dict.fromkeys(_take(rows, left, share * total, total), name))
        left = [unit for unit in left if parts[unit] == "train"]
    return parts


def _take(rows: Mapping[str, int], order: Sequence[str], target: float, total: int) -> list[str]:
    """Return units in their order, each that brings their rows nearer to the target without
    overshooting it by more than half; where all would, the smallest."""
    most = target + min(target, total - target) / 2
    taken: list[str] = []
    count = 0
    for unit in order:
        if rows[unit] < 2 * (target - count) and count + rows[unit] <= most:
            taken.append(unit)
            count += rows[unit]
    smallest = sorted(order, key=rows.__getitem__)[:1]
    return taken or [unit for unit in smallest if rows[unit] < total]


def _largest(rows: Mapping[str, int]) -> str:
    return max(rows, key=lambda unit: (rows[unit], unit), default="")
