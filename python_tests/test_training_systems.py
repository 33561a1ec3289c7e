"""The paper's systems end to end: each backbone in each language, each loss with each estimator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from language_rows import LANGUAGES, language_rows, write_languages
from tiny_backbones import save_tiny_backbone
from tiny_distilbert import distilbert

from softnce_ext.encoders.saved import load_encoder
from softnce_ext.training import compare, estimator
from softnce_ext.training.job import TrainingJob
from softnce_ext.training.settings import LOSSES, UNWEIGHTED, TrainSettings
from softnce_ext.training.systems import SYSTEMS

TEXTS = [row[key] for name in LANGUAGES for row in language_rows(name) for key in ("query", "code")]
ESTIMATORS = ("bm25", "simcse", "trained")
WITH_ESTIMATOR = [name for name in LOSSES if name not in UNWEIGHTED]
# 3 backbones x 6 languages, and over them all 6 losses x 3 estimators.
CELLS = [
    (preset, language, WITH_ESTIMATOR[j], ESTIMATORS[(i + j) % 3])
    for i, preset in enumerate(SYSTEMS)
    for j, language in enumerate(LANGUAGES)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random backbones and data of six languages."""
    root = tmp_path_factory.mktemp("systems")
    save_tiny_backbone(root / "roberta", TEXTS)
    distilbert(TEXTS, root / "bert").save(str(root / "simcse"))
    write_languages(root / "all.jsonl", *LANGUAGES)
    return root


@pytest.fixture(autouse=True)
def _alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> None:
    monkeypatch.setattr(compare, "installed_model", lambda: None)
    monkeypatch.setattr(estimator, "SIMCSE_MODEL", str(folder / "simcse"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def run(folder: Path, output: Path, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "model": str(folder / "roberta"),
        "data": str(folder / "all.jsonl"),
        "output": str(output),
        "batch_size": 8,
        "epochs": 1,
        "learning_rate": 1e-3,
        "ratio": 1.0,  # to random weights, all pairs are nearly as similar as the pair itself
        **options,
    }
    return TrainingJob(TrainSettings(**given), progress=False).run()


def test_the_cells_are_every_loss_with_every_estimator() -> None:
    assert len({cell[:2] for cell in CELLS}) == len({cell[2:] for cell in CELLS}) == 18


@pytest.mark.parametrize(("preset", "language", "loss", "kind"), CELLS)
def test_system_trains_end_to_end(
    folder: Path, tmp_path: Path, preset: str, language: str, loss: str, kind: str
) -> None:
    options = {"preset": preset, "language": language, "loss": loss, "estimator": kind}
    report = run(folder, tmp_path / "m", **options)
    steps = map(json.loads, (tmp_path / "m/training.jsonl").read_text().splitlines())
    losses = torch.tensor([step["loss"] for step in steps])
    assert len(losses) == 4 and losses.isfinite().all()
    row = next(each for each in report["results"] if each["name"] == loss)
    assert 0 < row["mrr"] <= 1
    assert set(report["teacher"]) == {"bm25": set(), "simcse": {"query"}}.get(
        kind, {"query", "code"}
    )
    model, told = load_encoder(str(tmp_path / "m"))
    assert model[0].kind == preset and told.form == SYSTEMS[preset].form
    start, _ = load_encoder(str(folder / "roberta"))
    trained = model[0].encoder.state_dict()
    assert any(
        not torch.equal(trained[name], value)
        for name, value in start[0].auto_model.state_dict().items()
        if name in trained
    )
