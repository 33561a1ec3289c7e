"""Split pairs into train, valid and test so that test is truly unseen: no package in two of them,
but where files name the partitions, or the packages are too few or too unequal.

Whatever the order of the pairs, and on every machine, the same pairs and seed give the same split.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .allot import allot, seeded_hash, take_share
from .duplicates import near_duplicates, normalised_code, normalised_query
from .pairs import Pair, in_order, pair_hash

MAX_TRAIN_PER_PACKAGE = 3000
MAX_HELD_OUT_PER_PACKAGE = 300  # no single package speaks for the whole test
PARTITIONS = ("train", "valid", "test")
# What a held-out part that no file names takes of another part's rows.
_TAKEN = {"test": ("valid", 2 / 3), "valid": ("train", 1 / 8)}


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
    to test. Fewer than 20 packages, and those that would leave valid or test less than 5 % of the
    rows so, are taken in the order of that hash until valid and test have 10 % and 20 % of the
    rows; the largest goes to train. One or two packages, and those that leave too few rows this way
    too, are split by folder (of ten or more), else by file, else by function. Rows whose files name
    a partition keep it, untouched, where both train and a held-out part are named; a missing valid
    takes about 1/8 of the rows of train, a missing test 2/3 of those of valid, in whole packages
    where they come near it, else folders, files or functions. The held-out rows among them whose
    code stands in train are kept and counted.

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
    seen: dict[str, int] = {}
    if given["train"] and (given["valid"] or given["test"]):
        unit, rule = "given partition", "the partitions that the files name, kept as they are"
        parts = _gather(ordered, lambda pair: partitions.get(pair, "train"))
        for name, (source, share) in _TAKEN.items():
            if not parts[name]:
                of = len(parts[source])
                by, parts[name], parts[source] = take_share(parts[source], share, seed)
                rule += f"; {name} is {len(parts[name]):,} of {of:,} rows of {source}, by {by}"
        seen = _count_seen(parts)
    else:
        distinct = list({(pair.query, pair.code): pair for pair in reversed(ordered)}.values())
        distinct.reverse()
        dropped["exact duplicates"] += len(ordered) - len(distinct)
        unit, unit_of, part_of, by_rows = allot(distinct, seed, max_train)
        parts = _gather(distinct, lambda pair: part_of[unit_of(pair)])
        for name in PARTITIONS:
            cap = max_train if name == "train" else max_held_out
            capped = _cap(parts[name], unit_of, cap, seed)
            dropped[f"over the cap of {name}"] = len(parts[name]) - len(capped)
            parts[name] = capped
        _drop_seen(parts, dropped)
        rule = f"by {unit}, allotted by a hash of seed and name"
        if by_rows:
            rule = f"by {unit}, in the order of a hash of seed and name, to shares of the rows"
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
    if any(seen.values()):
        summary["code_in_train"] = seen
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
            indices.sort(key=lambda index: seeded_hash(seed, pair_hash(pairs[index])))
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
            code = _code_digest(pair)
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


def _count_seen(parts: Mapping[str, Sequence[Pair]]) -> dict[str, int]:
    """Return how many held-out rows have code that stands in train too."""
    codes = set(map(_code_digest, parts["train"]))
    return {
        name: sum(_code_digest(pair) in codes for pair in parts[name]) for name in ("valid", "test")
    }


def _code_digest(pair: Pair) -> bytes:
    text = " ".join(normalised_code(pair))
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _describe(pairs: Sequence[Pair]) -> dict[str, Any]:
    packages = Counter(pair.package for pair in pairs)
    return {"rows": len(pairs), "packages": dict(sorted(packages.items()))}
