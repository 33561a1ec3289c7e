"""The losses in sentence-transformers' own trainer, with nothing else changed in a script."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import LIBRARY, static_model, tiny_rows, transformer_model
from torch import nn

from softnce_ext import PRESETS
from softnce_ext.estimators.bm25 import InBatchBM25, model_special_ids
from softnce_ext.estimators.encoder import TeacherEstimator
from softnce_ext.sentence_transformers import CachedSoftInfoNCELoss, SoftInfoNCELoss

ROWS = tiny_rows()
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] for row in ROWS]
PAIRS = {"query": QUERIES[:32], "code": CODES[:32]}
# The name of the third begins with that of the second: its features come with both.
TRIPLES = {**PAIRS, "code_neg": CODES[32:64]}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return transformer_model(QUERIES + CODES, tmp_path_factory.mktemp("bert"))


@pytest.fixture
def model(untrained: Any) -> Any:
    return copy.deepcopy(untrained)


def fit(
    loss: nn.Module,
    folder: Path,
    columns: dict[str, Any],
    evaluated: Any = None,
    callbacks: Any = None,
    **arguments: Any,
) -> list[float]:
    """Train for four steps; return the loss of each."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    data = Dataset.from_dict(columns)
    trainer = SentenceTransformerTrainer(
        model=loss.model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=16,
            num_train_epochs=2,
            learning_rate=1e-3,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **arguments,
        ),
        train_dataset=data,
        eval_dataset=evaluated and Dataset.from_dict(evaluated),
        loss=loss,
        callbacks=callbacks,
    )
    trainer.train()
    if callbacks:
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert all({"duplicates", "low_weights"} <= set(entry) for entry in history)
    if evaluated:
        assert trainer.evaluate()["eval_loss"] > 0
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("columns", [PAIRS, TRIPLES], ids=["pairs", "triples"])
def test_cached_steps_are_plain_steps(untrained: Any, tmp_path: Path, columns: Any) -> None:
    found = []
    for kind, options in (
        (SoftInfoNCELoss, {}),
        (CachedSoftInfoNCELoss, {"mini_batch_size": 5}),
        (CachedSoftInfoNCELoss, {"mini_batch_size": "auto"}),
    ):
        found.append(fit(kind(copy.deepcopy(untrained), **options), tmp_path, columns))
    assert len(found[0]) == 4 and found[0][-1] < found[0][0]
    for losses in found[1:]:
        assert losses == pytest.approx(found[0], rel=1e-3)  # after steps of Adam, in fp32


@pytest.mark.parametrize("kind", [SoftInfoNCELoss, CachedSoftInfoNCELoss])
def test_gradient_accumulation_divides_the_gradients(
    untrained: Any, tmp_path: Path, kind: Any
) -> None:
    loss, other = (kind(copy.deepcopy(untrained)) for _ in range(2))
    seen: list[Any] = []
    loss.register_forward_pre_hook(lambda _, given: seen.append(copy.deepcopy(given[0])))
    options = {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, "optim": "sgd"}
    fit(loss, tmp_path, PAIRS, gradient_accumulation_steps=2, max_steps=1, **options)
    assert [len(columns[0]["input_ids"]) for columns in seen] == [16, 16]
    for columns in seen:  # two batches of their own: no more negatives
        other([dict(column) for column in columns]).backward()
    trained = zip(loss.model.parameters(), other.model.parameters(), strict=True)
    for after, before in ((a, b) for a, b in trained if b.grad is not None):
        torch.testing.assert_close(before - after, 1e-3 * before.grad / 2, rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("kind", [SoftInfoNCELoss, CachedSoftInfoNCELoss])
def test_gradient_checkpointing_changes_nothing(untrained: Any, tmp_path: Path, kind: Any) -> None:
    usual = fit(kind(copy.deepcopy(untrained)), tmp_path, PAIRS)
    try:
        saving = fit(kind(copy.deepcopy(untrained)), tmp_path, PAIRS, gradient_checkpointing=True)
    except TypeError as error:
        if "every_n_layers" not in str(error):
            raise
        pytest.skip("no loss can: transformers' trainer asks this model for every_n_layers")
    assert saving == pytest.approx(usual, rel=1e-4)


@pytest.mark.parametrize("kind", [SoftInfoNCELoss, CachedSoftInfoNCELoss])
def test_bf16_trains_as_fp32_nearly(untrained: Any, tmp_path: Path, kind: Any) -> None:
    usual = fit(kind(copy.deepcopy(untrained)), tmp_path, PAIRS)
    half = fit(kind(copy.deepcopy(untrained)), tmp_path, PAIRS, bf16=True)
    assert half != usual
    assert half == pytest.approx(usual, rel=0.05)


@pytest.mark.parametrize("kind", ["transformer", "static"])
def test_a_prompt_reaches_the_model_and_no_weight(
    untrained: Any, tmp_path: Path, kind: str
) -> None:
    model = untrained if kind == "transformer" else static_model(QUERIES + CODES)
    prompt = "return the lines of a file "  # words that queries have
    seen: list[Any] = []

    def watched(columns: Any) -> Any:
        found = InBatchBM25(model_special_ids(model))(columns)
        seen[-1].append(found)
        return found

    def trained(estimator: Any, columns: dict[str, Any], **options: Any) -> list[float]:
        seen.append([])
        paper = PRESETS["bm25"]._asdict() if estimator else {}
        loss = SoftInfoNCELoss(copy.deepcopy(model), estimator, **paper)
        return fit(loss, tmp_path, columns, **options)

    bare = trained(watched, PAIRS)
    asked = trained(watched, PAIRS, prompts={"query": prompt})
    assert asked != pytest.approx(bare, rel=1e-4)
    for left, right in zip(*seen, strict=True):
        assert torch.equal(left, right)
    written = {**PAIRS, "query": [prompt + text for text in PAIRS["query"]]}
    without = trained(None, PAIRS, prompts={"query": prompt})
    assert without == pytest.approx(trained(None, written), rel=1e-4)


@pytest.mark.skipif(LIBRARY < (5, 7), reason="knows nothing of gradient caching; test_cached_loss")
def test_matryoshka_trains_both_alike(untrained: Any, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

    found = []
    for kind in (SoftInfoNCELoss, CachedSoftInfoNCELoss):
        model = copy.deepcopy(untrained)
        loss = MatryoshkaLoss(model, kind(model), [32, 8])
        found.append(fit(loss, tmp_path, TRIPLES))
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert found[0][-1] < found[0][0]


def test_labels_reach_the_teachers_tables(model: Any, tmp_path: Path) -> None:
    teacher = TeacherEstimator(static_model(QUERIES + CODES, seed=5))
    teacher.cache(QUERIES, CODES, folder=tmp_path)
    seen = []
    table = teacher.tables["code"]
    take = table.take
    object.__setattr__(table, "take", lambda rows: (seen.append(rows.tolist()), take(rows))[1])
    before = {name: weight.clone() for name, weight in teacher.encoder.model.state_dict().items()}
    rule = {"alpha": 1.3, "beta": 0.7, "temperature": 0.1}
    ids = [[i, i + 32] for i in range(32)]
    evaluated = {
        "query": QUERIES[64:],
        "code": CODES[64:],
        "code_neg": CODES[:16],
        "label": [[i, i - 64] for i in range(64, 80)],
    }
    losses = fit(
        SoftInfoNCELoss(model, teacher, **rule),
        tmp_path,
        {**TRIPLES, "label": ids},
        evaluated=evaluated,
    )
    assert len(losses) == 4
    positives, negatives = seen[0:8:2], seen[1:8:2]
    assert all([i + 32 for i in a] == b for a, b in zip(positives, negatives, strict=True))
    assert sorted(sum(positives[:2], [])) == list(range(32))
    assert sorted(sum(seen[8::2], [])) == list(range(64, 80))  # of evaluation
    for name, weight in teacher.encoder.model.state_dict().items():
        assert torch.equal(weight, before[name]), "the teacher was trained"


def test_row_numbers_under_another_name_are_told_what_to_be(model: Any, tmp_path: Path) -> None:
    teacher = TeacherEstimator(static_model(QUERIES + CODES, seed=5))
    teacher.cache(QUERIES, CODES, folder=tmp_path)
    loss = SoftInfoNCELoss(model, teacher, alpha=1.3, beta=0.7, temperature=0.1)
    numbered = {**PAIRS, "number": [str(i) for i in range(32)]}
    with pytest.raises(ValueError, match='int column "label" .*of another name is read as a text'):
        fit(loss, tmp_path, numbered)


TWINS = {"query": [QUERIES[i % 8] for i in range(32)], "code": CODES[:32]}


def test_duplicates_are_told_once_and_logged_by_the_callback(
    untrained: Any, tmp_path: Path, caplog: Any, capsys: Any
) -> None:
    from softnce_ext.sentence_transformers.log import LogStatistics

    fit(SoftInfoNCELoss(copy.deepcopy(untrained)), tmp_path, TWINS)
    (told,) = [each.getMessage() for each in caplog.records if "no negatives" in each.getMessage()]
    assert "of this batch of 16 rows" in told and "LogStatistics" in told
    caplog.clear()
    for columns in (PAIRS, TWINS):  # nothing to tell; told by the callback
        loss = SoftInfoNCELoss(copy.deepcopy(untrained))
        callback = LogStatistics(loss)
        fit(loss, tmp_path, columns, callbacks=[callback])
        printed = capsys.readouterr().out
        assert printed.count("duplicates") == printed.count("low_weights") == 4
    assert not any("no negatives" in each.getMessage() for each in caplog.records)
    assert "'duplicates': '0'" not in printed and "'duplicates': 0" not in printed


def test_one_callback_logs_the_statistics_of_several_losses(model: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import (
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )

    from softnce_ext.sentence_transformers.log import LogStatistics

    losses = {
        "twins": SoftInfoNCELoss(model),
        "pairs": MatryoshkaLoss(model, SoftInfoNCELoss(model), [32, 8]),
        "theirs": MultipleNegativesRankingLoss(model),
    }

    def trainer(callbacks: list[Any]) -> Any:
        return SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=str(tmp_path),
                per_device_train_batch_size=16,
                num_train_epochs=1,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
                logging_steps=6,
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset={
                name: Dataset.from_dict(TWINS if name == "twins" else PAIRS) for name in losses
            },
            loss=losses,
            callbacks=callbacks,
        )

    once = trainer([LogStatistics(losses)])
    once.train()
    logged = once.state.log_history[0]
    assert logged["loss"] > 0
    assert logged["twins_duplicates"] > 0 and logged["pairs_duplicates"] == 0
    assert logged["pairs_low_weights"] > logged["twins_low_weights"]
    assert not {"duplicates", "theirs_duplicates"} & set(logged)
    once.train()  # a second training is no second callback
    twice = trainer([LogStatistics(losses["twins"]), LogStatistics(losses["pairs"])])
    with pytest.raises(ValueError, match="must have one LogStatistics, .* a dict, got two"):
        twice.train()
    with pytest.raises(TypeError, match="loss must be or hold a SoftInfoNCELoss.* got Multiple"):
        LogStatistics(losses["theirs"])


def test_the_card_tells_the_loss_and_the_paper(model: Any, tmp_path: Path) -> None:
    fit(CachedSoftInfoNCELoss(model, symmetric=True), tmp_path, PAIRS)
    model.save_pretrained(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "loss:CachedSoftInfoNCELoss" in card
    assert "Rethinking Negative Pairs in Code Search" in card
    for line in ('"estimator": "InBatchBM25"', '"mini_batch_size": 32', '"symmetric": true'):
        assert line in card


WITHOUT_US = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "softnce_ext":
            raise ImportError("softnce_ext is not here")

sys.meta_path.insert(0, Refuse())
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], device="cpu")
print(list(model.encode(["Read the file", "Send the mail"]).shape))
try:
    import softnce_ext
except ImportError:
    print("alone")
"""


@pytest.mark.parametrize("kind", ["static", "transformer"])
def test_a_saved_model_needs_nothing_of_ours(kind: str, model: Any, tmp_path: Path) -> None:
    trained = static_model(QUERIES + CODES) if kind == "static" else model
    fit(SoftInfoNCELoss(trained), tmp_path, PAIRS)
    folder = tmp_path / "model"
    trained.save_pretrained(str(folder))
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".md":  # the card tells how it was trained
            assert b"softnce" not in path.read_bytes(), path.name
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT_US, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    ).stdout.split("\n")
    assert told[:2] == [f"[2, {16 if kind == 'static' else 32}]", "alone"]


def test_32_steps_without_weights_are_multiple_negatives_ranking(untrained: Any) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    models = [copy.deepcopy(untrained).double().train() for _ in range(2)]
    losses = [
        MultipleNegativesRankingLoss(models[0]),
        SoftInfoNCELoss(models[1], alpha=0.0, mask_duplicates=False),
    ]
    steppers = [torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9) for model in models]
    for number in range(32):
        rows = [(7 * number + i) % 80 for i in range(10)]
        rows[3] = rows[0]  # a duplicate
        texts = [[QUERIES[i] for i in rows], [CODES[i] for i in rows], [CODES[i - 9] for i in rows]]
        batch = [models[0].preprocess(column) for column in texts]
        found = []
        for loss, stepper in zip(losses, steppers, strict=True):
            stepper.zero_grad()
            value = loss([dict(column) for column in batch], None)
            value.backward()
            found.append(value.item())
        assert found[1] == pytest.approx(found[0], rel=1e-6)
        for theirs, ours in zip(*(model.parameters() for model in models), strict=True):
            if theirs.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-8)
        for stepper in steppers:
            stepper.step()
