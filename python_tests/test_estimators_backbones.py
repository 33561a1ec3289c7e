"""The estimators beside the paper's backbones: whose ids are words, what a teacher reads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_rows
from tiny_backbones import save_tiny_backbone
from tiny_distilbert import distilbert

from softnce_ext.bm25 import BM25
from softnce_ext.encoders import code_memory
from softnce_ext.encoders.backbones import build_backbone
from softnce_ext.estimators.bm25 import (
    InBatchBM25,
    average_length,
    model_special_ids,
    published_special_ids,
)
from softnce_ext.estimators.encoder import SimCSEEstimator, TeacherEstimator
from softnce_ext.sentence_transformers import SoftInfoNCELoss

ROWS = tiny_rows()[:24]
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] for row in ROWS]
KINDS = ["codebert", "graphcodebert", "unixcoder"]


def backbone(kind: str, folder: Path, **options: Any) -> Any:
    if kind == "graphcodebert":
        options["language"] = "python"
    return build_backbone(kind, folder, device="cpu", **options)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("backbones")
    texts = QUERIES + CODES
    return [save_tiny_backbone(root / str(seed), texts, seed=seed) for seed in (0, 1)]


def features(model: Any, rows: list[int]) -> list[dict[str, Any]]:
    columns = []
    for texts, task in ((QUERIES, "query"), (CODES, "document")):
        column = model.preprocess([texts[row] for row in rows], task=task)
        columns.append({**column, "row": torch.tensor(rows)})
    return columns


@pytest.mark.parametrize("kind", KINDS)
def test_by_default_no_backbone_counts_its_own_tokens_as_words(
    folders: list[Path], kind: str
) -> None:
    model = backbone(kind, folders[0])
    batch = features(model, list(range(12)))
    words = [
        model.tokenizer(QUERIES[row], add_special_tokens=False)["input_ids"] for row in range(12)
    ]
    wanted = torch.from_numpy(BM25().scores(words))
    assert torch.equal(SoftInfoNCELoss(model).estimator(batch), wanted)


def test_the_published_rule_counts_the_mode_token_of_every_text(folders: list[Path]) -> None:
    model = backbone("unixcoder", folders[0])
    mode = model.tokenizer.get_vocab()["<encoder-only>"]
    published = published_special_ids(model.tokenizer)
    assert mode in model_special_ids(model) and mode not in published
    avgdl = average_length(model, QUERIES)
    words = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in QUERIES]
    assert avgdl == pytest.approx(sum(map(len, words)) / len(words) + 4)
    found = InBatchBM25(published, avgdl=avgdl)(features(model, list(range(12))))
    with_mode = [[mode, *text] for text in words[:12]]
    assert torch.equal(found, torch.from_numpy(BM25(avgdl=avgdl).scores(with_mode)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_of_the_same_kind_reads_the_students_batch(
    folders: list[Path], kind: str, tmp_path: Path
) -> None:
    student, teacher = (backbone(kind, folder) for folder in folders)
    loss = SoftInfoNCELoss(
        student, TeacherEstimator(teacher), normalize=False, scale=1.0, mask_duplicates=False
    )
    assert loss.weights["temperature"] == 5.0
    batch = features(student, [3, 20, 7, 11, 0, 15])
    live, value = loss.estimator(batch), loss(batch)
    loss.estimator.cache(QUERIES, CODES, folder=tmp_path)
    read, again = loss.estimator(batch), loss(batch)
    for one, other in zip(live, read, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)
    assert again.item() == pytest.approx(value.item(), rel=1e-5)
    value.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize(
    ("teacher", "student", "options", "other"),
    [
        ("codebert", "graphcodebert", {}, "kind"),  # would take nodes for unknown words
        ("graphcodebert", "codebert", {}, "kind"),
        ("unixcoder", "codebert", {}, "kind"),  # would miss its mode token
        ("codebert", "codebert", {"query_length": 8}, "query_length"),
        ("unixcoder", "unixcoder", {"code_length": 40}, "max_seq_length"),
        ("graphcodebert", "graphcodebert", {"data_flow_length": 9}, "data_flow_length"),
        ("codebert", "codebert", {"remove_padding": False}, ""),
    ],
)
def test_a_teacher_that_reads_otherwise_reads_texts_alone(
    folders: list[Path], teacher: str, student: str, options: dict[str, Any], other: str
) -> None:
    trained = backbone(student, folders[0], **options)
    estimator = TeacherEstimator(backbone(teacher, folders[1]))
    estimator.attach(trained, temperature=1.0)
    batch = features(trained, [3, 20, 7])
    if other:
        with pytest.raises(ValueError, match=f"the teacher has another {other} than the student"):
            estimator(batch)
    else:
        assert estimator(batch)[0].isfinite().all()
    for column, texts in zip(batch, (QUERIES, CODES), strict=True):
        column["text"] = [texts[row] for row in (3, 20, 7)]
    own = backbone(teacher, folders[1])
    wanted = own.encode_query(batch[0]["text"]), own.encode_document(batch[1]["text"])
    for vectors, each in zip(estimator(batch), wanted, strict=True):
        torch.testing.assert_close(vectors, torch.from_numpy(each), rtol=0, atol=2e-6)


def test_a_teacher_with_a_prompt_reads_no_batch_without(folders: list[Path]) -> None:
    student, teacher = (backbone("codebert", folder) for folder in folders)
    teacher.prompts = {"query": "search: "}
    estimator = TeacherEstimator(teacher)
    estimator.attach(student, temperature=1.0)
    with pytest.raises(ValueError, match="the teacher has another prompt than the student"):
        estimator(features(student, [1, 2]))


@pytest.mark.parametrize("change", ["version", "_FORMAT"])
def test_a_table_is_of_the_grammar_that_read_the_codes(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    estimator = TeacherEstimator(backbone("graphcodebert", folders[0]))
    other = TeacherEstimator(backbone("codebert", folders[0]))
    for each in (estimator, other):
        each.cache(QUERIES[:4], CODES[:4], folder=tmp_path)
    changed = {"version": lambda name: "99", "_FORMAT": -1}[change]
    monkeypatch.setattr(code_memory, change, changed)
    assert estimator.cache(QUERIES[:4], CODES[:4], folder=tmp_path)[1].built
    assert not estimator.cache(QUERIES[:4], CODES[:4], folder=tmp_path)[1].built
    assert not other.cache(QUERIES[:4], CODES[:4], folder=tmp_path)[1].built


def test_a_backbone_may_start_from_its_teacher_and_follow_itself(folders: list[Path]) -> None:
    student, teacher = (backbone("unixcoder", folder) for folder in folders)
    estimator = TeacherEstimator(teacher, mode="online", init_student_from_teacher=True)
    loss = SoftInfoNCELoss(student, estimator, normalize=False, scale=1.0)
    for name, value in teacher.state_dict().items():
        assert torch.equal(student.state_dict()[name], value)
    assert torch.isfinite(loss(features(student, list(range(8)))))
    cosine = backbone("unixcoder", folders[0], cosine=True)
    with pytest.raises(ValueError, match="temperature must be given with a teacher whose vectors"):
        SoftInfoNCELoss(cosine, TeacherEstimator(mode="online"))


def test_a_backbone_does_not_start_from_weights_of_other_pieces(tmp_path: Path) -> None:
    texts = QUERIES + CODES
    for name, each in (("own", texts), ("other", [text[::-1] for text in texts])):
        save_tiny_backbone(tmp_path / name, each, vocab_size=600)  # more than there are pieces
    student, teacher = (backbone("codebert", tmp_path / name) for name in ("own", "other"))
    before = copy.deepcopy(student.state_dict())
    for mode in ("frozen", "online"):
        estimator = TeacherEstimator(teacher, mode=mode, init_student_from_teacher=True)
        with pytest.raises(ValueError, match=r"of the student's tokenizer, \d+ of the teacher's"):
            SoftInfoNCELoss(student, estimator)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_simcse_reads_a_table_beside_any_backbone(folders: list[Path], tmp_path: Path) -> None:
    student = backbone("codebert", folders[0])
    estimator = SimCSEEstimator(distilbert(QUERIES, tmp_path / "model"))
    loss = SoftInfoNCELoss(student, estimator, normalize=False, scale=1.0)
    table = estimator.cache(QUERIES, folder=tmp_path / "tables")
    rows = [5, 2, 19, 8]
    left, right = estimator(features(student, rows))
    assert torch.equal(left, torch.from_numpy(table.vectors[rows])) and right is left
    assert torch.isfinite(loss(features(student, rows)))
