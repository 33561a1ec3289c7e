import json
from pathlib import Path
from typing import Any

import pytest
from codesearchnet_dumps import record, write_parquet

from softnce_ext.data.formats import read_pairs
from softnce_ext.data.hub import read_hub
from softnce_ext.data.pairs import Pair

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


def read(name: object, split: str | None = None, **options: Any) -> Any:
    return read_hub(str(name), split, progress=False, **options)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_codesearchnet_of_the_hub_gives_query_then_code_without_its_docstring(
    tmp_path: Path,
) -> None:
    pytest.importorskip("pyarrow")
    folder = write_parquet(tmp_path, "python")
    pairs = read(folder)
    assert pairs.report["partitions"] == {"train": 6, "valid": 4, "test": 4}
    assert pairs[1].query == "Return the train sum number 1 of ä list."
    assert pairs[1].code == "def add_1(a):\n    return sum(a) + 1  # fast"
    assert (pairs[1].package, pairs[1].line) == ("owner/name", 11)
    assert read(folder, "validation") == pairs[6:10]
    assert read(folder / "test-00000-of-00001.parquet") == pairs[10:]
    with pytest.raises(ValueError, match=r"(?i)unknown split"):
        read(folder, "dev")


def test_columns_are_found_by_their_names_whatever_their_order(tmp_path: Path) -> None:
    row = {"code": "def f(): pass", "language": "ruby", "id": "7", "question": "How to do nothing?"}
    (pair,) = read(write(tmp_path / "x.jsonl", row))
    assert (pair.query, pair.code, pair.language) == (row["question"], row["code"], "ruby")
    folder = tmp_path / "saved"
    datasets.Dataset.from_list([row]).save_to_disk(str(folder))
    assert read(folder) == [pair]
    both = tmp_path / "both"
    one = datasets.Dataset.from_list([row])
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(str(both))
    assert read(both) == read(both, "test") == [pair]  # once, in test
    with pytest.raises(ValueError, match="split must be one of train, test, got 'dev'"):
        read(both, "dev")


@pytest.mark.parametrize("texts", [("query", "code"), ("question", "answer")])
def test_every_column_that_a_json_line_may_have_is_read(
    tmp_path: Path, texts: tuple[str, str]
) -> None:
    beside = {"repository_name": "a/b", "func_path_in_repository": "x", "func_name": "T.Read"}
    beside |= {"lang": "go", "split_name": "test", "url": "https://x/y#L7-L9", "id": 3, "other": []}
    row = {"query": "Read all the lines.", "code": "func (t T) Read() {}", **beside}
    (wanted,) = read_pairs(write(tmp_path / "rows.jsonl", row), progress=False)
    values = [row.pop("query"), row.pop("code")]
    pairs = read(write(tmp_path / "x.jsonl", {**row, **dict(zip(texts, values, strict=True))}))
    assert pairs == [wanted] == [Pair(*values, "Read", "a/b", "x", 7, "go")]
    assert pairs.partitions == {wanted: "test"}
    row = {"query": "Read it.", "code": "f()", "id": "a/b.go", "lang": "go", "partition": "dev"}
    pairs = read(write(tmp_path / "y.jsonl", row))
    assert pairs == [Pair("Read it.", "f()", "", "a", "a/b.go", 0, "go")]
    assert pairs.partitions == {pairs[0]: "valid"}


@pytest.mark.parametrize("name", ["x_test", "test-00000-of-00001", "my.train.test", "TEST"])
def test_a_file_is_of_the_partition_that_its_name_says(tmp_path: Path, name: str) -> None:
    pairs = read(write(tmp_path / f"{name}.jsonl", {"query": "Read it.", "code": "f()"}))
    assert pairs.partitions == {pairs[0]: "test"}


def test_unknown_columns_are_asked_for_by_naming_those_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"left": "Add two numbers", "right": "a + b"})
    with pytest.raises(ValueError, match="column is the query. query_column must .* left, right$"):
        read(path)
    with pytest.raises(ValueError, match="column is the code. code_column must .* left, right$"):
        read(path, query_column="left")
    with pytest.raises(ValueError, match="left, right, got 'middle'"):
        read(path, query_column="left", code_column="middle")
    with pytest.raises(ValueError, match="must differ, got 'left'"):
        read(path, query_column="left", code_column="left")
    (pair,) = read(path, query_column="left", code_column="right")
    assert (pair.query, pair.code) == ("Add two numbers", "a + b")


def test_what_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nobody/nothing"):
        read("nobody/nothing:python")
    good, bad = {"query": "Add two", "code": "a"}, {"query": "b", "code": ""}
    path = write(tmp_path / "x.jsonl", good, bad)
    with pytest.raises(ValueError, match=r"x\.jsonl, train, row 2: 'code' must not be empty"):
        read(path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"must be \.parquet, \.jsonl, \.json or \.csv"):
        read(tmp_path / "a.txt")


def test_own_rows_of_codesearchnets_fields_are_read_too(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", record("python", "train", 1))
    (pair,) = read(path)
    assert pair.code == "def add_1(a):\n    return sum(a) + 1  # fast"


def test_a_split_of_another_name_is_left_out_beside_partitions(tmp_path: Path) -> None:
    def rows(word: str) -> Any:
        return datasets.Dataset.from_list([{"query": f"Add {word} to it", "code": f"it + {word}"}])

    mixed = tmp_path / "mixed"
    splits = {word: rows(word) for word in ("train", "test", "testing")}
    datasets.DatasetDict(splits).save_to_disk(str(mixed))
    with pytest.warns(UserWarning, match="left out testing, of 3 splits .* train, training"):
        pairs = read(mixed)
    assert [pairs.partitions[pair] for pair in pairs] == ["train", "test"]
    named = tmp_path / "named"
    datasets.DatasetDict({word: rows(word) for word in ("go", "php")}).save_to_disk(str(named))
    assert len(read(named)) == 2
    assert not read(named).partitions
