from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from models import tiny_rows, write_rows

from softnce_ext.cli.main import main
from softnce_ext.training import compare

TINY = ["--vocab-size", "200", "--dimension", "32", "--batch-size", "16", "--epochs", "2"]


@pytest.fixture(autouse=True)
def _no_pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "installed_model", lambda: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [*tiny_rows(), *tiny_rows()[:2]]
    return write_rows(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows)


def test_json_is_alone_on_stdout_and_saved_beside_the_model(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model"
    assert main(["train", "--data", str(data), "--output", str(output), *TINY, "--json"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert report == json.loads((output / "metrics.json").read_text())
    assert [row["name"] for row in report["results"]][-2:] == ["soft-infonce", "hybrid"]
    assert report["split"]["test"]["rows"] > 0
    assert report["settings"]["epochs"] == 2 and report["settings"]["dimension"] == 32
    assert "training soft-infonce" in shown.err and "evaluating" in shown.err


def test_table_names_the_systems_and_the_difference_in_words(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(f"data: {data}\nvocab-size: 200\ndimension: 32\nbatch-size: 16\nepochs: 9")
    output = tmp_path / "model"
    arguments = ["train", "--config", str(config), "--epochs", "1", "--output", str(output)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0].startswith("trained on ") and "packages not among them" in lines[0]
    for name in ("lexical", "lexical+", "untrained", "infonce", "soft-infonce", "hybrid"):
        assert sum(line.split()[:1] == [name] for line in lines[3:9]) == 1
    assert "soft-infonce minus infonce: " in shown
    assert ", chosen on validation packages\n" in shown
    assert "Intervals over 2 packages are rough." in shown
    assert "left out of the split: 2 exact duplicates" in shown
    valid = json.loads((output / "metrics.json").read_text())["split"]["valid"]["rows"]
    assert f"validation pairs: {valid}; what is chosen on so few queries is rough\n" in shown
    assert "epoch 1 of 1 kept" in shown  # the flag goes before the file
    assert "total" in shown and str(output) in lines[-1]
    assert "soft-infonce" in (output / "README.md").read_text()


def test_nothing_is_said_of_a_validation_that_is_large_enough(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softnce_ext.cli.train._FEW_QUERIES", 2)
    output = tmp_path / "model"
    assert main(["train", "--data", str(data), "--output", str(output), *TINY, "--no-compare"]) == 0
    assert "validation pairs" not in capsys.readouterr().out


def test_packages_are_named_where_they_are_held_out_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", tiny_rows(packages=1))
    words = ["--data", str(data), "--output", str(tmp_path / "m"), *TINY[:-1], "1"]
    assert main(["train", *words, "--no-compare"]) == 0
    shown = capsys.readouterr().out
    assert "held out by function" in shown and ", chosen on validation data\n" in shown
    assert "over queries (one package)" in shown and "are rough" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--epochs", "0"], "epochs must be a whole number >= 1, got 0"),
        (["--model", "./no-such-model"], "model ./no-such-model"),
    ],
)
def test_bad_settings_end_with_a_sentence(
    arguments: list[str],
    message: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "model"
    assert main(["train", "--data", str(data), "--output", str(output), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_unknown_flags_and_choices_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--lr", "1"], ["--loss", "triplet"], ["--seed", "x"]):
        with pytest.raises(SystemExit) as stop:
            main(["train", *arguments])
        assert stop.value.code == 2
    assert "--learning-rate" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_a_model_that_loads_and_say_so(
    data: Path, tmp_path: Path, number: int, code: int
) -> None:
    output, errors = tmp_path / "model", tmp_path / "errors"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "softnce_ext", "train", "--data", str(data)]
    command += ["--output", str(output), *TINY[:-1], "100000"]
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stream,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": str(scratch)},
        )
        deadline = time.monotonic() + 120
        try:
            # The bar counts steps; an epoch has fewer than 20.
            while not any(f" {step}/" in errors.read_text() for step in range(20, 2000)):
                assert process.poll() is None and time.monotonic() < deadline, errors.read_text()
                time.sleep(0.05)
            process.send_signal(number)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()  # 100,000 epochs would outlive a failure
    assert process.returncode == code and out == b""
    last = errors.read_text().strip().splitlines()[-1]
    assert f"interrupted: {output} holds the model after epoch" in last
    from softnce_ext.encoders.saved import load_encoder

    model, settings = load_encoder(str(output))
    assert model.encode(["read a file"]).shape == (1, 32) and settings.name_boost == 5
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["model", "scratch"]
    assert not [path for path in scratch.iterdir() if path.name.startswith("softnce-")]
