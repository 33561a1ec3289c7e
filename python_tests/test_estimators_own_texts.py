"""A table of other texts is told by the first rows of a training."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from models import THINGS, VERBS, static_model, tiny_rows, transformer_model

from softnce_ext.estimators.collate import ROW
from softnce_ext.estimators.encoder import SimCSEEstimator, TeacherEstimator
from softnce_ext.estimators.own_texts import OwnTexts, count_astray
from softnce_ext.estimators.table import StaleTableError
from softnce_ext.sentence_transformers import SoftInfoNCELoss

ROWS = tiny_rows()
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] for row in ROWS]
RULE = {"alpha": 1.3, "beta": 0.7, "temperature": 0.1}


@pytest.fixture(scope="module", params=["static", "transformer"])
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "static":
        return static_model(QUERIES + CODES)
    return transformer_model(QUERIES + CODES, tmp_path_factory.mktemp("student"))


def train(
    student: Any,
    folder: Path,
    rows: list[int],
    *,
    queries: list[str] = QUERIES,
    codes: list[str] = CODES,
    size: int = 8,
    **options: Any,
) -> TeacherEstimator:
    """Go through rows of the pairs with a table of `queries` and `codes`."""
    teacher = TeacherEstimator(static_model(QUERIES + CODES, seed=5))
    teacher.cache(queries, codes, folder=folder)
    loss = SoftInfoNCELoss(student, teacher, **RULE)
    for begin in range(0, len(rows), size):
        chosen = rows[begin : begin + size]
        columns = [
            student.preprocess([texts[i] for i in chosen], **options) for texts in (QUERIES, CODES)
        ]
        loss(columns, torch.tensor(chosen))
    return teacher


def shuffled(seed: int = 0) -> list[int]:
    return random.Random(seed).sample(range(80), 80)


@pytest.mark.parametrize("size", [4, 8, 40, 80])
def test_a_table_of_its_own_texts_is_believed_after_64_rows(
    student: Any, tmp_path: Path, size: int
) -> None:
    teacher = train(student, tmp_path, shuffled(), size=size)
    looked = [texts._looked["training"] for texts in teacher._texts.values()]
    assert [len(each.batch) for each in looked] == [64, 64]


def evaluate(loss: SoftInfoNCELoss, student: Any, rows: range, start: int) -> None:
    """Go through rows of the pairs, numbered from `start` on, as a trainer evaluates."""
    for begin in range(0, len(rows), 8):
        chosen = rows[begin : begin + 8]
        columns = [student.preprocess([texts[i] for i in chosen]) for texts in (QUERIES, CODES)]
        loss(columns, torch.arange(start + begin, start + begin + len(chosen)))


@pytest.mark.parametrize("way", ["no gradient", "eval mode"])
def test_evaluation_numbered_anew_is_refused_after_64_rows_of_training(
    student: Any, tmp_path: Path, way: str
) -> None:
    teacher = train(student, tmp_path, list(range(64)))
    loss = SoftInfoNCELoss(student, teacher, **RULE)  # looks at 64 rows more
    columns = [student.preprocess(texts[:64]) for texts in (QUERIES, CODES)]
    loss(columns, torch.arange(64))
    if way == "eval mode":
        loss.eval()
    with torch.set_grad_enabled(way == "eval mode"):
        evaluate(loss, student, range(64, 80), start=64)  # 16 rows of the table's end: as it was
        with pytest.raises(StaleTableError, match=r"texts of evaluation, .*start=len\(training\)"):
            evaluate(loss, student, range(64, 80), start=0)
    loss.train()
    loss(columns, torch.arange(64))  # training goes on


def test_the_texts_are_let_go_when_training_and_evaluation_are_known(
    student: Any, tmp_path: Path
) -> None:
    teacher = train(student, tmp_path, shuffled())
    loss = SoftInfoNCELoss(student, teacher, **RULE)
    loss([student.preprocess(texts[:64]) for texts in (QUERIES, CODES)], torch.arange(64))
    assert all(texts._texts is not None for texts in teacher._texts.values())
    with torch.no_grad():
        evaluate(loss, student, range(16, 80), start=16)
        assert all(texts._texts is None for texts in teacher._texts.values())
        evaluate(loss, student, range(16, 80), start=16)


def test_the_texts_of_each_training_are_looked_at(student: Any, tmp_path: Path) -> None:
    teacher = train(student, tmp_path, shuffled())
    loss = SoftInfoNCELoss(student, teacher, **RULE)  # another training, its rows numbered anew
    columns = [student.preprocess(texts[::-1][:32]) for texts in (QUERIES, CODES)]
    with pytest.raises(StaleTableError, match="less like their own row of it than others"):
        loss(columns, torch.arange(32))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda texts: texts[::-1], id="reversed"),
        pytest.param(lambda texts: texts[1:] + texts[:1], id="a row too far"),
        pytest.param(lambda texts: [f"Draw the {i} sockets" for i in range(80)], id="other texts"),
        # Made of all, but trained on those that are left: every row behind the first is astray.
        pytest.param(lambda texts: texts[:20] + texts[21:] + texts[20:21], id="filtered"),
    ],
)
@pytest.mark.parametrize("side", ["query", "code"])
def test_a_table_of_other_texts_is_refused(
    student: Any, tmp_path: Path, other: Any, side: str
) -> None:
    texts = {"queries": QUERIES, "codes": CODES}
    name = {"query": "queries", "code": "codes"}[side]
    texts[name] = other(texts[name])
    with pytest.raises(
        StaleTableError, match=f"table of {side} texts must be of the texts of training"
    ):
        train(student, tmp_path, shuffled(), **texts)


def test_a_table_of_queries_is_held_to_the_queries(student: Any, tmp_path: Path) -> None:
    simcse = SimCSEEstimator(static_model(QUERIES + CODES, seed=5))
    simcse.cache(QUERIES[::-1], folder=tmp_path)
    loss = SoftInfoNCELoss(student, simcse)
    columns = [student.preprocess(texts[:16]) for texts in (QUERIES, CODES)]
    with pytest.raises(StaleTableError, match="less like their own row of it than others"):
        loss(columns, torch.arange(16))


def test_labels_that_are_classes_are_refused(student: Any, tmp_path: Path) -> None:
    with pytest.raises(StaleTableError, match="number the rows of the data set"):
        teacher = TeacherEstimator(static_model(QUERIES + CODES, seed=5))
        teacher.cache(QUERIES, CODES, folder=tmp_path)
        loss = SoftInfoNCELoss(student, teacher, **RULE)
        columns = [student.preprocess(texts[:32]) for texts in (QUERIES, CODES)]
        loss(columns, torch.ones(32, dtype=torch.int64))


def test_a_prompt_whose_words_some_texts_have_is_no_other_text(student: Any) -> None:
    """Counted as theirs its words would make each text more like those than like its own."""
    prompt = "and return the state of the "
    texts = [f"{verb} {thing}" for verb in VERBS for thing in THINGS]
    texts[::3] = [prompt + text for text in texts[::3]]
    own = OwnTexts(texts, "query")
    for begin in range(0, 64, 16):
        features = student.preprocess(texts[begin : begin + 16], prompt=prompt)
        own.check({**features, ROW: torch.arange(begin, begin + 16)}, student)


def test_prompts_lengths_and_other_forms_are_no_other_texts(student: Any, tmp_path: Path) -> None:
    train(student, tmp_path, shuffled(), prompt="find the code that does the following: ")
    short = copy.deepcopy(student)
    if not isinstance(short[0].tokenizer, type(static_model(QUERIES)[0].tokenizer)):
        short.max_seq_length = 7
    train(short, tmp_path, shuffled())
    # The teacher reads a name before the code, and no first line.
    forms = [f"name name {code.splitlines()[0]}\n" + code for code in CODES]
    train(student, tmp_path, shuffled(), codes=forms)


def test_few_rows_are_not_judged(student: Any, tmp_path: Path) -> None:
    train(student, tmp_path, list(range(12)), codes=CODES[::-1], size=3)
    with pytest.raises(StaleTableError):
        train(student, tmp_path, list(range(18)), codes=CODES[::-1], size=3)


def test_negatives_are_held_to_the_rows_they_name(student: Any, tmp_path: Path) -> None:
    teacher = TeacherEstimator(static_model(QUERIES + CODES, seed=5))
    teacher.cache(QUERIES, CODES, folder=tmp_path)
    loss = SoftInfoNCELoss(student, teacher, **RULE)
    columns = [student.preprocess(texts) for texts in (QUERIES[:16], CODES[:16], CODES[40:56])]
    pairs = torch.arange(16)
    loss(columns, torch.stack([pairs, pairs + 40], 1))
    with pytest.raises(StaleTableError, match="table of code texts"):
        loss(columns, torch.stack([pairs, pairs + 41], 1))


def test_astray_are_those_nearer_to_another() -> None:
    wanted = [{1, 2, 3}, {3, 4}, {5}, set()]
    assert count_astray([{1, 2}, {4, 9}, {5, 8}, {9}], wanted) == 0  # the last is like none
    assert count_astray([{3, 4}, {4}, {5}, {9}], wanted) == 2
    assert count_astray([{1}, {1, 2}, {1, 2, 3}], [{1, 2, 3}] * 3) == 2  # all of one row
    assert count_astray([{1, 2, 3}, {1, 2, 3}], [{1, 2, 3}, {1, 2, 3}]) == 0  # copies


def test_a_model_that_does_not_tokenize_is_believed() -> None:
    texts = OwnTexts(CODES, "code")
    texts.check({ROW: torch.arange(16), "input_ids": torch.ones(16, 2)}, object())
    texts.check({ROW: torch.arange(16), "pixel_values": torch.ones(16, 2)}, static_model(CODES))
    assert texts._looked["training"].batch == []
