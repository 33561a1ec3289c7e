"""Split pairs into train, valid and test so that test is truly unseen: no package in two of them,
but where files name the partitions or the packages are too few.

Whatever the order of the pairs, and on every machine, the same pairs and seed give the same split.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from .duplicates import near_duplicates, normalised_code, normalised_query
from .pairs import Pair, in_order, pair_hash

MAX_TRAIN_PER_PACKAGE = 3000
MAX_HELD_OUT_PER_PACKAGE = 300  # no single package speaks for the whole test
SHARES = (0.7, 0.1, 0.2)  # of the packages: train, valid, test
# With fewer packages, thresholds on a hash would miss the shares by chance, so they are counted.
FEW_UNITS = 20
PARTITIONS = ("train", "valid", "test")
# Chosen among 1,000 by the number of rows alone: at seed 0 those of a plain installation come near
# the shares, and no few packages make up valid or test.
_SALT = 762


@dataclass(frozen=True)
class Split:
    """Three lists of pairs that share no package, folder or file: `summary` has the unit.

    Attributes:
        train: Sorted by package, path and line, as the others.
        valid: What every choice (weights, epochs) is made on.
        test: What is looked at once.
        summary: How it was split, rows and packages, and what was dropped; ready for JSON.
        versions: Package name -> version, where the pairs come from installed packages.
    """

    train: list[Pair]
    valid: list[Pair]
    test: list[Pair]
    summary: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def parts(self) -> dict[str, list[Pair]]:
        """Return the three lists by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


def split_by_package(
    pairs: Sequence[Pair],
    *,
    seed: int = 0,
    partitions: Mapping[Pair, str] | None = None,
    max_train: int | None = MAX_TRAIN_PER_PACKAGE,
    max_held_out: int | None = MAX_HELD_OUT_PER_PACKAGE,
) -> Split:
    """Split pairs by package, and drop from valid and test what train has shown already.

    A hash of seed and package name allots 70 % of the packages to train, 10 % to valid and 20 %
    to test; with fewer than 20 packages they are counted off in the order of that hash, and the
    largest goes to train. One or two packages are split by folder, or else by file. Rows whose
    files name a partition keep it, untouched, where both train and a held-out part are named.

    Dropped from valid and test: rows whose code nearly stands in train (Jaccard similarity of 0.7
    and more), and rows whose query or whole code stands in train or earlier among the held-out.

    Args:
        pairs: The pairs; a `Pairs` list brings its partitions and versions along.
        seed: Of the hash.
        partitions: "train", "valid" or "test" of pairs; instead of those that `pairs` brings.
        max_train: Largest number of train rows per package; None for no bound.
        max_held_out: Largest number of valid or test rows per package; None for no bound.

    Raises:
        ValueError: A bound is below 1, or the pairs are too few to fill three parts.
    """
    for argument, value in (("max_train", max_train), ("max_held_out", max_held_out)):
        if value is not None and value < 1:
            raise ValueError(f"{argument} must be at least 1, got {value}")
    if partitions is None:
        partitions = getattr(pairs, "partitions", {})
    report = getattr(pairs, "report", {})
    repeated = report.get("repeated", {})  # dropped as they were read
    dropped: Counter[str] = Counter(repeated)
    ordered = sorted(pairs, key=in_order)
    given = Counter(partitions[pair] for pair in ordered if pair in partitions)
    if given["train"] and (given["valid"] or given["test"]):
        unit, part_of = "given partition", _keep_partitions(ordered, partitions, seed)
        parts = _gather(ordered, part_of)
        rule = "the partitions that the files name, kept as they are"
        if not given["test"]:
            rule += "; test is 2 of 3 packages of valid"
        if not given["valid"]:
            rule += "; valid is 1 of 8 packages of train"
    else:
        distinct = list({(pair.query, pair.code): pair for pair in reversed(ordered)}.values())
        distinct.reverse()
        dropped["exact duplicates"] += len(ordered) - len(distinct)
        unit, unit_of = _choose_unit(distinct)
        allotted = _allot(Counter(map(unit_of, distinct)), seed, max_train)
        parts = _gather(distinct, lambda pair: allotted[unit_of(pair)])
        for name in PARTITIONS:
            cap = max_train if name == "train" else max_held_out
            capped = _cap(parts[name], unit_of, cap, seed)
            dropped[f"over the cap of {name}"] = len(parts[name]) - len(capped)
            parts[name] = capped
        _drop_seen(parts, dropped)
        rule = f"by {unit}, allotted by a hash of seed and name"
    for name in PARTITIONS:
        if not parts[name]:
            raise ValueError(
                f"pairs must fill train, valid and test, got {len(ordered):,} pairs in"
                f" {len({pair.package for pair in ordered}):,} packages that leave {name} empty"
            )
    summary = {
        "unit": unit,
        "rule": rule,
        "seed": seed,
        "pairs": len(pairs) + sum(repeated.values()),
        "dropped": {reason: count for reason, count in dropped.items() if count},
        **{name: _describe(parts[name]) for name in PARTITIONS},
    }
    if report.get("python_by_default"):
        summary["python_by_default"] = report["python_by_default"]
    names = {pair.package for part in parts.values() for pair in part}
    versions = getattr(pairs, "versions", {})
    return Split(
        **parts,
        summary=summary,
        versions={name: versions[name] for name in sorted(names & versions.keys())},
    )


def _gather(pairs: Iterable[Pair], part_of: Callable[[Pair], str]) -> dict[str, list[Pair]]:
    parts: dict[str, list[Pair]] = {name: [] for name in PARTITIONS}
    for pair in pairs:
        parts[part_of(pair)].append(pair)
    return parts


def _choose_unit(pairs: Sequence[Pair]) -> tuple[str, Callable[[Pair], str]]:
    """Return the unit that stays together: the package, where there are three or more of them."""

    def package(pair: Pair) -> str:
        return pair.package

    def folder(pair: Pair) -> str:
        return f"{pair.package}/{PurePosixPath(pair.path).parent}"

    def file(pair: Pair) -> str:
        return f"{pair.package}/{pair.path}"

    # Ten folders make a fair split of one repository; below it, files do.
    for name, unit_of, least in (
        ("package", package, 3),
        ("folder", folder, 10),
        ("file", file, 3),
    ):
        if len(set(map(unit_of, pairs))) >= least:
            return name, unit_of
    return "function", pair_hash


def _allot(rows: Mapping[str, int], seed: int, cap: int | None) -> dict[str, str]:
    """Return the part of each unit, given its number of rows."""
    size = {unit: min(count, cap or count) for unit, count in rows.items()}
    order = sorted(size, key=lambda unit: _hash(seed, unit))
    largest = max(size, key=lambda unit: (size[unit], unit), default="")
    if len(order) >= FEW_UNITS:
        bounds = (SHARES[0], SHARES[0] + SHARES[1])
        places = {unit: _hash(seed, unit) / 2**64 for unit in order}
        parts = {
            unit: "train" if place < bounds[0] else "valid" if place < bounds[1] else "test"
            for unit, place in places.items()
        }
        if size[largest] > sum(size.values()) / 3:
            parts[largest] = "train"  # held out, it would leave little to learn from
        # By chance a part may be empty; the units nearest to its bounds fill it.
        for name, place in (("train", 0.0), ("valid", sum(bounds) / 2), ("test", 1.0)):
            counts = Counter(parts.values())
            if not counts[name]:
                free = [unit for unit in order if counts[parts[unit]] > 1 and unit != largest]
                parts[min(free, key=lambda unit: abs(places[unit] - place))] = name
        return parts
    order = [unit for unit in order if unit != largest]
    tests = max(1, round(SHARES[2] * len(size)))
    valids = max(1, round(SHARES[1] * len(size)))
    parts = dict.fromkeys(order[:tests], "test")
    parts.update(dict.fromkeys(order[tests : tests + valids], "valid"))
    parts.update(dict.fromkeys([*order[tests + valids :], largest], "train"))
    return parts


def _keep_partitions(
    pairs: Sequence[Pair], partitions: Mapping[Pair, str], seed: int
) -> Callable[[Pair], str]:
    """Return the part of each pair, where files name train and at least one held-out part.

    The missing held-out part takes packages of another; a row without a partition goes to train.
    """
    named = {name: {p.package for p in pairs if partitions.get(p) == name} for name in PARTITIONS}
    moved: dict[tuple[str, str], str] = {}
    for missing, source, places in (("test", "valid", 2 / 3), ("valid", "train", 1 / 8)):
        if named[missing]:
            continue
        order = sorted(named[source], key=lambda package: _hash(seed, package))
        count = min(max(1, round(places * len(order))), max(1, len(order) - 1))
        moved.update({(source, package): missing for package in order[:count]})
    # A source of one package gives every other row.
    whole = {source for source, _ in moved if len(named[source]) == 1}

    def part_of(pair: Pair) -> str:
        part = partitions.get(pair, "train")
        if part in whole and _hash(seed, pair_hash(pair)) % 2:
            return part
        return moved.get((part, pair.package), part)

    return part_of


def _cap(
    pairs: list[Pair], unit_of: Callable[[Pair], str], cap: int | None, seed: int
) -> list[Pair]:
    """Keep the rows of least hash, `cap` of each unit, in their order."""
    if cap is None:
        return pairs
    by_unit: defaultdict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        by_unit[unit_of(pair)].append(index)
    kept: list[int] = []
    for indices in by_unit.values():
        if len(indices) > cap:
            indices.sort(key=lambda index: _hash(seed, pair_hash(pairs[index])))
        kept.extend(indices[:cap])
    return [pairs[index] for index in sorted(kept)]


def _drop_seen(parts: dict[str, list[Pair]], dropped: Counter[str]) -> None:
    """Drop from valid and test, in place, what train or an earlier held-out row shows already."""
    held_out = parts["valid"] + parts["test"]
    is_near = near_duplicates(held_out, parts["train"])
    near = {id(pair) for pair, flag in zip(held_out, is_near, strict=True) if flag}
    queries = {normalised_query(pair.query) for pair in parts["train"]}
    codes: set[bytes] = set()
    for name in ("valid", "test"):
        kept = []
        for pair in parts[name]:
            query = normalised_query(pair.query)
            code = hashlib.sha256(" ".join(normalised_code(pair)).encode()).digest()
            if id(pair) in near:
                dropped[f"near duplicates of train in {name}"] += 1
            elif query in queries:
                dropped[f"repeated queries in {name}"] += 1
            elif code in codes:
                dropped[f"repeated code in {name}"] += 1
            else:
                kept.append(pair)
            queries.add(query)
            codes.add(code)
        parts[name] = kept


def _describe(pairs: Sequence[Pair]) -> dict[str, Any]:
    packages = Counter(pair.package for pair in pairs)
    return {"rows": len(pairs), "packages": dict(sorted(packages.items()))}


def _hash(seed: int, text: str) -> int:
    """Return 64 bits of seed and text, the same on every machine."""
    digest = hashlib.sha256(f"{_SALT + seed}\0{text}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
