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
        ("qwerty: 3", "unknown setting 'qwerty'; known are model, init"),
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
        ({"scale": None}, TypeError, "scale must be a number, got None"),
        ({"temperature": -1.0}, ValueError, "temperature must be a number > 0, got -1.0"),
        ({"loss": "softinfonce"}, ValueError, "loss must be one of soft-infonce, infonce, got"),
        ({"estimator": "simcse"}, ValueError, "estimator must be one of bm25, none, got"),
        ({"estimator": "none"}, ValueError, "estimator must be bm25 with loss soft-infonce"),
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
