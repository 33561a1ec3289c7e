from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from models import static_model, tiny_rows
from tiny_distilbert import distilbert
from torch import nn

from softnce_ext.estimators.encoder import SimCSEEstimator
from softnce_ext.sentence_transformers import SoftInfoNCELoss
from softnce_ext.training.simcse import SIMCSE_SETTINGS, SimCSESettings, train_simcse

QUERIES = [row["query"] for row in tiny_rows()]
SMALL = SIMCSE_SETTINGS["published"]._replace(batch_size=20, epochs=2, learning_rate=5e-3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return distilbert(QUERIES, tmp_path_factory.mktemp("simcse"))


def test_the_settings_are_those_of_the_sources() -> None:
    assert SIMCSE_SETTINGS["published"] == SimCSESettings(0.07, 5e-4, 256, 10, 128, False, 42)
    assert SIMCSE_SETTINGS["original"] == SimCSESettings(0.05, 3e-5, 64, 1, 32, True, 42)


def test_the_loss_is_cross_entropy_of_two_passes(model: Any) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model.train()
    loss = SoftInfoNCELoss(model, estimator=None, scale=1 / 0.07, mask_duplicates=False)
    features = [model.preprocess(QUERIES[:9]) for _ in range(2)]
    torch.manual_seed(3)
    found = loss(features)
    torch.manual_seed(3)
    first, second = (model(dict(column))["sentence_embedding"] for column in features)
    assert (first - second).abs().max() > 1e-3  # dropout tells them apart
    cosine = nn.functional.normalize(first) @ nn.functional.normalize(second).T
    wanted = nn.functional.cross_entropy(cosine / 0.07, torch.arange(9))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    theirs = MultipleNegativesRankingLoss(model, scale=1 / 0.07)
    assert theirs.compute_loss_from_embeddings([first, second], None).item() == pytest.approx(
        wanted.item(), rel=1e-5
    )


@pytest.mark.parametrize("name", ["published", "original"])
def test_training_lowers_the_loss_and_keeps_the_encoder(model: Any, name: str) -> None:
    trained = copy.deepcopy(model)
    settings = SMALL._replace(first_token=SIMCSE_SETTINGS[name].first_token)
    encoder, run = train_simcse(trained, QUERIES[:60], settings, progress=False)
    assert len(run.steps) == 6  # batches of 20, 2 epochs
    losses = [step["loss"] for step in run.steps]
    assert sum(losses[-2:]) < sum(losses[:2])
    rates = [step["learning_rate"] for step in run.steps]
    assert rates[0] == pytest.approx(5e-3) and rates == sorted(rates, reverse=True)
    assert not encoder.training
    assert encoder[0] is trained[0]
    assert encoder[1].pooling_mode == ("cls" if settings.first_token else "mean")
    assert len(encoder) == 2  # the layer on top is there in training alone
    before, after = model.state_dict(), trained.state_dict()
    assert any(not torch.equal(before[weight], after[weight]) for weight in before)
    left, right = SimCSEEstimator(encoder)([{"text": QUERIES[:4], "input_ids": torch.ones(4, 1)}])
    torch.testing.assert_close((left @ right.T).diagonal(), torch.ones(4))


@pytest.mark.parametrize("first_token", [False, True])
def test_the_same_seed_gives_the_same_encoder(model: Any, first_token: bool) -> None:
    short = SMALL._replace(epochs=1, first_token=first_token)
    weights = []
    for seed in (42, 42, 7):
        encoder, _ = train_simcse(
            copy.deepcopy(model), QUERIES[:40], short._replace(seed=seed), progress=False
        )
        weights.append(torch.cat([value.reshape(-1) for value in encoder.state_dict().values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_trained_encoder_is_saved_and_read_again(model: Any, tmp_path: Path) -> None:
    short = SMALL._replace(epochs=1, first_token=True)
    encoder, _ = train_simcse(copy.deepcopy(model), QUERIES[:40], short, progress=False)
    encoder.save(str(tmp_path / "simcse"))
    batch = [{"text": QUERIES[:5], "input_ids": torch.ones(5, 1)}]
    given, _ = SimCSEEstimator(encoder)(batch)
    read, _ = SimCSEEstimator(tmp_path / "simcse")(batch)
    torch.testing.assert_close(read, given, rtol=0, atol=1e-6)


def test_equal_queries_may_be_masked(model: Any) -> None:
    queries = ["initialize the weights"] * 20 + QUERIES[:20]
    short = SMALL._replace(epochs=1, batch_size=40)
    losses = {}
    for mask in (False, True):
        _, run = train_simcse(
            copy.deepcopy(model), queries, short, mask_duplicates=mask, progress=False
        )
        losses[mask] = run.steps[0]
    assert losses[True]["duplicates"] == 20 * 19
    assert losses[True]["loss"] < losses[False]["loss"] - 0.1


def test_what_cannot_be_trained_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="queries must hold at least 2 texts, got 1"):
        train_simcse(model, QUERIES[:1])
    with pytest.raises(ValueError, match="got a static encoder"):
        train_simcse(static_model(QUERIES), QUERIES)
    still = distilbert(QUERIES, tmp_path, dropout=0.0)
    with pytest.raises(ValueError, match="got a model whose dropout is 0"):
        train_simcse(still, QUERIES)
