import json
from pathlib import Path
from typing import Any

import pytest

from softnce_ext.data.manifest import apply_manifest, read_manifest, write_manifest
from softnce_ext.data.pairs import Pair, Pairs, pair_hash
from softnce_ext.data.split import Split, split_by_package


@pytest.fixture
def pairs() -> Pairs:
    rows = [
        Pair(f"Do {n} for p{p}", f"def f{p}_{n}(): return x{p * n}", f"f{n}", f"p{p}", "m.py", n)
        for p in range(30)
        for n in range(6)
    ]
    return Pairs(rows, versions={f"p{p}": f"{p}.0" for p in range(30)})


@pytest.fixture
def split(pairs: Pairs) -> Split:
    return split_by_package(pairs, max_train=4, max_held_out=3)


def test_manifest_pins_exactly_its_rows(tmp_path: Path, pairs: Pairs, split: Split) -> None:
    path = tmp_path / "manifest.json"
    write_manifest(path, split)
    pinned = apply_manifest(Pairs(reversed(pairs), versions=pairs.versions), read_manifest(path))
    assert pinned.parts() == split.parts()
    assert pinned.versions == split.versions
    assert pinned.summary["missing"] == {"train": {}, "valid": {}, "test": {}}
    assert pinned.summary["changed_packages"] == {}
    assert "note" not in pinned.summary
    again = tmp_path / "again.json"
    write_manifest(again, pinned)
    assert json.loads(again.read_text())["test"] == json.loads(path.read_text())["test"]
    assert sorted(tmp_path.iterdir()) == [again, path]


def test_manifest_says_versions_counts_and_hashes(tmp_path: Path, split: Split) -> None:
    write_manifest(tmp_path / "m.json", split)
    manifest = read_manifest(tmp_path / "m.json")
    assert manifest["packages"]["p7"] == "7.0"
    assert manifest["test"]["rows"] == len(split.test)
    assert manifest["test"]["pairs"] == sorted(map(pair_hash, split.test))
    assert manifest["python"].startswith("3.")


def test_missing_rows_and_changed_versions_are_named(
    tmp_path: Path, pairs: Pairs, split: Split
) -> None:
    write_manifest(tmp_path / "m.json", split)
    gone = split.test[0].package
    here = [each for each in pairs if each.package != gone]
    versions = {**pairs.versions, "p1": "1.1"}
    del versions[gone]
    pinned = apply_manifest(Pairs(here, versions=versions), read_manifest(tmp_path / "m.json"))
    assert pinned.summary["missing"] == {"train": {}, "valid": {}, "test": {gone: 3}}
    assert pinned.summary["changed_packages"] == {
        gone: {"manifest": split.versions[gone], "here": "absent"},
        "p1": {"manifest": "1.0", "here": "1.1"},
    }
    assert "rows are not here; changed packages: " in pinned.summary["note"]
    assert "p1 1.0 (here 1.1)" in pinned.summary["note"]


def test_manifest_of_other_data_is_refused(tmp_path: Path, split: Split) -> None:
    write_manifest(tmp_path / "m.json", split)
    with pytest.raises(ValueError, match="got none of its .* rows of train; changed packages: p0"):
        apply_manifest([Pair("Other", "x")], read_manifest(tmp_path / "m.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "must have format 1, got 99"),
        ({"packages": ["torch"]}, "'packages' must map package names to versions"),
        ({"test": {"pairs": "abc", "packages": {}}}, "'test' must have 'pairs'"),
        ({"train": None}, "'train' must have 'pairs'"),
    ],
)
def test_broken_manifest_is_told(
    tmp_path: Path, split: Split, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "m.json"
    write_manifest(path, split)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        read_manifest(path)


def test_what_is_no_manifest_is_told(tmp_path: Path) -> None:
    for text, message in (("{", "must be JSON"), ("[1]", "must have format 1, got None")):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_manifest(tmp_path / "m.json")
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        read_manifest(tmp_path / "none.json")
