"""The rows of six languages that systems are trained on, of templates and of mined pairs alike."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from language_rows import LANGUAGES, MAX_CODE_CHARACTERS, language_rows, write_languages

from softnce_ext.data.formats import read_pairs


@pytest.mark.parametrize("language", LANGUAGES)
def test_rows_differ_and_fill_the_three_parts(language: str, tmp_path: Path) -> None:
    rows = language_rows(language)
    assert Counter(row["partition"] for row in rows) == {"train": 30, "valid": 9, "test": 9}
    for key, count in (("query", 48), ("code", 48), ("package", 16)):
        assert len({row[key] for row in rows}) == count
    pairs = read_pairs(write_languages(tmp_path / "all.jsonl", language), progress=False)
    assert len(pairs) == len(pairs.partitions) == 48
    assert {pair.language for pair in pairs} == {language}


def test_mined_pairs_take_the_place_of_templates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(count: int) -> None:
        good = [{"query": f"Read {i} rows.", "code": f"func f{i}() {{}}"} for i in range(count)]
        bad = [good[0], {**good[0], "query": "Read others."}, {**good[0], "code": "x"}]
        bad += [{"query": "Read a lot.", "code": "x" * (MAX_CODE_CHARACTERS + 1)}]
        lines = [json.dumps(row) for row in good + bad]
        (tmp_path / "go.jsonl").write_text("\n".join(lines))

    monkeypatch.setenv("SOFTNCE_TEST_PAIRS", str(tmp_path))
    write(96)
    assert [row["query"] for row in language_rows("go")] == [
        f"Read {i} rows." for i in range(0, 96, 2)
    ]
    write(47)
    with pytest.raises(ValueError, match="must hold 48 different pairs, got 47"):
        language_rows("go")
    with pytest.raises(FileNotFoundError):
        language_rows("php")
