from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import SOURCE, save_tiny_encoder

from softnce_ext.data.mining import mine_folder
from softnce_ext.data.pairs import Pair
from softnce_ext.encoders.saved import load_encoder
from softnce_ext.search.index import (
    Index,
    build_index,
    default_folder,
    index_name,
    load_index,
    open_index,
    save_index,
)
from softnce_ext.search.query import Hit, search
from softnce_ext.search.show import highlight, show


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_tiny_encoder(folder, name_boost=3, hybrid_weight=0.5)
    return folder


@pytest.fixture(scope="module")
def index(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    code = tmp_path_factory.mktemp("code")
    (code / "tools.py").write_text(SOURCE)
    model, settings = load_encoder(str(encoder))
    functions = mine_folder(code, keep_all=True, progress=False)
    return build_index(functions, model, name_boost=settings.name_boost)


def names(hits: list[Hit]) -> list[str]:
    return [hit.function.name for hit in hits]


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_the_described_function_comes_first_also_without_documentation(
    index: Index, encoder: Path, mode: str
) -> None:
    model, _ = load_encoder(str(encoder))
    found = search(index, model, "scale the image to a width", mode=mode, top=2)
    assert names(found)[0] == "resize_image"
    assert (found[0].function.path, found[0].function.line) == ("tools.py", 14)
    assert found[0].function.code.startswith("async def resize_image(self, image, width):\n    he")
    found = search(index, model, "send a mail", mode=mode)
    assert names(found)[0] == "send_mail"
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


def test_documentation_is_searched_by_its_words(index: Index, encoder: Path) -> None:
    model, _ = load_encoder(str(encoder))
    # "entry" and "row" stand in read_lines' docstring alone.
    assert names(search(index, model, "entry row", mode="lexical")) == ["read_lines"]
    assert search(index, model, "zebra", mode="lexical") == []
    assert names(search(index, model, "entry row"))[0] == "read_lines"


def test_top_bounds_the_hits(index: Index, encoder: Path) -> None:
    model, _ = load_encoder(str(encoder))
    assert len(search(index, model, "send", top=1)) == 1
    assert len(search(index, model, "send", top=100)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": " "}, "query must hold at least one word"),
        ({"top": 0}, "top must be >= 1, got 0"),
        ({"mode": "both"}, "mode must be one of hybrid, dense, lexical, got 'both'"),
    ],
)
def test_bad_questions_are_refused(index: Index, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(index, None, **{"query": "send", **arguments})  # type: ignore[arg-type]


def test_an_empty_code_base_is_refused() -> None:
    with pytest.raises(ValueError, match="functions must hold at least one function"):
        build_index([], None, name_boost=3)  # type: ignore[arg-type]


def test_a_saved_index_answers_as_the_built_one(
    index: Index, encoder: Path, tmp_path: Path
) -> None:
    model, _ = load_encoder(str(encoder))
    save_index(index, tmp_path / "saved")
    loaded = load_index(tmp_path / "saved")
    for mode in ("hybrid", "dense", "lexical"):
        assert search(loaded, model, "send mail", mode=mode) == search(
            index, model, "send mail", mode=mode
        )
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


class Shelf:
    """An index root that counts what is built and keeps what is told."""

    def __init__(self, root: Path, index: Index) -> None:
        self.root, self.index = root, index
        self.built, self.told = 0, []  # type: int, list[str]

    def open(self, state: str = "a") -> tuple[Index, Path | None, bool]:
        def build() -> Index:
            self.built += 1
            return self.index

        return open_index(self.root, ("code-123", state), build, self.told.append)


def test_an_index_is_reused_and_an_older_state_removed(index: Index, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "deep" / "shelf", index)
    _, folder, reused = shelf.open()
    assert (reused, shelf.built, shelf.told) == (False, 1, [])
    assert folder is not None
    written = (folder / "vectors.npy").stat().st_mtime_ns
    again, _, reused = shelf.open()
    assert (reused, shelf.built) == (True, 1)
    assert (folder / "vectors.npy").stat().st_mtime_ns == written
    assert np.array_equal(again.vectors, index.vectors)

    (tmp_path / "deep" / "shelf" / "code-1234-other").mkdir()
    _, newer, reused = shelf.open("b")
    assert (reused, shelf.built) == (False, 2)
    assert "changed since the last search" in shelf.told[-1]
    assert sorted(path.name for path in shelf.root.iterdir()) == ["code-123-b", "code-1234-other"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: os.truncate(folder / "vectors.npy", 200),
        lambda folder: (folder / "vectors.npy").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text('{"files": []}'),
        lambda folder: (folder / "manifest.json").write_text("[1, 2]"),
        lambda folder: os.truncate(folder / "functions.jsonl", 10),
        lambda folder: flip_last_byte(folder / "vectors.npy"),
        lambda folder: [
            flip_last_byte(path) for path in (folder / "lexical").rglob("*") if path.is_file()
        ],
    ],
)
def test_a_damaged_index_is_built_again(index: Index, tmp_path: Path, damage) -> None:
    shelf = Shelf(tmp_path, index)
    _, folder, _ = shelf.open()
    damage(folder)
    found, _, reused = shelf.open()
    assert (reused, shelf.built) == (False, 2)
    assert "is damaged" in shelf.told[-1]
    assert np.array_equal(found.vectors, index.vectors)
    assert shelf.open()[2]


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_an_index_that_cannot_be_saved_still_answers(index: Index, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shelf = Shelf(tmp_path / "file" / "shelf", index)
    found, folder, reused = shelf.open()
    assert (folder, reused) == (None, False)
    assert found is index
    assert "cannot be saved" in shelf.told[-1]


def test_a_failed_write_leaves_nothing_behind(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("softnce_ext.search.index._checksum", fail)
    with pytest.raises(KeyboardInterrupt):
        save_index(index, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_the_name_follows_model_code_files_and_settings(tmp_path: Path) -> None:
    code, model = tmp_path / "my code", tmp_path / "model"
    code.mkdir()
    model.mkdir()
    file = code / "a.py"
    file.write_text("x = 1\n")
    (model / "weights").write_text("1")

    def name(**settings: Any) -> tuple[str, str]:
        return index_name(str(model), code, code.glob("*.py"), **{"name_boost": 3, **settings})

    first = name()
    assert first == name()
    assert first[0].startswith("my-code-")
    which, state = name(name_boost=0)
    assert (which, state != first[1]) == (first[0], True)
    states = {first[1], state}
    os.utime(file, ns=(1, 1))
    states.add(name()[1])
    (code / "b.py").write_text("")
    states.add(name()[1])
    (model / "weights").write_text("12")
    states.add(name()[1])
    assert len(states) == 5
    assert name()[0] == first[0]
    assert name(language="go")[0] != first[0]  # an index of its own beside that of all languages
    assert index_name("some/hub-name", code, [])[0] != first[0]


def test_the_cache_folder_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTNCE_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert default_folder() == Path("/a/index")
    monkeypatch.delenv("SOFTNCE_CACHE")
    assert default_folder() == Path("/b/softnce_ext/index")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path("/c/.cache/softnce_ext/index")


def test_a_hit_is_shown_with_place_documentation_and_first_lines() -> None:
    code = "def f(a):\n\tx = a\n    y\n    z\n    return \x1b[31m"
    hit = Hit(Pair("Read all lines.", code, "f", path="m.py", line=7), 0.5)
    assert show(hit, 2, "read lines", "src/m.py", color=False).split("\n") == [
        "2. src/m.py:7  f  0.500",
        "    # Read all lines.",
        "    def f(a):",
        "        x = a",
        "        y",
        "        z",
        "    ... 1 more line",
    ]
    lines = show(Hit(Pair("Read it.", "x", "f", language="php"), 0.5), 1, "x", "a", color=False)
    assert lines.split("\n")[1] == "    // Read it."
    assert "\x1b[31m" not in show(
        Hit(Pair("", "\x1b[31m", "f", path="m.py", line=7), 0.5), 1, "x", "m.py", color=True
    )


def test_the_words_of_the_query_are_highlighted_inside_identifiers() -> None:
    mark = "\x1b[1;33m{}\x1b[0m".format
    assert highlight("x = readLine(the_file)", "Read the lines of a file into a list") == (
        f"x = {mark('read')}{mark('Line')}(the_{mark('file')})"
    )
    assert highlight("a = b", "a of b") == "a = b"
    assert highlight("x(.*)", "(.*)") == "x(.*)"


def test_records_keep_any_text(index: Index) -> None:
    pair = Pair("é\u2028\n", "x = '\u2028\x85'", "f")
    record = build_record(pair)
    assert Index(index.vectors, index.lexical, [record]).function(0) == pair
    assert b"\n" not in record


def build_record(pair: Pair) -> bytes:
    from dataclasses import asdict

    return json.dumps(asdict(pair)).encode()
