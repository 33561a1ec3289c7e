"""Training on what `softnce prepare csn` wrote: read and encoded once, ranked as evaluate does."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from codesearchnet_dumps import COUNTS, write_lists, write_zip
from language_rows import language_rows
from models import static_model, tiny_rows, write_rows
from tiny_backbones import save_tiny_backbone

from softnce_ext.cli.main import main
from softnce_ext.data import codesearchnet_language
from softnce_ext.data.codesearchnet import Dump, prepare_language
from softnce_ext.data.codesearchnet_read import read_prepared
from softnce_ext.data.pairs import Pair, pair_hash
from softnce_ext.evaluation import evaluate, files
from softnce_ext.evaluation.retrieval import RetrievalTask
from softnce_ext.training import compare, corpus
from softnce_ext.training.job import TrainingJob
from softnce_ext.training.settings import TrainSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small backbone and a prepared language: 5 pairs to train on, 7 codes."""
    root = tmp_path_factory.mktemp("prepared")
    texts = [row[key] for row in language_rows("ruby") for key in ("query", "code")]
    save_tiny_backbone(root / "roberta", texts)
    dump, lists = Dump([write_zip(root, "ruby")]), write_lists(root / "lists", "ruby")
    prepare_language(dump, "ruby", root / "csn", lists=lists, allow_missing=True, progress=False)
    return root


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "installed_model", lambda: None)


def run(folder: Path, output: Path, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "preset": "codebert",
        "model": str(folder / "roberta"),
        "data": str(folder / "csn"),
        "language": "ruby",
        "batch_size": 2,
        "epochs": 2,
        "output": str(output),
        **options,
    }
    return TrainingJob(TrainSettings(**given), progress=False).run()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of the folder is read."""
    counts: Counter[str] = Counter()
    stream = codesearchnet_language.stream_lines

    def counted(raw: Any, name: str, advance: Any) -> Any:
        counts[Path(name).name] += 1
        return stream(raw, name, advance)

    monkeypatch.setattr(codesearchnet_language, "stream_lines", counted)
    return counts


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The texts that are encoded: the side, and how many."""
    calls: list[tuple[str, int]] = []
    encode = evaluate.encode

    def counted(model: Any, texts: Any, side: Any, *rest: Any) -> Any:
        calls.append((side, len(texts)))
        return encode(model, texts, side, *rest)

    monkeypatch.setattr(evaluate, "encode", counted)
    return calls


def test_each_file_is_read_once(folder: Path, tmp_path: Path, read: Counter[str]) -> None:
    run(folder, tmp_path / "m", loss="infonce", epochs=1)
    assert read == {f"{name}.jsonl.gz": 1 for name in ("train", "valid", "test", "codebase")}


@pytest.mark.parametrize("select", ["valid", "test"])
def test_the_code_base_is_encoded_once_per_epoch(
    folder: Path, tmp_path: Path, encoded: list[tuple[str, int]], select: str
) -> None:
    """The best epoch's vectors serve for the hybrid's weight and for the test as well."""
    plain = run(folder, tmp_path / "m", loss="infonce", epochs=2, select=select)
    assert encoded.count(("code", COUNTS[3])) == 2
    assert COUNTS[1] == COUNTS[2]
    # Two epochs' and the test's; chosen on test, those of the hybrid's weight come between.
    assert encoded.count(("query", COUNTS[1])) == (4 if select == "test" else 3)
    assert [row["name"] for row in plain["results"]] == ["lexical", "lexical+", "infonce", "hybrid"]


def test_figures_are_those_of_encoding_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs differ much and the first may be the best: its vectors are taken, not the last's."""
    options: dict[str, Any] = {"loss": "infonce", "epochs": 3, "learning_rate": 3e-3}
    kept = run(folder, tmp_path / "m", **options)
    monkeypatch.setattr(
        compare.Validation,
        "systems",
        lambda self, base, figure: evaluate.Systems(self.model, base, name_boost=self.name_boost),
    )
    anew = run(folder, tmp_path / "n", **options)
    without = [{**row, "seconds": 0} for row in kept["results"]]
    assert without == [{**row, "seconds": 0} for row in anew["results"]]
    assert kept["hybrid_weight"] == anew["hybrid_weight"]


def test_vectors_that_are_kept_are_those_of_the_best_epoch() -> None:
    """Not of the last one: here the weights of the second are worth nothing."""
    rows = [{key: row[key] for key in ("query", "code", "name", "package")} for row in tiny_rows()]
    task = RetrievalTask.of_pairs([Pair(**row) for row in rows])
    model = static_model([row["query"] + row["code"] for row in rows])
    validation = compare.Validation(model, task, 0, None)
    weight, good = model[0].embedding.weight, model[0].embedding.weight.detach().clone()
    best = validation.mrr()
    with torch.no_grad():
        weight.fill_(1.0)
    assert validation.mrr() < best
    with torch.no_grad():
        weight.copy_(good)
    assert validation.systems(task.base, 0.9) is not validation.systems(task.base, best)
    kept = validation.systems(task.base, best)
    anew = evaluate.Systems(model, task.base)
    for found, wanted in zip(
        kept.dense_blocks(task.queries), anew.dense_blocks(task.queries), strict=True
    ):
        torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(wanted))


def test_valid_and_test_share_one_code_base(folder: Path) -> None:
    settings = TrainSettings(data=str(folder / "csn" / "ruby"))
    found = corpus.split_corpus(*corpus.read_corpus(settings, progress=False), settings)
    assert found.valid.base is found.test.base and len(found.test.base) == COUNTS[3]
    assert found.valid.queries != found.test.queries


def test_evaluate_gives_the_figures_of_train_without_being_told_the_cutoff(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for module in (files, corpus):
        monkeypatch.setattr(module, "PAPER_CUTOFF", 1)
    report = run(folder, tmp_path / "m", loss="infonce", epochs=1)
    words = ["evaluate", str(tmp_path / "m"), "--data", str(folder / "csn" / "ruby")]
    assert main([*words, "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert report["cutoff"] == evaluated["cutoff"] == 1
    names = {"infonce": "dense"}
    theirs = {row["name"]: row["mrr"] for row in evaluated["results"]}
    for row in report["results"]:
        assert theirs[names.get(row["name"], row["name"])] == pytest.approx(row["mrr"], abs=1e-6)
    assert main([*words, "--cutoff", "7", "--json"]) == 0
    wider = json.loads(capsys.readouterr().out)
    assert wider["cutoff"] == 7
    assert sum(row["mrr"] for row in wider["results"]) > sum(theirs.values())
    assert main(words) == 0
    assert "a rank beyond 1 counts as 0" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["codebase", "train", "test"])
def test_a_file_that_is_gone_is_told_in_a_sentence(
    folder: Path, tmp_path: Path, name: str, capsys: Any
) -> None:
    shutil.copytree(folder / "csn", tmp_path / "csn")
    (tmp_path / "csn" / "ruby" / f"{name}.jsonl.gz").unlink()
    words = ["train", "--data", str(tmp_path / "csn" / "ruby"), "--output", str(tmp_path / "m")]
    assert main(words) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told == (
        f"softnce train: {tmp_path}/csn/ruby/{name}.jsonl.gz: is gone, though prepared.json tells "
        "of it; `softnce prepare csn` makes it again"
    )


def test_several_languages_are_recorded_in_the_form_they_were_read_in(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "csn", tmp_path / "csn")
    dump, lists = Dump([write_zip(tmp_path, "go")]), write_lists(tmp_path / "lists", "go")
    prepare_language(dump, "go", tmp_path / "csn", lists=lists, allow_missing=True, progress=False)
    for form in (None, "source"):
        data = str(tmp_path / "csn")
        options = {"data": data, "language": None, "form": form, "loss": "infonce", "epochs": 1}
        run(folder, tmp_path / "m", **options)
        read = form or "tokens"
        told = json.loads((tmp_path / "m" / "softnce.json").read_text())
        assert told["form"] == told["settings"]["form"] == read
        trained = json.loads((tmp_path / "m" / "manifest.json").read_text())["train"]["pairs"]
        assert sorted(trained) == sorted(
            pair_hash(pair) for pair in read_prepared(data, ["train"], form=read)
        )


@pytest.mark.parametrize("name", ["codebase", "test", "train", "valid"])
def test_what_was_not_prepared_is_told_in_a_sentence(
    folder: Path, tmp_path: Path, name: str, capsys: Any
) -> None:
    """Not made up for out of other parts."""
    shutil.copytree(folder / "csn", tmp_path / "csn")
    path = tmp_path / "csn" / "ruby" / "prepared.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"state": "not written", "rows": 0, "expected": 1400}
    path.write_text(json.dumps(manifest))
    words = ["train", "--data", str(tmp_path / "csn"), "--output", str(tmp_path / "m")]
    assert main(words) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"softnce train: {tmp_path}/csn/ruby/{name}.jsonl.gz: was not prepared; "
        "`softnce prepare csn` says why, and writes what there is with --allow-missing"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"allow_missing": True}, "with too few rows: train 5 of 24,927, valid 3 of 1,400"),
        ({"use_filter": False}, "without the filter"),
    ],
)
def test_data_that_are_not_the_papers_are_told(
    folder: Path, tmp_path: Path, capsys: Any, options: dict[str, Any], words: str
) -> None:
    lists = None if "use_filter" in options else folder / "lists"
    dump = Dump([folder / "ruby.zip"])
    prepare_language(dump, "ruby", tmp_path / "csn", lists=lists, progress=False, **options)
    command = ["train", "--data", str(tmp_path / "csn"), "--output", str(tmp_path / "m")]
    assert main([*command, "--vocab-size", "100", "--loss", "infonce", "--epochs", "1"]) == 0
    shown = capsys.readouterr().out
    assert f"not the paper's data: ruby was prepared {words}" in shown
    assert "a rank beyond 1,000 counts as 0\n" in shown and "in the paper" not in shown
    report = json.loads((tmp_path / "m" / "metrics.json").read_text())
    assert report["split"]["unlike_paper"][0].startswith(f"ruby was prepared {words}")


def test_a_manifest_may_not_train_on_what_is_ranked(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "m", loss="infonce", epochs=1)
    path = tmp_path / "m" / "manifest.json"
    again = run(folder, tmp_path / "n", loss="infonce", epochs=1, manifest=str(path))
    assert again["split"]["trained_on"] == 0
    manifest = json.loads(path.read_text())
    manifest["train"]["pairs"].append(manifest["test"]["pairs"].pop())
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="manifest must leave the test pairs .* where 1 of them"):
        run(folder, tmp_path / "n", loss="infonce", epochs=1, manifest=str(path))


def test_tokens_of_data_that_have_none_are_refused(tmp_path: Path, capsys: Any) -> None:
    data = write_rows(tmp_path / "rows.jsonl", tiny_rows())
    words = ["train", "--data", str(data), "--form", "tokens", "--output", str(tmp_path / "m")]
    assert main(words) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told == (
        f"softnce train: form tokens is for data that softnce prepare csn wrote, got data {data}"
    )
