"""What the losses refuse, each in one sentence that says what was meant."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from models import static_model, tiny_rows
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from softnce_ext.estimators.encoder import SimCSEEstimator, TeacherEstimator
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
        (object.__new__(CrossEncoder), "got CrossEncoder$"),
    ],
)
def test_what_is_no_model_is_refused(given: Any, came: str) -> None:
    with pytest.raises(TypeError, match=f"^model must be a SentenceTransformer, {came}"):
        SoftInfoNCELoss(given)


def test_a_module_without_a_tokenizer_has_no_bm25() -> None:
    with pytest.raises(TypeError, match='^model must be .* with estimator "bm25", .* got Linear$'):
        SoftInfoNCELoss(nn.Linear(2, 2))


@pytest.mark.parametrize("teacher", [5, object.__new__(CrossEncoder)])
def test_what_is_no_teacher_is_refused(teacher: Any) -> None:
    for kind in (TeacherEstimator, SimCSEEstimator):
        with pytest.raises(TypeError, match=r"^the encoder must be a SentenceTransformer, .* got "):
            kind(teacher)


@pytest.mark.parametrize(
    ("queries", "codes", "error", "message"),
    [
        (["a", "b", "c"], ["x"], ValueError, "^codes must hold .* got 3 queries and 1 codes$"),
        ("abc", "def", TypeError, "^texts must be a sequence of texts, got one text$"),
        (["a", None], ["x", "y"], TypeError, "^texts must hold texts, got NoneType in row 1$"),
        (["a", "b"], [1, 2], TypeError, "^texts must hold texts, got int in row 0$"),
    ],
)
def test_what_makes_no_table_is_refused(
    model: Any, tmp_path: Path, queries: Any, codes: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TeacherEstimator(copy.deepcopy(model)).cache(queries, codes, folder=tmp_path)


def test_a_module_that_encodes_no_texts_makes_no_table(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="^a table needs a SentenceTransformer .* got Linear$"):
        TeacherEstimator(nn.Linear(2, 2)).cache(["a"], ["b"], folder=tmp_path)


def test_embeddings_alone_mask_no_duplicates_and_it_is_told(model: Any) -> None:
    embeddings = [torch.eye(3), torch.eye(3)]
    with pytest.warns(RuntimeWarning, match="^mask_duplicates=True .* none is masked"):
        SoftInfoNCELoss(model, None).compute_loss_from_embeddings(embeddings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SoftInfoNCELoss(model, None, mask_duplicates=False).compute_loss_from_embeddings(embeddings)
        SoftInfoNCELoss(model, None)(batch(model))


@pytest.mark.parametrize("kind", [SoftInfoNCELoss, CachedSoftInfoNCELoss])
def test_labels_of_right_and_wrong_pairs_are_told_to_be_unread(model: Any, kind: Any) -> None:
    wrong = torch.tensor([1, 0, 1, 0, 1, 0])
    loss = kind(model)
    with pytest.warns(RuntimeWarning, match="^label is not read: rows whose label is 0"):
        loss(batch(model), wrong)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(batch(model), wrong)  # once
        for labels in (None, torch.arange(6), torch.ones(6, dtype=torch.int64), wrong[:, None]):
            kind(model)(batch(model), labels)


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
