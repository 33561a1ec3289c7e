"""The column that a teacher's table is read by, added and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from models import static_model, tiny_rows

from softnce_ext.estimators.encoder import SimCSEEstimator, TeacherEstimator
from softnce_ext.sentence_transformers import SoftInfoNCELoss, add_row_numbers

ROWS = tiny_rows()
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] for row in ROWS]
PAIRS = {"query": QUERIES[:6], "code": CODES[:6]}


def test_pairs_are_numbered_from_the_start() -> None:
    assert add_row_numbers(Dataset.from_dict(PAIRS))["label"][:] == [0, 1, 2, 3, 4, 5]
    numbered = add_row_numbers(Dataset.from_dict(PAIRS), start=40)
    assert numbered["label"][:] == [40, 41, 42, 43, 44, 45]
    assert numbered.column_names == ["query", "code", "label"]


def test_negatives_have_the_rows_of_their_codes() -> None:
    codes = [*CODES[:5], CODES[1]]  # a copy: the first row that has it will do
    columns = {"query": QUERIES[:6], "code": codes, "a": codes[::-1], "b": [CODES[2]] * 6}
    numbered = add_row_numbers(Dataset.from_dict(columns), start=10)
    assert numbered["label"][:] == [
        [10, 11, 12],
        [11, 14, 12],
        [12, 13, 12],
        [13, 12, 12],
        [14, 11, 12],
        [15, 10, 12],
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({**PAIRS, "row": range(6)}, "column 'row' must hold texts.*got int64"),
        ({**PAIRS, "teacher": [[0.5]] * 6}, "column 'teacher' must hold texts.*got List"),
        ({**PAIRS, "score": [0.5] * 6}, "pairs must not have a column 'score'"),
        ({"query": QUERIES[:6]}, "must have columns of queries and of codes, got .'query'."),
        (
            {**PAIRS, "code": [*CODES[:5], None]},
            "'code' must hold a text in each row, got None",
        ),
        ({**PAIRS, "worse": CODES[1:7]}, "row 5 of column 'worse' is none"),
    ],
)
def test_what_cannot_be_numbered_is_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_row_numbers(Dataset.from_dict({name: list(each) for name, each in columns.items()}))


def test_what_has_no_rows_to_number_is_refused() -> None:
    pairs = Dataset.from_dict(PAIRS)
    for other in (DatasetDict({"train": pairs}), pairs.to_iterable_dataset()):
        with pytest.raises(TypeError, match=f"must be a Dataset.*, got {type(other).__name__}"):
            add_row_numbers(other)
    with pytest.raises(ValueError, match="start must be >= 0, got -5"):
        add_row_numbers(pairs, start=-5)
    with pytest.raises(TypeError, match="start must be an int, got float"):
        add_row_numbers(pairs, start=1.0)


@pytest.fixture(scope="module")
def model() -> Any:
    return static_model(QUERIES + CODES)


@pytest.mark.parametrize(
    ("further", "labels", "message"),
    [
        (0, None, 'must have an int column "label" .*add_row_numbers.* got 2 columns of texts'),
        (1, None, "got 3 columns of texts and no label"),
        (0, torch.rand(6), "label must hold int row numbers.*got torch.float32"),
        (0, torch.ones(6, dtype=torch.bool), "label must hold int row numbers.*got torch.bool"),
        (-1, torch.arange(6), "must have columns of queries and of codes, got 1$"),
        (0, torch.zeros(6, 3, dtype=torch.int64), r"label must be int \[N\], .*got shape \[6, 3\]"),
        (1, torch.arange(6), r"must be int \[N, 2\], .*with 1 columns of negatives, got shape \[6"),
        (1, torch.zeros(6, 3, dtype=torch.int64), r"int \[N, 2\].*got shape \[6, 3\]"),
        (2, torch.zeros(6, 2, dtype=torch.int64), r"int \[N, 3\].*got shape \[6, 2\]"),
    ],
)
def test_labels_that_are_no_row_numbers_are_refused(
    model: Any, tmp_path: Path, further: int, labels: Any, message: str
) -> None:
    teacher = TeacherEstimator(static_model(QUERIES + CODES, seed=5))
    teacher.cache(QUERIES, CODES, folder=tmp_path)
    loss = SoftInfoNCELoss(model, teacher, alpha=1.3, beta=0.7, temperature=0.1)
    texts = [QUERIES[:6], *([CODES[:6]] * (1 + further))]
    with pytest.raises((TypeError, ValueError), match=message):
        loss([model.preprocess(each) for each in texts], labels)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 2)])
def test_a_table_of_queries_takes_numbers_of_the_pairs_or_of_all(
    model: Any, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    simcse = SimCSEEstimator(static_model(QUERIES + CODES, seed=5))
    simcse.cache(QUERIES, folder=tmp_path)
    loss = SoftInfoNCELoss(model, simcse)
    columns = [model.preprocess(texts) for texts in (QUERIES[:6], CODES[:6], CODES[6:12])]
    labels = torch.arange(6).view(6, *[1] * (len(shape) - 1)).expand(shape)
    assert loss(columns, labels).isfinite()
    with pytest.raises(ValueError, match=r"must be int \[N\]"):
        loss(columns, torch.zeros(6, 5, dtype=torch.int64))
