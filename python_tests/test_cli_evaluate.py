from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from codesearchnet_dumps import COUNTS, record, write_lists, write_zip
from tiny import save_tiny_encoder

from softnce_ext.cli.main import main
from softnce_ext.data.codesearchnet import Dump, prepare_language
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
    assert report["split"] == {**wanted, "functions": 12, "repeated": {}}
    assert report["graded"] is report["comparison"] is None
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


@pytest.fixture
def codebase(tmp_path: Path) -> str:
    """The functions of ROWS and as many that no row asks for, by url."""
    rows = [
        {"code": row["code"], "name": row["name"], "url": f"u{i}"} for i, row in enumerate(ROWS)
    ]
    rows += [{"code": f"def aside{i}(y):\n    return [y] * {i}", "url": f"v{i}"} for i in range(12)]
    return write(tmp_path / "code.jsonl", rows)


@pytest.fixture
def relevance(tmp_path: Path) -> str:
    lines = ["Language,Query,GitHubUrl,Relevance,Notes"]
    for i in range(6):
        lines += [f"Python,thing number{i},u{i},3,", f"Python,thing number{i},v{i},0,"]
    file = tmp_path / "judged.csv"
    file.write_text("\n".join([*lines, "Go,thing,g0,2,"]) + "\n")
    return str(file)


def test_a_code_base_adds_candidates(
    encoder: str, codebase: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "pairs.jsonl", ROWS)
    arguments = ["evaluate", encoder, "--data", data, "--codebase", codebase]
    assert main([*arguments, "--recall", "2", "24"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "12 queries against 24 functions of 3 packages"
    assert {"R@2", "R@24"} <= set(out[1].split())
    assert main([*arguments, "--recall", "25"]) == 1
    assert "recall must be from 1 to the 24 codes there are, got 25" in capsys.readouterr().err


def test_graded_queries_are_ranked_in_the_code_base(
    encoder: str, codebase: str, relevance: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", encoder, "--codebase", codebase, "--relevance", relevance]
    assert main([*arguments, "--ndcg", "3", "--recall", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "6 queries with 12 judged codes among 24 functions"
    assert [line.split()[0] for line in out[3:7]] == ["dense", "lexical", "lexical+", "hybrid"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["results"] == []
    graded = report["graded"]
    assert (graded["queries"], graded["judgements"], graded["left_out"]) == (6, 12, 0)
    lexical = graded["results"][1]
    assert lexical["ndcg_within@10"] == lexical["pairwise"] == lexical["recall@1"] == 1.0


def test_unknown_urls_are_refused_or_skipped(
    encoder: str, codebase: str, relevance: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(relevance, "a") as file:
        file.write("Python,thing number1,gone,2,\n")
    arguments = ["evaluate", encoder, "--codebase", codebase, "--relevance", relevance]
    assert main(arguments) == 1
    assert "every judged url must be in the code base, got gone" in capsys.readouterr().err
    assert main([*arguments, "--skip-unknown"]) == 0
    assert "1 judgements are of urls the code base does not hold." in capsys.readouterr().out


def test_two_models_are_compared_query_by_query(
    encoder: str,
    codebase: str,
    relevance: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other"
    save_tiny_encoder(other, "words of no row", hybrid_weight=0.5)
    data = write(tmp_path / "pairs.jsonl", ROWS)
    arguments = ["evaluate", encoder, "--data", data, "--codebase", codebase]
    arguments += ["--relevance", relevance, "--compare", str(other)]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    names = ["dense", "lexical", "lexical+", "hybrid", "dense of other", "hybrid of other"]
    assert [row["name"] for row in report["results"]] == names
    assert [row["name"] for row in report["graded"]["results"]] == names
    rows = {row["name"]: row for row in report["results"]}
    gap = report["comparison"]["differences"]["dense"]["mrr"]
    assert gap["difference"] == pytest.approx(rows["dense"]["mrr"] - rows["dense of other"]["mrr"])
    assert gap["low"] <= gap["difference"] <= gap["high"] and gap["difference"] != 0
    assert {"ndcg@10", "pairwise"} <= set(report["comparison"]["graded_differences"]["hybrid"])
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"dense minus dense of other, mrr: {gap['words']}" in out
    assert "judged queries, hybrid minus hybrid of other, ndcg@10: " in out
    assert main([*arguments[:-1], encoder, "--json"]) == 0
    same = json.loads(capsys.readouterr().out)["comparison"]
    for part in (same["differences"], same["graded_differences"]):
        gaps = [gap for system in part.values() for gap in system.values()]
        assert gaps and all(gap["difference"] == gap["low"] == gap["high"] == 0 for gap in gaps)


def test_a_prepared_folder_is_ranked_as_the_paper_does(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = Dump([write_zip(tmp_path, "python")])
    lists = write_lists(tmp_path / "lists", "python")
    prepare_language(
        dump, "python", tmp_path / "csn", lists=lists, allow_missing=True, progress=False
    )
    folder = str(tmp_path / "csn" / "python")
    arguments = ["evaluate", encoder, "--data", folder, "--cutoff", "1000"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    expected = {"partition": "test", "pairs": COUNTS[2], "functions": COUNTS[3], "packages": 1}
    assert {key: report["split"][key] for key in expected} == expected
    assert main([*arguments, "--partition", "valid", "--form", "tokens"]) == 0
    assert f"{COUNTS[1]} queries against {COUNTS[3]} functions" in capsys.readouterr().out
    url = record("python", "test", 0)["url"]
    judged = write(tmp_path / "judged.jsonl", [{"query": "sum", "url": url, "grade": 3}])
    assert main([*arguments, "--relevance", judged]) == 0
    assert f"1 queries with 1 judged codes among {COUNTS[3]}" in capsys.readouterr().out
    assert main([*arguments, "--codebase", folder]) == 1
    assert "codebase must not be given" in capsys.readouterr().err
    assert main([*arguments, "--partition", "train"]) == 1
    assert "partition" in capsys.readouterr().err


def test_judgements_need_urls(
    encoder: str, relevance: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "pairs.jsonl", ROWS)
    assert main(["evaluate", encoder, "--data", data, "--relevance", relevance]) == 1
    assert "--relevance needs --codebase" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["m"],
        ["m", "--relevance", "x.csv"],
        ["m", "--codebase", "x"],
        ["m", "--data", "x", "--cutoff", "0"],
        ["m", "--data", "x", "--ties", "y"],
        ["m", "--data", "x", "--recall", "0"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *arguments])
    assert stopped.value.code == 2


def test_repeated_rows_are_ranked_once_and_told(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "pairs.jsonl", [*ROWS, *ROWS[:2], ROWS[0]])
    assert main(["evaluate", encoder, "--data", data]) == 0
    out = capsys.readouterr().out
    assert "12 queries against 12 functions of 3 packages" in out
    assert "left out of the data: 3 exact duplicates" in out
    assert main(["evaluate", encoder, "--data", data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"]["repeated"] == {"exact duplicates": 3}


def test_one_function_alone_is_not_ranked(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "pairs.jsonl", [ROWS[0], ROWS[0]])
    assert main(["evaluate", encoder, "--data", data]) == 1
    assert f"{data} must hold at least 2 functions to rank, got 1" in capsys.readouterr().err
