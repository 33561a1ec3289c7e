"""A split written down, to be had again: package versions and the hash of every pair."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from .atomic import write_lines
from .pairs import Pair, pair_hash
from .split import PARTITIONS, Split

FORMAT = 1


class Part(TypedDict):
    """One part of a split: rows per package, and the sorted hashes of its pairs."""

    rows: int
    packages: dict[str, int]
    pairs: list[str]


class Manifest(TypedDict):
    """What `write_manifest` writes: `packages` maps names to versions, where there are any."""

    format: int
    python: str
    packages: dict[str, str]
    split: dict[str, Any]
    train: Part
    valid: Part
    test: Part


def write_manifest(path: str | Path, split: Split) -> None:
    """Write a split's manifest as JSON; the file is there whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    manifest = {
        "format": FORMAT,
        "python": platform.python_version(),
        "packages": split.versions,
        "split": {
            key: split.summary[key] for key in ("unit", "rule", "seed") if key in split.summary
        },
        **{name: _part(pairs) for name, pairs in split.parts().items()},
    }
    write_lines(path, [json.dumps(manifest, indent=1)])


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no manifest, or one of a later format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such manifest")
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: a manifest must be JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise ValueError(f"{path}: a manifest must have format {FORMAT}, got {found!r}")
    if not _is_versions(manifest.get("packages")):
        raise ValueError(f"{path}: 'packages' must map package names to versions")
    for name in PARTITIONS:
        part = manifest.get(name)
        if not (
            isinstance(part, dict)
            and isinstance(part.get("pairs"), list)
            and all(isinstance(each, str) for each in part["pairs"])
            and isinstance(part.get("packages"), dict)
            and all(isinstance(count, int) for count in part["packages"].values())
        ):
            raise ValueError(
                f"{path}: {name!r} must have 'pairs', a list of hashes, and 'packages'"
            )
    manifest.setdefault("python", "")
    manifest.setdefault("split", {})
    return manifest  # type: ignore[return-value]


def apply_manifest(pairs: Iterable[Pair], manifest: Manifest) -> Split:
    """Return the split that a manifest pins: exactly its rows, as far as they are here.

    `summary["missing"]` counts the rows that are not here, by part and package, and
    `summary["changed_packages"]` names the packages whose version differs or that are absent.

    Raises:
        ValueError: No row of a part is here.
    """
    versions: dict[str, str] = getattr(pairs, "versions", {})
    by_hash: dict[str, Pair] = {}
    for pair in sorted(pairs, key=lambda each: (each.package, each.path, each.line)):
        by_hash.setdefault(pair_hash(pair), pair)
    changed = {
        name: {"manifest": version, "here": versions.get(name, "absent")}
        for name, version in manifest["packages"].items()
        if versions.get(name) != version
    }
    parts: dict[str, list[Pair]] = {}
    missing: dict[str, dict[str, int]] = {}
    for name in PARTITIONS:
        part: Part = manifest[name]  # type: ignore[literal-required]
        found = [by_hash[each] for each in part["pairs"] if each in by_hash]
        if not found:
            raise ValueError(
                f"pairs must hold rows of the manifest, got none of its {len(part['pairs']):,} rows"
                f" of {name}{_in_words(changed)}"
            )
        parts[name] = sorted(found, key=lambda each: (each.package, each.path, each.line))
        here = Counter(pair.package for pair in found)
        gone = {package: count - here[package] for package, count in part["packages"].items()}
        missing[name] = {package: count for package, count in gone.items() if count > 0}
    summary = {
        **manifest["split"],
        "rule": "pinned by a manifest",
        "missing": missing,
        "changed_packages": changed,
        **{
            name: {"rows": len(found), "packages": _count_packages(found)}
            for name, found in parts.items()
        },
    }
    lost = sum(sum(each.values()) for each in missing.values())
    if lost:
        total = lost + sum(map(len, parts.values()))
        summary["note"] = (
            f"{lost:,} of the manifest's {total:,} rows are not here{_in_words(changed)}"
        )
    names = {pair.package for found in parts.values() for pair in found}
    kept = {name: versions[name] for name in sorted(names & versions.keys())}
    return Split(**parts, summary=summary, versions=kept)


def _part(pairs: list[Pair]) -> Part:
    hashes = sorted(map(pair_hash, pairs))
    return {"rows": len(pairs), "packages": _count_packages(pairs), "pairs": hashes}


def _count_packages(pairs: Iterable[Pair]) -> dict[str, int]:
    return dict(sorted(Counter(pair.package for pair in pairs).items()))


def _is_versions(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _in_words(changed: dict[str, dict[str, str]]) -> str:
    """Return "; changed packages: torch 2.13.0 (here 2.14.0), ..." or ""."""
    if not changed:
        return ""
    named = [f"{name} {each['manifest']} (here {each['here']})" for name, each in changed.items()]
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return f"; changed packages: {', '.join(named[:5])}{more}"
