from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import static_model, tiny_rows, transformer_model
from torch import nn

from softnce_ext import reference
from softnce_ext.estimators import bm25 as bm25_module
from softnce_ext.estimators import similarity as similarity_module
from softnce_ext.estimators.similarity import low_weights
from softnce_ext.presets import PRESETS
from softnce_ext.sentence_transformers import (
    CachedSoftInfoNCELoss,
    SoftInfoNCELoss,
    expected_alpha,
)

ROWS = tiny_rows()
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] for row in ROWS]


@pytest.fixture(scope="module", params=["static", "transformer"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "static":
        return static_model(QUERIES + CODES)
    return transformer_model(QUERIES + CODES, tmp_path_factory.mktemp("bert"))


def features(model: Any, *columns: list[str]) -> list[dict[str, torch.Tensor]]:
    return [model.preprocess(texts) for texts in columns]


def loss_and_gradients(loss: nn.Module, batch: list[dict[str, Any]]) -> list[torch.Tensor]:
    loss.model.zero_grad()
    value = loss([dict(column) for column in batch], None)
    value.backward()
    gradients = [p.grad.clone() for p in loss.model.parameters() if p.grad is not None]
    return [value.detach(), *gradients]


@pytest.mark.parametrize("columns", [2, 3, 4])
@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"estimator": None}])
def test_uniform_weights_are_multiple_negatives_ranking(
    model: Any, options: dict[str, Any], columns: int
) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    texts = [QUERIES[:12], CODES[:12], CODES[20:32], CODES[40:52]][:columns]
    model = copy.deepcopy(model).double()  # in fp32 the layers' rounding is larger than 1e-6
    batch = features(model, *texts)
    wanted = loss_and_gradients(MultipleNegativesRankingLoss(model), batch)
    found = loss_and_gradients(SoftInfoNCELoss(model, mask_duplicates=False, **options), batch)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_default_is_the_reference_with_bm25_between_queries(model: Any) -> None:
    batch = features(model, QUERIES[:20], CODES[:20])
    loss = SoftInfoNCELoss(model)
    query, code = (model(dict(column))["sentence_embedding"] for column in batch)
    wanted = reference.soft_info_nce(
        nn.functional.normalize(query),
        nn.functional.normalize(code),
        loss.estimator(batch),
        **PRESETS["bm25"]._asdict(),
        scale=20.0,
    )
    plain = SoftInfoNCELoss(model, estimator=None)(batch)
    assert loss(batch).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert loss(batch).item() != pytest.approx(plain.item(), rel=1e-3)


def test_duplicates_are_masked_and_counted(model: Any) -> None:
    queries, codes = QUERIES[:8], CODES[:8]
    queries[3], codes[5] = queries[0], codes[1]  # rows 0 and 3, rows 1 and 5 are duplicates
    batch = features(model, queries, codes)
    loss = SoftInfoNCELoss(model, estimator=None)
    found = loss(batch)
    assert loss.pop_statistics() == {"duplicates": 4.0}

    query, code = (model(dict(column))["sentence_embedding"] for column in batch)
    scores = 20 * nn.functional.normalize(query) @ nn.functional.normalize(code).T
    for i, j in ((0, 3), (3, 0), (1, 5), (5, 1)):
        scores[i, j] = -torch.inf
    wanted = nn.functional.cross_entropy(scores, torch.arange(8))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)

    unmasked = SoftInfoNCELoss(model, estimator=None, mask_duplicates=False)
    assert unmasked(batch).item() > found.item()
    assert unmasked.pop_statistics() == {}


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("repeated", [False, True])
def test_low_weights_are_those_of_equation_4(model: Any, columns: int, repeated: bool) -> None:
    queries = [*QUERIES[:10], *(QUERIES[:2] if repeated else QUERIES[10:12])]
    batch = features(model, queries, CODES[:12], CODES[20:32])[:columns]
    loss = SoftInfoNCELoss(model, temperature=0.5)
    seen: dict[str, Any] = {}
    compute = loss.compute_loss_from_embeddings

    def spy(*args: Any, **given: Any) -> torch.Tensor:
        seen.update(given)
        return compute(*args, **given)

    loss.compute_loss_from_embeddings = spy
    loss.pop_statistics()
    loss(batch)
    rule = {**PRESETS["bm25"]._asdict(), "temperature": 0.5}
    groups = seen["groups"]
    assert (groups is not None) == repeated
    similarity, known = seen["similarity"], None
    if columns == 3:  # further codes have no query to compare
        dense = similarity.dense(torch.float32)
        similarity = torch.nn.functional.pad(dense, (0, 24 - dense.shape[1]))
        known = torch.arange(24) < 12
    weights = reference.soft_weights(similarity, **rule, groups=groups, known=known)
    negative = weights > 0
    negative.fill_diagonal_(False)
    low = ((weights < 0.5) & negative).sum(1).float().mean()
    assert low > 0
    assert loss.pop_statistics()["low_weights"] == pytest.approx(low.item())
    if columns == 3:
        assert torch.allclose(weights[:, 12:], torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("first", ["", "return the first item of a list"])
def test_bm25_as_factors_and_as_a_matrix_is_one_loss(
    model: Any, columns: int, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a query has no words, or codes no query: they are compared with nothing."""
    queries = [first, QUERIES[0], QUERIES[0] + " " + QUERIES[1], *QUERIES[1:10]]
    batch = features(model, queries, CODES[:12], CODES[20:32])[:columns]
    found = []
    for most in (1 << 24, 0):
        monkeypatch.setattr(bm25_module, "_FACTOR_SCORES", most)
        loss = SoftInfoNCELoss(model, alpha_scaling="expected", false_negative_rate=0.2)
        loss.pop_statistics()
        value = loss(batch)
        gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
        found.append([value, *(each for each in gradients if each is not None)])
        found[-1].append(torch.tensor(loss.pop_statistics()["low_weights"]))
    assert found[0][-1] > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)
    plain = SoftInfoNCELoss(model, estimator=None)(batch)
    assert abs(plain - found[0][0]) > 1e-4


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_low_weights_are_counted_to_the_bound(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity_module, "SAMPLE_ROWS", 300)
    generator = torch.Generator().manual_seed(0)
    similarity = 3 * torch.randn(300, 300, generator=generator)
    groups = (torch.arange(300) // 2, torch.arange(300) // 2)
    rule = {"alpha": 1.5, "beta": 0.5, "temperature": temperature, "min_weight": 0.1}
    weights = reference.soft_weights(similarity, **rule, groups=groups)
    low = (weights < 0.5).sum(1) - (weights == 0).sum(1)
    assert low_weights(similarity, groups, rule).item() == pytest.approx(low.float().mean().item())


def test_statistics_are_means_over_the_steps_since_the_last_call(model: Any) -> None:
    queries = [QUERIES[0], QUERIES[0], *QUERIES[1:5]]
    loss = SoftInfoNCELoss(model, estimator=None)
    loss(features(model, queries, CODES[:6]))
    loss(features(model, QUERIES[:6], CODES[:6]))
    assert loss.pop_statistics() == {"duplicates": 1.0}
    loss(features(model, QUERIES[:6], CODES[:6]))
    assert loss.pop_statistics() == {"duplicates": 0.0}


@pytest.mark.parametrize("cached", [False, True])
def test_statistics_are_those_of_training_steps_and_readers(model: Any, cached: bool) -> None:
    twice = [QUERIES[0], QUERIES[0], *QUERIES[1:11]]
    loss = (CachedSoftInfoNCELoss if cached else SoftInfoNCELoss)(model, temperature=0.5)
    loss(features(model, twice, CODES[:12]))
    assert loss.pop_statistics() == {"duplicates": 2.0}  # nobody had asked for low_weights
    loss(features(model, QUERIES[:12], CODES[:12]))
    with torch.no_grad():  # evaluation
        loss(features(model, twice, CODES[:12]))
    found = loss.pop_statistics()
    assert found["duplicates"] == 0.0 and found["low_weights"] > 0
    loss(features(model, QUERIES[:12], CODES[:12]))
    assert loss.pop_statistics() == found
    with torch.no_grad():
        loss(features(model, twice, CODES[:12]))
    assert loss.pop_statistics() == {}


def test_own_estimator_sees_the_features_and_is_not_trained(model: Any) -> None:
    class Teacher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, batch: list[dict[str, Any]]) -> torch.Tensor:
            assert len(batch) == 2 and not torch.is_grad_enabled()
            return torch.zeros(6, 6)

    loss = SoftInfoNCELoss(model, Teacher(), alpha=1.3, beta=0.7, temperature=0.1)
    batch = features(model, QUERIES[:6], CODES[:6])
    plain = SoftInfoNCELoss(model, estimator=None)
    assert loss(batch).item() == pytest.approx(plain(batch).item(), rel=1e-6)
    trained = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in loss.parameters()} == trained
    assert loss.get_config_dict()["estimator"] == "Teacher"


def test_dot_product_scores_are_on_offer(model: Any) -> None:
    batch = features(model, QUERIES[:6], CODES[:6])
    loss = SoftInfoNCELoss(model, estimator=None, normalize=False, scale=1.0, mask_duplicates=False)
    query, code = (3 * model(dict(column))["sentence_embedding"] for column in batch)
    wanted = reference.info_nce(query, code)
    assert loss.compute_loss_from_embeddings([query, code]).item() == pytest.approx(
        wanted.item(), rel=1e-5
    )


def test_card_and_citation(model: Any) -> None:
    config = SoftInfoNCELoss(model, beta=0.75).get_config_dict()
    assert json.loads(json.dumps(config)) == {
        "estimator": "InBatchBM25",
        "scale": 20.0,
        "alpha": 1.5,
        "beta": 0.75,
        "temperature": 1.0,
        "min_weight": 0.1,
        "normalize": True,
        "mask_duplicates": True,
        "symmetric": False,
        "exclude_hard_negatives": False,
        "gather_across_devices": False,
    }
    assert SoftInfoNCELoss(model, None).get_config_dict()["estimator"] is None
    assert "Rethinking Negative Pairs in Code Search" in SoftInfoNCELoss(model).citation


def test_expected_alpha_weakens_k_equal_negatives_as_one_alone() -> None:
    assert expected_alpha(1.5, 0.5, 31, 1 / 31) == 1.5
    assert expected_alpha(1.5, 0.5, 8, 1 / 31) == 1.5  # at least one false negative
    assert expected_alpha(1.5, 0.5, 310, 1 / 31) == pytest.approx(15.0)
    assert expected_alpha(1.5, 0.5, 1000, 0.5) == 250.0  # 2 alpha = beta * negatives
    assert expected_alpha(1.5, 0.5, 3, 0.5) == 1.5  # never below alpha, small as the batch is
    # k negatives far more similar than the other 1000 - k, of which k = 1000 / 100 are expected
    for k, rate in ((1, 0.001), (10, 0.01)):
        similarity = torch.zeros(1001, 1001)
        similarity[0, 1 : 1 + k] = 20.0
        alpha = expected_alpha(1.5, 1.0, 1000, rate)
        weights = reference.soft_weights(
            similarity, alpha=alpha, beta=1.0, temperature=1.0, min_weight=0.0
        )[0]
        assert weights[1 : 1 + k].max() == 0.0  # 1 - 1.5 of each
        weights = reference.soft_weights(
            similarity, alpha=alpha / 3, beta=1.0, temperature=1.0, min_weight=0.0
        )[0]
        assert torch.allclose(weights[1 : 1 + k], torch.tensor(0.5), atol=0.01)


@pytest.mark.parametrize("columns", [2, 3])
def test_expected_scaling_keeps_the_relative_weights_of_the_papers_batch(columns: int) -> None:
    rule = PRESETS["bm25"]._asdict()
    for rows in (32, 64):
        # One negative 5 times as similar as the row's average, whatever the number of rows.
        similarity = torch.zeros(rows, rows)
        similarity[0, 1] = torch.log(torch.tensor(5 * (rows - 2) / (rows - 1 - 5.0)))
        alpha = expected_alpha(rule["alpha"], rule["beta"], rows - 1, 1 / 31)
        weights = reference.soft_weights(similarity, **{**rule, "alpha": alpha})
        assert weights[0, 1].item() == pytest.approx((0.5 - 1.5 * 5 / 31) / (0.5 - 1.5 / 31))

    model = static_model(QUERIES + CODES)
    loss = SoftInfoNCELoss(model, alpha_scaling="expected", false_negative_rate=0.2)
    loss.pop_statistics()
    batch = features(model, QUERIES[:20], CODES[:20], CODES[30:50])[:columns]
    found = loss(batch)
    alpha = expected_alpha(1.5, 0.5, 20 - 1, 0.2)  # further codes are compared with nothing
    assert alpha > 1.5
    plain = SoftInfoNCELoss(model, alpha=alpha)
    plain.pop_statistics()
    assert found.item() == pytest.approx(plain(batch).item(), rel=1e-6)
    assert loss.pop_statistics()["low_weights"] == plain.pop_statistics()["low_weights"] > 0
    assert loss.weights["alpha"] == 1.5


def test_card_tells_the_scaling(model: Any) -> None:
    config = SoftInfoNCELoss(model, alpha_scaling="expected").get_config_dict()
    assert (config["alpha_scaling"], config["false_negative_rate"]) == ("expected", 1 / 31)


def test_an_estimator_may_return_factors_or_a_pair(model: Any) -> None:
    batch = features(model, QUERIES[:20], CODES[:20], CODES[30:50])
    bm25 = SoftInfoNCELoss(model).estimator
    rule = PRESETS["bm25"]._asdict()
    loss = SoftInfoNCELoss(model, bm25.factors, **rule)
    query, code, more = (model(dict(column))["sentence_embedding"] for column in batch)
    wanted = reference.soft_info_nce(
        nn.functional.normalize(query),
        nn.functional.normalize(torch.cat([code, more])),
        bm25.factors(batch),
        **rule,
        scale=20.0,
    )
    assert loss(batch).item() == pytest.approx(wanted.item(), rel=1e-5)
    similarity = bm25(batch[:2])
    left, values, right = torch.linalg.svd(similarity)
    pair = SoftInfoNCELoss(model, lambda batch: (left * values, right.T), **rule)
    dense = SoftInfoNCELoss(model, lambda batch: similarity, **rule)
    pair.pop_statistics(), dense.pop_statistics()
    assert pair(batch).item() == pytest.approx(dense(batch).item(), rel=1e-5)
    assert pair.pop_statistics() == pytest.approx(dense.pop_statistics())


def test_bad_arguments_are_named(model: Any) -> None:
    with pytest.raises(ValueError, match="scale must be > 0, got 0"):
        SoftInfoNCELoss(model, scale=0)
    with pytest.raises(ValueError, match="estimator must be .* got 'tfidf'"):
        SoftInfoNCELoss(model, "tfidf")
    with pytest.raises(ValueError, match="alpha_scaling must be None or .* got 'linear'"):
        SoftInfoNCELoss(model, alpha_scaling="linear")
    with pytest.raises(ValueError, match=r"false_negative_rate must be in \(0, 1\), got 1"):
        SoftInfoNCELoss(model, false_negative_rate=1)
    with pytest.raises(ValueError, match="alpha, temperature must be given"):
        SoftInfoNCELoss(model, lambda batch: None, beta=0.5)
    loss = SoftInfoNCELoss(model)
    with pytest.raises(ValueError, match="similarity must be given"):
        loss.compute_loss_from_embeddings([torch.ones(2, 2), torch.ones(2, 2)])
    with pytest.raises(ValueError, match="embeddings must hold at least 2 columns, got 1"):
        loss.compute_loss_from_embeddings([torch.ones(2, 2)])
    narrow = SoftInfoNCELoss(model, lambda batch: torch.zeros(6, 5), alpha=1, beta=1, temperature=1)
    with pytest.raises(ValueError, match=r"must return shape \[6, 6 to 6\], got \[6, 5\]"):
        narrow(features(model, QUERIES[:6], CODES[:6]))


def test_what_is_no_estimator_is_told_what_was_meant(model: Any) -> None:
    with pytest.raises(TypeError, match=r"estimator must be .* the number 20.0: .* scale=20.0$"):
        SoftInfoNCELoss(model, 20.0)
    with pytest.raises(TypeError, match="got a SentenceTransformer: .*TeacherEstimator makes"):
        SoftInfoNCELoss(model, model, alpha=1.0, beta=1.0, temperature=1.0)
    with pytest.raises(TypeError, match="estimator must be .* or a function, got dict"):
        SoftInfoNCELoss(model, {}, alpha=1.0, beta=1.0, temperature=1.0)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("options", [{}, {"estimator": None, "mask_duplicates": False}])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((6,), "must have columns of queries and of codes, got 1$"),
        ((6, 5), r"must have the same rows, 1 or more, got \[6, 5\]"),
        ((6, 6, 7), r"must have the same rows, 1 or more, got \[6, 6, 7\]"),
        ((0, 0), r"must have the same rows, 1 or more, got \[0, 0\]"),
    ],
)
def test_columns_that_make_no_batch_are_refused(
    model: Any, rows: tuple[int, ...], message: str, options: dict[str, Any], cached: bool
) -> None:
    loss = (CachedSoftInfoNCELoss if cached else SoftInfoNCELoss)(model, **options)
    texts = [(QUERIES if place == 0 else CODES)[:count] for place, count in enumerate(rows)]
    with pytest.raises(ValueError, match=message):
        loss(features(model, *texts))


def test_features_without_token_ids_need_duplicates_unmasked(model: Any) -> None:
    columns = [{"pixel_values": torch.zeros(4, 3)} for _ in range(2)]
    loss = SoftInfoNCELoss(model, None)
    with pytest.raises(ValueError, match=r"mask_duplicates=True .* \(False does without\): .*'pix"):
        loss.beside(columns, None)
    loss.mask_duplicates = False
    assert loss.beside(columns, None)["groups"] is None


def test_drops_into_the_trainer_of_others(model: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    columns = {"query": QUERIES[:32], "code": CODES[:32], "code_neg": CODES[32:64]}
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=16,
            num_train_epochs=2,
            learning_rate=1e-2,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_dict(columns),
        loss=SoftInfoNCELoss(model),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    with torch.no_grad():  # the fixture is shared
        for parameter, value in zip(model.parameters(), before, strict=True):
            parameter.copy_(value)
