"""What the losses refuse, each in one sentence that says what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import static_model, tiny_rows
from torch import Tensor, nn

from softnce_ext.estimators.encoder import TeacherEstimator
from softnce_ext.sentence_transformers import CachedSoftInfoNCELoss, SoftInfoNCELoss

ROWS = tiny_rows()
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] for row in ROWS]
RULE = {"alpha": 1.3, "beta": 0.7, "temperature": 0.1}
FLAGS = (
    "normalize",
    "mask_duplicates",
    "symmetric",
    "exclude_hard_negatives",
    "gather_across_devices",
)


@pytest.fixture(scope="module")
def model() -> Any:
    return static_model(QUERIES + CODES)


def batch(model: Any, rows: int = 6) -> list[dict[str, Tensor]]:
    return [model.preprocess(texts[:rows]) for texts in (QUERIES, CODES)]


@pytest.mark.parametrize("kind", [SoftInfoNCELoss, CachedSoftInfoNCELoss])
@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", ["no", 1, None, torch.tensor(True)])
def test_a_flag_that_is_no_bool_is_refused(model: Any, kind: Any, flag: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{flag} must be True or False, got "):
        kind(model, None, **{flag: value})


@pytest.mark.parametrize(
    ("given", "came"),
    [
        (None, "got NoneType$"),
        ("name/or/path", r"got 'name/or/path': load it with SentenceTransformer\("),
        (Path("folder"), "got 'folder': load it"),
        ({}, "got dict$"),
    ],
)
def test_what_is_no_model_is_refused(given: Any, came: str) -> None:
    with pytest.raises(TypeError, match=f"^model must be a SentenceTransformer, {came}"):
        SoftInfoNCELoss(given)


def test_a_learned_scale_is_refused(model: Any) -> None:
    with pytest.raises(
        TypeError, match="^scale must be a number, got Parameter: .* not the loss's"
    ):
        SoftInfoNCELoss(model, scale=nn.Parameter(torch.tensor(20.0)))


@pytest.mark.parametrize("kind", [SoftInfoNCELoss, CachedSoftInfoNCELoss])
def test_an_estimator_that_returns_nothing_is_refused(model: Any, kind: Any) -> None:
    loss = kind(model, lambda columns: None, **RULE)
    with pytest.raises(TypeError, match="^the estimator must return a .*Tensor.* got NoneType$"):
        loss(batch(model))


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4, 5], "label", (0, 1)])
def test_labels_that_are_no_tensor_are_refused_where_a_table_is_read(
    model: Any, tmp_path: Path, labels: Any
) -> None:
    teacher = TeacherEstimator(static_model(QUERIES + CODES, seed=5))
    teacher.cache(QUERIES, CODES, folder=tmp_path)
    loss = SoftInfoNCELoss(model, teacher, **RULE)
    came = type(labels).__name__
    with pytest.raises(
        TypeError, match=f"^label must be an int Tensor of row numbers .*got {came}"
    ):
        loss(batch(model), labels)
    plain = SoftInfoNCELoss(model)  # reads no labels
    assert plain(batch(model), labels).item() == plain(batch(model)).item()


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", [SoftInfoNCELoss, CachedSoftInfoNCELoss])
def test_a_static_encoders_batch_that_was_cut_by_rows_is_refused(
    model: Any, kind: Any, rank: int
) -> None:
    """As accelerate dispatches a streaming data set's: two batches joined, then cut in two."""
    joined = [
        {name: torch.cat([column[name], column[name]]) for name in ("input_ids", "offsets")}
        for column in batch(model)
    ]
    half = len(joined[0]["input_ids"]) // 2  # the first tensor's length is taken for the rows
    part = slice(rank * half, (rank + 1) * half)
    columns = [{name: value[part] for name, value in column.items()} for column in joined]
    with pytest.raises(ValueError, match=r'^offsets must rise .*=\{"dispatch_batches": False\}$'):
        kind(model, None)(columns)


def test_texts_without_a_token_are_no_cut(model: Any) -> None:
    texts = ["", *QUERIES[:4], ""]
    columns = [model.preprocess(texts), model.preprocess(CODES[:6])]
    assert SoftInfoNCELoss(model, None)(columns).isfinite()
