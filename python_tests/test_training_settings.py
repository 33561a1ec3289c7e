from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from softnce_ext.cli.train import add_arguments, with_losses
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
    assert (static.checkpoints, other.checkpoints) == (False, True)
    assert TrainSettings(loss="simcse").resolved(static=True).checkpoints is True
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


def test_how_a_run_is_gone_on_with_is_not_recorded() -> None:
    assert TrainSettings(checkpoints=True, resume=True).to_json() == TrainSettings().to_json()


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
        ("epochs: 3\nseed: 1\nepochs: 9", "yaml:3: a setting must stand once, got epochs again"),
        ("batch-size: 3\nbatch_size: 9", "yaml:2: .* got batch_size again after line 1"),
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
        ({"loss": "threshold", "ratio": -1}, ValueError, "ratio must be a number > 0, got -1.0"),
        ({"loss": "threshold", "ratio": 0}, ValueError, "ratio must be a number > 0, got 0.0"),
        ({"min_weight": 1.5}, ValueError, "min_weight must be a number <= 1, got 1.5"),
        ({"min_weight": -0.1}, ValueError, "min_weight must be a number >= 0, got -0.1"),
        ({"loss": "kl", "kl_weight": -1}, ValueError, "kl_weight must be a number >= 0, got -1.0"),
        (
            {"loss": "kl", "kl_weight": 0, "info_nce_weight": 0},
            ValueError,
            "info_nce_weight or kl_weight must be above 0 with loss kl, got 0 for both",
        ),
        (
            {"loss": "top-k", "top_k": 31, "batch_size": 32},
            ValueError,
            "top_k must leave a negative in a batch of 32, got 31",
        ),
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


UNUSED = [
    ({"loss": "bce", "alpha": 1.5}, "alpha is not used by loss bce, got 1.5"),
    ({"loss": "kl", "beta": 0.5}, "beta is not used by loss kl, got 0.5"),
    ({"loss": "bce", "min_weight": 0.2}, "min_weight is not used by loss bce, got 0.2"),
    ({"loss": "infonce", "estimator": "simcse"}, "estimator is not used by loss infonce, got sim"),
    ({"loss": "infonce", "temperature": 1.0}, "temperature is not used by loss infonce, got 1.0"),
    ({"loss": "infonce", "bm25_sides": "code-code"}, "bm25_sides is not used by loss infonce"),
    ({"loss": "infonce", "alpha_scaling": "expected"}, "alpha_scaling is not used by loss infonce"),
    ({"loss": "top-k", "temperature": 1.0}, "temperature is not used by loss top-k, got 1.0"),
    ({"loss": "top-k", "bm25_temperature": "scaled"}, "bm25_temperature is not used by loss top-k"),
    ({"top_k": 3}, "top_k is not used by loss soft-infonce, got 3"),
    ({"ratio": 0.5}, "ratio is not used by loss soft-infonce, got 0.5"),
    ({"kl_weight": 0.5}, "kl_weight is not used by loss soft-infonce, got 0.5"),
    ({"false_negative_rate": 0.1}, "false_negative_rate is not used by alpha_scaling none, got 0"),
    ({"simcse_settings": "original"}, "simcse_settings is not used by estimator bm25, got orig"),
    ({"teacher_dtype": "float16"}, "teacher_dtype is not used by estimator bm25, got float16"),
    (
        {"estimator": "simcse", "teacher": "x", "simcse_settings": "original"},
        "simcse_settings is not used by teacher x, got original",
    ),
    ({"estimator": "trained", "bm25_rules": "published"}, "bm25_rules is not used by estimator tr"),
    (
        {"estimator": "trained", "teacher_mode": "online", "teacher_dtype": "float16"},
        "teacher_dtype is not used by teacher_mode online, got float16",
    ),
    ({"model": "bert", "dimension": 64}, "dimension is not used by model bert, got 64"),
    ({"preset": "codebert", "vocab_size": 900}, "vocab_size is not used by model of preset codeb"),
    ({"loss": "simcse", "scale": 20.0}, "scale is not used by loss simcse, got 20.0"),
    ({"loss": "simcse", "name_boost": 5}, "name_boost is not used by loss simcse, got 5"),
    ({"loss": "simcse", "init": "x"}, "init is not used by loss simcse, got x"),
]


@pytest.mark.parametrize(("values", "message"), UNUSED)
def test_what_counts_for_nothing_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSettings(**values)
    with pytest.raises(ValueError, match=message):
        settings_from(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "bce", "min_weight": 0.1}, "min_weight is not used by loss bce, got 0.1"),
        ({"top_k": 1}, "top_k is not used by loss soft-infonce, got 1"),
        ({"loss": "infonce", "estimator": "bm25"}, "estimator is not used by loss infonce, got bm"),
        (
            {"estimator": "simcse", "bm25_rules": "batch"},
            "bm25_rules is not used by estimator sim",
        ),
    ],
)
def test_a_default_that_is_given_is_refused_too(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        settings_from(values)
    (tmp_path / "c.yaml").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        settings_from({}, tmp_path / "c.yaml")


def test_a_flag_may_turn_a_setting_of_the_file_idle_and_null_or_no_may_stand(
    tmp_path: Path,
) -> None:
    (tmp_path / "c.yaml").write_text("alpha: 1.3\nloss: soft-infonce")
    assert settings_from({}, tmp_path / "c.yaml").alpha == 1.3
    with pytest.raises(ValueError, match="alpha is not used by loss bce, got 1.3"):
        settings_from({"loss": "bce"}, tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("alpha: null\nestimator: none\ncompare: false")
    assert settings_from({"loss": "infonce"}, tmp_path / "c.yaml").estimator == "none"
    assert settings_from({"loss": "simcse", "compare": False}).compare is False


@pytest.mark.parametrize(
    ("values", "recorded"),
    [
        ({}, {"alpha", "beta", "temperature", "min_weight", "bm25_sides", "dimension"}),
        ({"loss": "infonce"}, {"dimension"}),
        ({"loss": "bce"}, {"temperature", "bm25_sides", "dimension"}),
        ({"loss": "kl"}, {"temperature", "kl_weight", "bm25_sides", "dimension"}),
        ({"loss": "top-k"}, {"top_k", "bm25_sides", "dimension"}),
        ({"loss": "threshold", "model": "x"}, {"ratio", "bm25_sides"}),
        (
            {"preset": "codebert", "estimator": "simcse"},
            {"alpha", "beta", "temperature", "min_weight", "simcse_mode", "teacher_dtype"},
        ),
        ({"loss": "simcse"}, {"simcse_settings"}),
    ],
)
def test_only_what_counts_is_recorded(values: dict[str, Any], recorded: set[str]) -> None:
    asked = {"alpha", "beta", "temperature", "min_weight", "kl_weight", "top_k", "ratio"}
    asked |= {"bm25_sides", "simcse_mode", "simcse_settings", "teacher_dtype", "dimension"}
    settings = TrainSettings(**values)
    if settings.estimator == "simcse" and not settings.teacher:
        recorded = recorded | {"simcse_settings"}
    found = settings.resolved(static=settings.is_from_scratch).to_json()
    assert found.keys() & asked == recorded
    assert {"seed", "batch_size", "learning_rate", "loss", "mask_duplicates"} <= found.keys()
    assert TrainSettings(**found).to_json() == found


def test_settings_of_the_twin_are_those_of_infonce() -> None:
    given = TrainSettings(alpha=1.2, estimator="trained", temperature=0.2, teacher_mode="online")
    twin = given.resolved(static=True).with_loss("infonce")
    assert twin == TrainSettings(loss="infonce", compare=True).resolved(static=True)
    assert not {"alpha", "estimator", "temperature", "teacher_mode"} & twin.to_json().keys()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("loss", ""),
        ("batch_size", ""),
        ("alpha", "; with loss soft-infonce"),
        ("temperature", "; with loss soft-infonce, bce, weighted-infonce, kl"),
        ("simcse_settings", "; not with loss infonce"),
        ("teacher", "; not with loss infonce, simcse"),
        ("scale", "; not with loss simcse"),
        ("top_k", "; with loss top-k"),
    ],
)
def test_help_says_which_losses_use_a_setting(name: str, told: str) -> None:
    assert with_losses(name) == told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("batch_size", "64 unixcoder; 256 with loss simcse)"),
        ("epochs", "the best is kept, of loss simcse the last "),
        ("epochs", "30 unixcoder; 10 with loss simcse)"),
        ("learning_rate", "2e-05 unixcoder; 0.0005 with loss simcse)"),
        ("code_length", "256 unixcoder; 128 with loss simcse)"),
        ("seed", "presets 1234; 42 with loss simcse)"),
        ("max_steps", "decay ends there"),
        ("compare", "(default: yes for a static encoder with loss soft-infonce)"),
        ("teacher_mode", "of estimator trained; "),
        ("checkpoints", "(default: yes, but for a static encoder"),
        ("resume", "go on with the same run, which was killed"),
    ],
)
def test_help_says_what_is_taken_where_nothing_is_given(name: str, told: str) -> None:
    parser = argparse.ArgumentParser(prog="softnce")
    add_arguments(parser)
    (text,) = (each.help for each in parser._actions if each.dest == name)
    assert text is not None and told in text
