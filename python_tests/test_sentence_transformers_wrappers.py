"""Losses that call a loss several times, and dropout: as with the library's own loss."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from models import LIBRARY, tiny_rows, transformer_model
from torch import Tensor, nn

from softnce_ext.estimators.collate import ROW, TEXT
from softnce_ext.sentence_transformers import CachedSoftInfoNCELoss, SoftInfoNCELoss

ROWS = tiny_rows()
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] for row in ROWS]
AS_THEIRS = ({"alpha": 0.0}, {"estimator": None})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return transformer_model(QUERIES + CODES, tmp_path_factory.mktemp("bert")).double()


def columns(model: Any, count: int) -> list[dict[str, Any]]:
    texts = [QUERIES[:9], CODES[:9], CODES[20:29], CODES[40:49]]
    return [model.preprocess(each) for each in texts[:count]]


def value_and_gradients(model: Any, loss: nn.Module, batch: list[dict[str, Any]]) -> list[Tensor]:
    model.zero_grad()
    value = loss(batch, None)
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_equal(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted) > 1
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("options", AS_THEIRS)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("wrapper", ["AdaptiveLayerLoss", "Matryoshka2dLoss"])
def test_layers_are_trained_as_with_their_loss(
    model: Any, wrapper: str, count: int, options: dict[str, Any]
) -> None:
    from sentence_transformers.sentence_transformer import losses

    made: dict[str, Any] = {"n_layers_per_step": -1}
    if wrapper == "Matryoshka2dLoss":
        made.update(matryoshka_dims=[32, 8], n_dims_per_step=-1)
    wrap = getattr(losses, wrapper)
    theirs = wrap(model, losses.MultipleNegativesRankingLoss(model), **made)
    ours = wrap(model, SoftInfoNCELoss(model, mask_duplicates=False, **options), **made)
    wanted = value_and_gradients(model, theirs, columns(model, count))
    assert_equal(value_and_gradients(model, ours, columns(model, count)), wanted)
    with_rows = [
        {**each, ROW: torch.arange(9), TEXT: QUERIES[:9]} for each in columns(model, count)
    ]
    assert_equal(value_and_gradients(model, ours, with_rows), wanted)


@pytest.mark.parametrize("options", AS_THEIRS)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_dropout_falls_as_with_their_loss(model: Any, count: int, options: dict[str, Any]) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    dropping = copy.deepcopy(model).train()
    for module in dropping.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    found = []
    for seed, loss in (
        (7, MultipleNegativesRankingLoss(dropping)),
        (7, SoftInfoNCELoss(dropping, mask_duplicates=False, **options)),
        (8, SoftInfoNCELoss(dropping, mask_duplicates=False, **options)),
    ):
        torch.manual_seed(seed)
        found.append(value_and_gradients(dropping, loss, columns(dropping, count)))
    assert_equal(found[1], found[0])
    assert found[2][0].item() != pytest.approx(found[0][0].item(), rel=1e-4)


def test_features_that_zeros_are_no_padding_of_are_embedded_column_by_column(model: Any) -> None:
    seen = []

    class Reader(nn.Module):
        def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
            seen.append(len(features["input_ids"]))
            return {"sentence_embedding": features["input_ids"][:, :3].double() + torch.rand(1)}

    loss = SoftInfoNCELoss(model, estimator=None)
    loss.model = Reader()
    batch = columns(model, 4)
    loss(batch)
    merged = list(seen)
    seen.clear()
    loss([{**each, "links": torch.zeros(9, 2, 2)} for each in batch])
    assert seen == [9, 9, 9, 9]
    assert merged in ([9, 27], [9, 9, 9, 9])  # since 6.0, before


@pytest.mark.skipif(LIBRARY < (5, 7), reason="knows nothing of gradient caching but its own")
def test_the_cached_loss_is_told_not_to_fit_layers(model: Any, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss

    with pytest.warns(UserWarning, match="not compatible with CachedSoftInfoNCELoss"):
        AdaptiveLayerLoss(model, CachedSoftInfoNCELoss(model))
