from __future__ import annotations

import json
from pathlib import Path

import pytest

from softnce_ext.data.marked import MARKER, mark, read_marked


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    mark(tmp_path, {"told": 3})
    return tmp_path


def test_a_whole_folder_gives_what_its_marker_tells(folder: Path) -> None:
    told, fault = read_marked(folder)
    assert fault == "" and told["told"] == 3 and set(told["files"]) == {"a", "b"}


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", '{"files": []}', None])
def test_a_folder_without_a_marker_was_not_written_to_its_end(
    folder: Path, content: str | None
) -> None:
    (folder / MARKER).unlink()
    if content is not None:
        (folder / MARKER).write_text(content)
    assert read_marked(folder) == ({}, "it was not written to its end")


def test_files_are_those_of_the_marker(folder: Path) -> None:
    for change, name in (
        (lambda: (folder / "b").write_text("too"), "b"),  # as long
        (lambda: (folder / "a").unlink(), "a"),
        (lambda: (folder / "0").write_text(""), "0"),
    ):
        change()
        assert read_marked(folder) == ({}, f"{name} is not as it was written")


def test_a_marker_reads_nothing_outside_its_folder(folder: Path) -> None:
    told = json.loads((folder / MARKER).read_text())
    told["files"]["../x"] = told["files"]["a"]
    (folder.parent / "x").write_text("one")
    (folder / MARKER).write_text(json.dumps(told))
    assert read_marked(folder)[1] == "../x is not as it was written"
