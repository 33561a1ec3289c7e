from __future__ import annotations

import copy
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import static_model, tiny_rows, transformer_model

from softnce_ext import functional
from softnce_ext.training import trainer
from softnce_ext.training.batches import TextPairs, TokenizedPairs
from softnce_ext.training.losses import FamilyLoss, make_loss
from softnce_ext.training.run import TrainingDivergedError, TrainingInterrupted, TrainingRun
from softnce_ext.training.settings import TrainSettings
from softnce_ext.training.trainer import train_encoder

ROWS = tiny_rows()
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] for row in ROWS]
SETTINGS = TrainSettings(batch_size=32, epochs=2, learning_rate=5e-2).resolved(static=True)


def train(
    model: Any, settings: TrainSettings = SETTINGS, loss: str = "soft-infonce", **options: Any
) -> TrainingRun:
    pairs = TokenizedPairs.of(model, QUERIES, CODES)
    options = {"progress": False, **options}
    return train_encoder(model, make_loss(model, settings, loss), pairs, settings, **options)


def weights(model: Any) -> torch.Tensor:
    return model[0].embedding.weight.detach().clone()


@pytest.fixture
def model() -> Any:
    return static_model(QUERIES + CODES)


@pytest.mark.parametrize("loss", ["infonce", "soft-infonce"])
def test_training_lowers_the_loss_and_logs_every_step(
    model: Any, loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(model, loss=loss, progress=True, title="a title")
    assert [step["step"] for step in run.steps] == [1, 2, 3, 4, 5, 6]
    assert run.steps[-1]["loss"] < run.steps[0]["loss"]
    assert all("duplicates" in step for step in run.steps)
    assert all(("low_weights" in step) == (loss == "soft-infonce") for step in run.steps)
    assert run.epoch == 2 and run.seconds > 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "a title" in shown.err and "6/6" in shown.err


def test_same_seed_gives_the_same_weights(model: Any) -> None:
    twin, other = copy.deepcopy(model), copy.deepcopy(model)
    train(model)
    train(twin)
    train(other, TrainSettings(**{**SETTINGS.to_json(), "seed": 1}))
    assert torch.equal(weights(model), weights(twin))
    assert not torch.equal(weights(model), weights(other))


def test_tokenized_batches_are_those_of_the_model(model: Any) -> None:
    pairs = TokenizedPairs.of(model, QUERIES, CODES)
    rows = [{"row": row} for row in (3, 0, 70)]
    batch = pairs(rows)
    for name, texts in (("query", QUERIES), ("code", CODES)):
        wanted = model.preprocess([texts[row["row"]] for row in rows])
        assert torch.equal(batch[f"{name}_input_ids"], wanted["input_ids"])
        assert torch.equal(batch[f"{name}_offsets"], wanted["offsets"])


def test_best_epoch_is_kept(model: Any) -> None:
    figures, seen = [0.2, 0.5, 0.4], []

    def validate() -> float:
        seen.append(weights(model))
        return figures[len(seen) - 1]

    settings = TrainSettings(**{**SETTINGS.to_json(), "epochs": 3})
    run = train(model, settings, validate=validate)
    assert run.epoch == 2 and run.validation == figures
    assert torch.equal(weights(model), seen[1]) and not torch.equal(seen[1], seen[2])


def test_loss_that_is_not_finite_stops_at_its_step(model: Any) -> None:
    loss = make_loss(model, SETTINGS, "infonce")
    compute, calls = loss.compute_loss_from_embeddings, []

    def break_down(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        return compute(*args, **options) * (float("nan") if len(calls) == 3 else 1.0)

    loss.compute_loss_from_embeddings = break_down
    pairs = TokenizedPairs.of(model, QUERIES, CODES)
    with pytest.raises(TrainingDivergedError, match="the loss became nan at step 3 of 6"):
        train_encoder(model, loss, pairs, SETTINGS, progress=False)


@pytest.mark.parametrize("epoch", [0, 1])
def test_interrupt_leaves_the_best_epoch_so_far(model: Any, epoch: int) -> None:
    kept = []

    def validate() -> float:
        if len(kept) == epoch:
            raise KeyboardInterrupt
        kept.append(weights(model))
        return 0.5

    with pytest.raises(TrainingInterrupted) as stop:
        train(model, validate=validate)
    assert stop.value.run.epoch == epoch
    if epoch:
        assert torch.equal(weights(model), kept[0])


def test_transformers_train_on_texts(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = transformer_model(QUERIES + CODES, tmp_path_factory.mktemp("bert"))
    settings = TrainSettings(model="bert", batch_size=32, learning_rate=1e-3).resolved(static=False)
    loss = make_loss(model, settings, "soft-infonce")
    run = train_encoder(model, loss, TextPairs(QUERIES, CODES), settings, progress=False)
    assert len(run.steps) == 3 and run.steps[-1]["loss"] < run.steps[0]["loss"]
    assert not model.training


def test_batches_have_the_prompts_the_model_is_ranked_with(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model = transformer_model(QUERIES + CODES, tmp_path_factory.mktemp("bert"))
    plain = TextPairs(["read"], ["x"]).collator(model)([{"row": 0}])
    model.prompts = {"query": "read file ", "document": ""}
    batch = TextPairs(["read"], ["x"]).collator(model)([{"row": 0}])
    wanted = model.preprocess(["read file read"])["input_ids"]
    assert torch.equal(batch["query_input_ids"], wanted)
    assert not torch.equal(batch["query_input_ids"], plain["query_input_ids"])
    assert torch.equal(batch["code_input_ids"], plain["code_input_ids"])


def test_a_static_encoders_batches_have_its_prompts() -> None:
    model = static_model([*QUERIES, *CODES, "find this"])
    model.prompts = {"query": "find ", "document": "this "}
    batch = TokenizedPairs.of(model, ["read"], ["file"]).collator(model)([{"row": 0}])
    for column, text in (("query", "find read"), ("code", "this file")):
        wanted = model.preprocess([text])["input_ids"].tolist()
        assert batch[f"{column}_input_ids"].tolist() == wanted


def test_both_columns_may_be_queries(tmp_path: Path) -> None:
    """As of SimCSE, which tells the same text's vectors apart by dropout alone."""
    model = transformer_model([*QUERIES, *CODES], tmp_path)
    model.prompts = {"query": "read file ", "document": "write "}
    batch = TextPairs(["list"], ["list"], ("query", "query")).collator(model)([{"row": 0}])
    assert torch.equal(batch["query_input_ids"], batch["code_input_ids"])
    assert batch["query_task"] == batch["code_task"] == "query"


class _Interrupting:
    """Gets a Ctrl-C while it is destroyed, where Python lets no exception out."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_a_destructor_is_not_lost(model: Any) -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def validate() -> float:
        seen.append(_Interrupting() is None)  # destroyed at once
        return 0.5

    with pytest.raises(TrainingInterrupted) as stop:
        train(model, TrainSettings(**{**SETTINGS.to_json(), "epochs": 4}), validate=validate)
    assert len(seen) == 1 and stop.value.run.epoch == 1  # in the first step after it
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_the_last_step_is_not_lost(model: Any) -> None:
    def validate() -> float:
        signal.raise_signal(signal.SIGINT)
        return 0.5

    with pytest.raises(TrainingInterrupted):
        train(model, TrainSettings(**{**SETTINGS.to_json(), "epochs": 1}), validate=validate)


def test_a_second_ctrl_c_ends_the_training_at_once(model: Any) -> None:
    seen = []

    def validate() -> float:
        seen.append("begun")
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        seen.append("ended")
        return 0.5

    with pytest.raises(TrainingInterrupted):
        train(model, validate=validate)
    assert seen == ["begun"]


def test_tf32_is_of_the_steps_alone(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "is_torch_tf32_available", lambda: True)
    before = torch.backends.fp32_precision
    assert before != "tf32"
    seen = []

    def validate() -> float:
        assert torch.backends.fp32_precision == before
        return 0.5

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
            seen.append(torch.backends.fp32_precision)
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            seen.append(torch.backends.fp32_precision)
            return gradients

    for precision, wanted in (("tf32", "tf32"), ("fp32", before)):
        settings = replace(SETTINGS, epochs=1, precision=precision)
        loss = make_loss(model, settings, "infonce")
        compute = loss.compute_loss_from_embeddings
        loss.compute_loss_from_embeddings = lambda *given, compute=compute, **options: (
            Watched.apply(compute(*given, **options))
        )
        pairs = TokenizedPairs.of(model, QUERIES, CODES)
        train_encoder(model, loss, pairs, settings, validate=validate, progress=False)
        assert seen == [wanted] * 6
        seen.clear()
    assert torch.backends.fp32_precision == before


def test_other_losses_refuse_to_keep_hard_negatives_out_of_their_softmax() -> None:
    model = static_model([*QUERIES, *CODES])
    rule = {"alpha": 1.0, "beta": 1.0, "temperature": 1.0}
    with pytest.raises(ValueError, match="is of soft_info_nce, got True with bce"):
        FamilyLoss(
            model,
            functional.bce,
            {},
            with_temperature=True,
            estimator="bm25",
            exclude_hard_negatives=True,
            **rule,
        )


def test_a_warm_up_that_is_the_whole_run_is_told() -> None:
    settings = TrainSettings(batch_size=32, epochs=1, learning_rate=5e-2, warmup_epochs=1.0)
    model = static_model([*QUERIES, *CODES])
    with pytest.warns(RuntimeWarning, match="warmup_epochs 1 is the whole run: .* never is 0.05"):
        train(model, settings.resolved(static=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        train(model, replace(settings, epochs=2).resolved(static=True))
