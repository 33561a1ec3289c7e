from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import save_tiny_encoder

from softnce_ext.cli.main import main
from softnce_ext.data.formats import read_pairs
from softnce_ext.data.manifest import write_manifest
from softnce_ext.data.split import split_by_package

ROWS = [
    {
        "query": f"make thing number{i} quickly",
        "code": f"def build{i}(x):\n    number{i} = x\n    return number{i}",
        "name": f"build{i}",
        "package": f"p{i % 3}",
    }
    for i in range(12)
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    text = " ".join(row["query"] + " " + row["code"] for row in ROWS)
    save_tiny_encoder(folder, text, name_boost=0, hybrid_weight=0.5)
    return str(folder)


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_table_has_a_line_per_system(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "pairs.jsonl", ROWS)
    assert main(["evaluate", encoder, "--data", data]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "12 queries against 12 functions of 3 packages"
    assert [line.split()[0] for line in out[3:7]] == ["dense", "lexical", "lexical+", "hybrid"]
    assert "Intervals over 3 packages are rough." in out


def test_json_holds_results_and_split(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "pairs.jsonl", ROWS)
    arguments = ["evaluate", encoder, "--data", data, "--json", "--cutoff", "1000"]
    assert main([*arguments, "--ties", "pessimistic"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in report["results"]] == ["dense", "lexical", "lexical+", "hybrid"]
    for row in report["results"]:
        assert {"mrr", "recall@1", "recall@5", "recall@10", "seconds"} <= set(row)
        assert 0 <= row["mrr_low"] <= row["mrr"] <= row["mrr_high"] <= 1
        assert row["mrr"] == row["mrr_pessimistic"]
    wanted = {"data": data, "partition": "all", "pairs": 12, "packages": 3, "trained_on": 0}
    assert report["split"] == wanted
    assert (report["cutoff"], report["ties"]) == (1000, "pessimistic")


def test_pairs_the_model_was_trained_on_are_counted(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "pairs.jsonl", ROWS)
    model = tmp_path / "model"
    shutil.copytree(encoder, model)
    split = split_by_package(read_pairs(data, progress=False))
    write_manifest(model / "manifest.json", split)
    assert main(["evaluate", str(model), "--data", data]) == 0
    expected = f"{len(split.train)} of the 12 pairs are ones the model was trained on."
    assert expected in capsys.readouterr().out


def test_the_test_partition_is_taken_where_the_data_names_it(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "partition": "test" if i < 5 else "train"} for i, row in enumerate(ROWS)]
    data = write(tmp_path / "pairs.jsonl", rows)
    for extra, expected in (
        ([], ("test", 5)),
        (["--partition", "train"], ("train", 7)),
        (["--partition", "all"], ("all", 12)),
    ):
        assert main(["evaluate", encoder, "--data", data, "--json", *extra]) == 0
        split = json.loads(capsys.readouterr().out)["split"]
        assert (split["partition"], split["pairs"]) == expected


def test_one_package_and_ties_are_noted(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "package": "one", "query": "words of nothing here"} for row in ROWS]
    assert main(["evaluate", encoder, "--data", write(tmp_path / "pairs.jsonl", rows)]) == 0
    out = capsys.readouterr().out
    assert "Intervals resample queries" in out
    assert "Ties: lexical has an MRR of 0.0833 to 1.0000" in out


def test_what_is_missing_is_told_in_one_sentence(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "pairs.jsonl", ROWS)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.py").write_text("def f():\n    return 1\n")
    nowhere = str(tmp_path / "nowhere")
    for model, path, message in (
        (encoder, nowhere, "there is no such file or folder"),
        (encoder, str(empty), "holds no (documentation, function) pair"),
        (nowhere, data, f"model {nowhere}: there is no such folder"),
    ):
        assert main(["evaluate", model, "--data", path]) == 1
        err = [line for line in capsys.readouterr().err.splitlines() if "softnce evaluate" in line]
        assert len(err) == 1
        assert message in err[0]


@pytest.mark.parametrize(
    "arguments", [["m"], ["m", "--data", "x", "--cutoff", "0"], ["m", "--data", "x", "--ties", "y"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *arguments])
    assert stopped.value.code == 2
