from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softnce_ext.training.settings import STATIC, TrainSettings, settings_from


def test_what_is_left_open_is_filled_in_by_the_kind_of_model() -> None:
    static = TrainSettings().resolved(static=True)
    assert (static.batch_size, static.epochs, static.code_length) == (1024, 2, 64)
    assert static.compare is True
    other = TrainSettings(model="bert", epochs=3).resolved(static=False)
    assert (other.batch_size, other.epochs, other.code_length) == (32, 3, 256)
    assert other.compare is False
    assert TrainSettings(loss="infonce").resolved(static=True).compare is False
    assert TrainSettings(compare=False).resolved(static=True).compare is False
    assert (static.scoring, static.scale, static.name_boost, static.seed) == ("cosine", 20.0, 5, 0)
    assert TrainSettings(model="bert", scoring="dot").resolved(static=False).scale == 1.0


@pytest.mark.parametrize(
    ("preset", "wanted"),
    [
        ("codebert", (1e-6, 32, 30, 200, 200, 1.0, "tokens")),
        ("graphcodebert", (2e-5, 32, 30, 128, 256, 0.0, "source")),
        ("unixcoder", (2e-5, 64, 30, 128, 256, 0.0, "tokens")),
    ],
)
def test_presets_are_the_papers_settings(preset: str, wanted: tuple[Any, ...]) -> None:
    found = TrainSettings(preset=preset).resolved(static=False, rows=24_927)
    assert wanted == (
        found.learning_rate,
        found.batch_size,
        found.epochs,
        found.query_length,
        found.code_length,
        found.warmup_epochs,
        found.form,
    )
    assert (found.scoring, found.scale, found.name_boost, found.seed) == ("dot", 1.0, 0, 1234)
    assert found.compare is False
    other = TrainSettings(preset=preset, scoring="cosine", epochs=2, seed=7).resolved(static=False)
    assert (other.scale, other.epochs, other.seed) == (20.0, 2, 7)


def test_settings_are_json() -> None:
    values = json.loads(json.dumps(TrainSettings(seed=3).to_json()))
    assert TrainSettings(**values) == TrainSettings(seed=3)


def test_yaml_has_the_flags_names_and_flags_go_before_it(tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text("batch-size: 64\nlearning_rate: 2e-2\nloss: infonce\ncompare: false\nseed: 1")
    settings = settings_from({"seed": 7}, config)
    assert settings == TrainSettings(
        batch_size=64, learning_rate=0.02, loss="infonce", compare=False, seed=7
    )
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert settings_from({}, tmp_path / "empty.yaml") == TrainSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 3", r"unknown setting 'batchsize' \(did you mean batch_size\?\)"),
        ("qwerty: 3", "unknown setting 'qwerty'; known are model, preset, init"),
        ("- 1\n- 2", "must hold names and values, got list"),
        ("a: [", "must hold YAML"),
    ],
)
def test_bad_yaml_is_named(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    with pytest.raises(ValueError, match=message):
        settings_from({}, config)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"batch_size": 1}, ValueError, "batch_size must be a whole number >= 2, got 1"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number, got 2.5"),
        ({"batch_size": True}, TypeError, "batch_size must be a whole number, got True"),
        ({"epochs": 0}, ValueError, "epochs must be a whole number >= 1, got 0"),
        ({"learning_rate": 0}, ValueError, "learning_rate must be a number > 0, got 0"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be a number, got 'fast'"),
        ({"scale": float("nan")}, ValueError, "scale must be finite, got nan"),
        ({"top_k": None}, TypeError, "top_k must be a whole number, got None"),
        ({"false_negative_rate": 1.0}, ValueError, "false_negative_rate must be a number < 1"),
        ({"temperature": -1.0}, ValueError, "temperature must be a number > 0, got -1.0"),
        ({"loss": "softinfonce"}, ValueError, "loss must be one of soft-infonce, infonce, .*, got"),
        ({"estimator": "tfidf"}, ValueError, "estimator must be one of bm25, simcse, trained, "),
        ({"estimator": "none"}, ValueError, "estimator must be .* with loss soft-infonce, got"),
        ({"preset": "bert"}, ValueError, "preset must be one of codebert, graphcodebert, unix"),
        ({"preset": "codebert", "model": "static"}, ValueError, "preset codebert needs its back"),
        ({"preset": "codebert", "loss": "simcse"}, ValueError, "preset is for code search, got"),
        ({"preset": "codebert", "init": "x"}, ValueError, "init is for model static alone, got"),
        ({"language": "c"}, ValueError, "language must be one of go, java, javascript, php, py"),
        ({"query_length": 9, "model": "x"}, ValueError, "query_length is for presets, .* model x"),
        ({"teacher": "x"}, ValueError, "teacher is for estimator simcse or trained, got .* bm25"),
        ({"teacher_mode": "online"}, ValueError, "are for estimator trained, got estimator bm25"),
        (
            {"loss": "infonce", "estimator": "trained", "teacher": "x"},
            ValueError,
            "teacher is for losses with an estimator, got loss infonce",
        ),
        (
            {"estimator": "trained", "teacher_mode": "online", "teacher": "x"},
            ValueError,
            "teacher_mode online takes the student itself, .* got teacher x",
        ),
        ({"loss": "simcse", "model": "static"}, ValueError, "loss simcse needs a transformer"),
        ({"simcse_mode": "reference"}, ValueError, "pads to a preset's query_length, got no pres"),
        ({"name_boost": -1}, ValueError, "name_boost must be a whole number >= 0, got -1"),
        ({"vocab_size": 10}, ValueError, "vocab_size must be a whole number >= 100, got 10"),
        ({"dimension": 0}, ValueError, "dimension must be a whole number >= 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be a whole number >= 0, got -1"),
        ({"output": " "}, ValueError, "output must not be empty"),
        ({"compare": "no"}, TypeError, "compare must be true or false, got 'no'"),
        ({"data": 3}, TypeError, "data must be text, got 3"),
        ({"init": "x", "model": "y"}, ValueError, f"init is for model {STATIC} alone"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TrainSettings(**values)
