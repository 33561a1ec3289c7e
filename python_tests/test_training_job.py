from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from models import static_model, tiny_rows, transformer_model, write_rows

from softnce_ext.cli.main import main
from softnce_ext.data.split import Split
from softnce_ext.encoders.saved import load_encoder
from softnce_ext.training import compare, job
from softnce_ext.training.job import JobInterrupted, TrainingJob
from softnce_ext.training.output import check_output, save_model, save_report
from softnce_ext.training.run import TrainingInterrupted, TrainingRun
from softnce_ext.training.settings import TrainSettings

TINY = {"vocab_size": 200, "dimension": 32, "batch_size": 16, "epochs": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "pairs.jsonl", tiny_rows())


@pytest.fixture(autouse=True)
def _no_pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "installed_model", lambda: None)


def run(data: Path, output: Path, **options: Any) -> dict[str, Any]:
    given = {**TINY, **options}
    if "model" in options:  # which has its own
        del given["vocab_size"], given["dimension"]
    settings = TrainSettings(data=str(data), output=str(output), **given)
    return TrainingJob(settings, progress=False).run()


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("job") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "installed_model", lambda: None)
        return output, run(data, output)


def test_report_has_every_row_and_figure(done: tuple[Path, dict[str, Any]]) -> None:
    report = json.loads(json.dumps(done[1], allow_nan=False))
    assert [row["name"] for row in report["results"]] == [
        "lexical",
        "lexical+",
        "untrained",
        "infonce",
        "soft-infonce",
        "hybrid",
    ]
    for row in report["results"]:
        assert {"mrr", "recall@1", "recall@5", "recall@10", "seconds", "package_mrr"} <= set(row)
        assert row["mrr_low"] <= row["mrr"] <= row["mrr_high"]
    gap = report["differences"]["soft-infonce minus infonce"]
    rows = {row["name"]: row["mrr"] for row in report["results"]}
    assert gap["mrr"] == pytest.approx(rows["soft-infonce"] - rows["infonce"])
    assert gap["words"].startswith("too few packages (2) to tell: ")
    assert rows["untrained"] < min(rows["infonce"], rows["soft-infonce"])
    packages = [set(report["split"][part]["packages"]) for part in ("train", "valid", "test")]
    assert not packages[0] & packages[2] and not packages[1] & packages[2]
    assert report["training"]["soft-infonce"]["mean"]["low_weights"] >= 0
    assert len(report["training"]["infonce"]["validation_mrr"]) == 2
    assert set(report["seconds"]) >= {"reading", "splitting", "training", "evaluating", "total"}


def test_folder_says_how_to_use_it(done: tuple[Path, dict[str, Any]]) -> None:
    output, report = done
    _, settings = load_encoder(str(output))
    assert settings.name_boost == report["settings"]["name_boost"] == 5
    assert settings.hybrid_weight == report["hybrid_weight"]
    content = json.loads((output / "softnce.json").read_text())
    assert content["settings"] == report["settings"]
    assert TrainSettings(**content["settings"]).vocab_size == 200
    assert content["versions"].keys() >= {"torch", "softnce_ext", "sentence-transformers"}
    steps = [json.loads(line) for line in (output / "training.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    assert {"loss", "low_weights", "duplicates"} <= set(steps[0])
    save_report(output, report, "a table")
    assert json.loads((output / "metrics.json").read_text()) == json.loads(json.dumps(report))
    assert "a table" in (output / "README.md").read_text()


def test_saved_model_needs_nothing_of_ours(done: tuple[Path, dict[str, Any]]) -> None:
    texts = ["read the file", "def parseHTTPResponse(raw_bytes): pass", "", "x " * 500]
    model, _ = load_encoder(str(done[0]))
    script = """
import json, sys

class Block:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] == "softnce_ext":
            raise ImportError("softnce_ext is blocked")

sys.meta_path.insert(0, Block())
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
sys.stdout.buffer.write(model.encode(json.loads(sys.argv[2])).tobytes())
"""
    found = subprocess.run(
        [sys.executable, "-c", script, str(done[0]), json.dumps(texts)],
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert found.stdout == np.asarray(model.encode(texts)).tobytes()


def test_same_seed_gives_the_same_bytes(
    done: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    run(data, tmp_path / "again", compare=False)
    for name in ("model.safetensors", "tokenizer.json", "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (done[0] / name).read_bytes()


def test_manifest_pins_the_split(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    rows = tiny_rows()
    extra = [{**row, "package": "new", "query": f"{row['query']} again"} for row in rows[:9]]
    more = write_rows(tmp_path / "more.jsonl", rows + extra)
    pinned = run(more, tmp_path / "m", manifest=str(done[0] / "manifest.json"), compare=False)
    for part in ("train", "valid", "test"):
        assert pinned["split"][part] == done[1]["split"][part]


def test_infonce_alone_trains_no_twin(data: Path, tmp_path: Path) -> None:
    report = run(data, tmp_path / "m", loss="infonce")
    assert [row["name"] for row in report["results"]] == [
        "lexical",
        "lexical+",
        "infonce",
        "hybrid",
    ]
    assert "low_weights" not in report["training"]["infonce"]["mean"]


def test_pretrained_encoder_is_ranked_where_one_is_installed(
    done: tuple[Path, dict[str, Any]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compare, "installed_model", lambda: ("off-the-shelf", done[0]))
    report = run(data, tmp_path / "m", epochs=1)
    assert report["results"][-1]["name"] == "off-the-shelf"


def test_transformer_of_a_folder_is_trained(data: Path, tmp_path: Path) -> None:
    rows = tiny_rows()
    transformer_model([row["code"] + row["query"] for row in rows], tmp_path / "bert")
    report = run(data, tmp_path / "m", model=str(tmp_path / "bert"), code_length=32, epochs=1)
    assert [row["name"] for row in report["results"]][2:] == ["soft-infonce", "hybrid"]
    model, settings = load_encoder(str(tmp_path / "m"))
    assert model.max_seq_length == 32 and settings.name_boost == 5


def test_saved_static_model_can_be_trained_further(
    done: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    report = run(data, tmp_path / "m", model=str(done[0]), epochs=1)
    assert report["training"]["soft-infonce"]["steps"] > 0
    further = (tmp_path / "m" / "model.safetensors").read_bytes()
    assert further != (done[0] / "model.safetensors").read_bytes()
    assert (tmp_path / "m" / "tokenizer.json").read_text() == (
        done[0] / "tokenizer.json"
    ).read_text()


def test_test_pairs_that_the_start_was_trained_on_are_counted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fine-tuned on another split of the same pairs, in the folder of what it starts from."""
    output = tmp_path / "m"
    run(data, output, compare=False, epochs=1)
    seen = json.loads((output / "manifest.json").read_text())["train"]["pairs"]
    rows = [{**row, "package": f"other{row['line'] % 11}"} for row in tiny_rows()]
    other = write_rows(tmp_path / "other.jsonl", rows)
    command = ["train", "--data", str(other), "--output", str(output), "--model", str(output)]
    assert main([*command, "--batch-size", "16", "--epochs", "1", "--no-compare"]) == 0
    test = json.loads((output / "manifest.json").read_text())["test"]["pairs"]
    count = len(set(seen) & set(test))
    assert count > 0
    told = f"{count} of the {len(test)} test pairs are ones that the model, or what it started from"
    assert told in capsys.readouterr().out
    report = run(other, tmp_path / "n", init=str(tmp_path / "m.previous"), compare=False, epochs=1)
    assert report["split"]["trained_on"] == count
    (tmp_path / "m.previous" / "softnce.json").unlink()
    (tmp_path / "m.previous" / "manifest.json").write_text("of somebody else")
    report = run(other, tmp_path / "n", init=str(tmp_path / "m.previous"), compare=False, epochs=1)
    assert report["split"]["trained_on"] == 0


def test_init_gives_another_start(
    done: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    run(data, tmp_path / "m", init=str(done[0]), compare=False)
    started = (tmp_path / "m" / "model.safetensors").read_bytes()
    assert started != (done[0] / "model.safetensors").read_bytes()


def test_own_folder_is_replaced_whole_and_kept_beside(
    done: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    run(data, tmp_path / "m", compare=False, epochs=1)
    (tmp_path / "m" / "left over").write_text("")
    run(data, tmp_path / "m", compare=False, epochs=1)
    assert not (tmp_path / "m" / "left over").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.previous"]
    assert (tmp_path / "m.previous" / "left over").exists()
    for path in (tmp_path / "m").rglob("*"):
        assert path.stat().st_mode & 0o044 == 0o044  # others may load it


class _Saved:
    """What `save_model` asks of a model."""

    def __init__(self, text: str) -> None:
        self.text = text

    def save_pretrained(self, folder: str, **_: Any) -> None:
        Path(folder).mkdir()
        (Path(folder) / "weights").write_text(self.text)


def test_what_stood_in_a_folder_is_lost_in_no_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split(train=[], valid=[], test=[], summary={}, versions={})

    def save(text: str) -> None:
        save_model(tmp_path / "m", cast(Any, _Saved(text)), {"of": text}, split, [])

    def names() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir())

    save("first")
    (tmp_path / "m.previous").write_text("somebody's")
    save("second")
    assert (tmp_path / "m.previous").read_text() == "somebody's"
    assert (tmp_path / "m.previous.2" / "weights").read_text() == "first"
    (tmp_path / "m.previous").unlink()
    save("third")
    assert (tmp_path / "m.previous" / "weights").read_text() == "second"
    rename = Path.rename

    def no_new_one(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", no_new_one)
    with pytest.raises(OSError, match="no"):
        save("fourth")
    assert (tmp_path / "m" / "weights").read_text() == "third"
    assert names() == ["m", "m.previous.2"]  # the one before it made room


def test_folder_of_others_is_refused_before_any_work(data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="output must be a new folder .* holds other files"):
        run(tmp_path / "no data", tmp_path)
    with pytest.raises(ValueError, match="which is a file"):
        run(tmp_path / "no data", tmp_path / "thesis.tex")
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")


def test_folder_that_keeps_its_name_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m" / "below").mkdir(parents=True)
    (tmp_path / "m" / "softnce.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "m" / "below")
    for name, reason in ((".", "is the current folder"), ("..", "holds the current folder")):
        assert main(["train", "--data", "no data", "--output", name]) == 1
        told = f"output must be a folder that can be renamed, got {name}, which {reason}; a folder"
        assert told in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    check_output(Path("m"))
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name in ("m", "c"))
    with pytest.raises(ValueError, match=r"is a mount point; a folder below it, such as m/model"):
        run(tmp_path / "no data", Path("m"))
    check_output(Path("m/model"))
    (tmp_path / "c").mkdir()
    check_output(Path("c"), "run.json", "checkpoints")  # which stays where it is


def test_parents_of_a_failed_run_are_not_left(data: Path, tmp_path: Path) -> None:
    for folder in ("a/b/c", "a/m"):
        with pytest.raises(ValueError, match="scoring must be cosine"):
            run(data, tmp_path / folder, scoring="dot")
    assert list(tmp_path.iterdir()) == []
    model = static_model(["read a file"])
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_model(tmp_path / "a/b/c", model, {"x": object()}, Split([], [], []), [])
    assert list(tmp_path.iterdir()) == []
    save_model(tmp_path / "a/b/c", model, {}, Split([], [], []), [])
    load_encoder(str(tmp_path / "a/b/c"))
    with pytest.raises(NotADirectoryError, match=r"c/softnce\.json is no folder"):
        check_output(tmp_path / "a/b/c/softnce.json/d/e")


def test_interrupt_before_an_epoch_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(model: Any, *args: Any, **options: Any) -> None:
        raise TrainingInterrupted(TrainingRun(), model)

    monkeypatch.setattr(job, "train_encoder", interrupted)
    with pytest.raises(JobInterrupted, match="interrupted: nothing was written"):
        run(data, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_interrupt_of_the_comparison_leaves_the_model(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "rank_all", interrupted)
    with pytest.raises(JobInterrupted, match="m holds the trained model, not compared yet"):
        run(data, tmp_path / "m", compare=False)
    load_encoder(str(tmp_path / "m"))


def test_rename_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "softnce.json").write_text("{}")
    model = static_model(["read a file"])
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError("no")
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="no"):
            save_model(tmp_path / "m", model, {}, Split([], [], []), [])
    assert [path.name for path in tmp_path.rglob("*")] == ["m", "softnce.json"]


def test_save_that_fails_leaves_what_was_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from softnce_ext.training import output

    run(data, tmp_path / "m", compare=False, epochs=1)
    before = (tmp_path / "m" / "model.safetensors").read_bytes()

    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(output, "write_manifest", fail)
    with pytest.raises(OSError, match="disk full"):
        run(data, tmp_path / "m", compare=False, epochs=1, seed=4)
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
