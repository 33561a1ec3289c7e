"""Both ways, own negatives at weight 1, row numbers as labels: against literal formulas."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from models import static_model, tiny_rows, transformer_model
from torch import Tensor, nn

from softnce_ext import reference
from softnce_ext.estimators.bm25 import InBatchBM25
from softnce_ext.estimators.encoder import SimCSEEstimator, TeacherEstimator
from softnce_ext.estimators.similarity import take_rows, transposed
from softnce_ext.presets import PRESETS
from softnce_ext.sentence_transformers import SoftInfoNCELoss

ROWS = tiny_rows()
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] for row in ROWS]
RULE = {**PRESETS["bm25"]._asdict(), "temperature": 2.0}


@pytest.fixture(scope="module")
def model() -> Any:
    return static_model(QUERIES + CODES)


def batch(model: Any, rows: range, *further: range) -> list[dict[str, Any]]:
    columns = [[QUERIES[i] for i in rows], *([CODES[i] for i in each] for each in (rows, *further))]
    return [model.preprocess(texts) for texts in columns]


def unit(model: Any, column: dict[str, Any]) -> Tensor:
    return nn.functional.normalize(model(dict(column))["sentence_embedding"])


@pytest.mark.parametrize("columns", [2, 3])
def test_symmetric_without_weights_is_theirs_per_direction(model: Any, columns: int) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = copy.deepcopy(model).double()
    column = batch(model, range(12), range(20, 32))[:columns]
    theirs = MultipleNegativesRankingLoss(
        model, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    ours = SoftInfoNCELoss(model, None, symmetric=True, mask_duplicates=False)
    assert ours(column).item() == pytest.approx(theirs(column, None).item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["dense", "pair", "factors"])
def test_symmetric_weighs_codes_against_queries(model: Any, kind: str) -> None:
    column = batch(model, range(10), range(30, 40))
    bm25 = InBatchBM25([0, 1], sides="text-code")
    dense = bm25(column)
    given: Any = dense
    if kind == "pair":
        left, values, right = torch.linalg.svd(dense, full_matrices=False)
        given = (left * values, right.T)
    if kind == "factors":
        given = bm25.factors(column)
    loss = SoftInfoNCELoss(model, lambda columns: given, symmetric=True, **RULE)
    query, code, more = (unit(model, each) for each in column)
    forward = reference.soft_info_nce(query, torch.cat([code, more]), dense, **RULE, scale=20.0)
    back = reference.soft_info_nce(code, query, dense[:, :10].T, **RULE, scale=20.0)
    assert loss(column).item() == pytest.approx((forward + back).item() / 2, rel=1e-5)
    assert forward.item() != pytest.approx(back.item(), rel=1e-3)


def test_symmetric_turns_groups_too(model: Any) -> None:
    query, code = (unit(model, each) for each in batch(model, range(10)))
    groups = (torch.arange(10), torch.tensor([0, 0, 2, 3, 4, 5, 6, 7, 8, 0]))  # 0 to 1, 9 one way
    loss = SoftInfoNCELoss(model, None, symmetric=True)
    found = loss.compute_loss_from_embeddings([query, code], groups=groups)
    scores = 20 * query @ code.T
    for i, j in ((0, 1), (0, 9)):
        scores[i, j] = -torch.inf
    row = torch.arange(10)
    wanted = nn.functional.cross_entropy(scores, row) + nn.functional.cross_entropy(scores.T, row)
    assert found.item() == pytest.approx(wanted.item() / 2, rel=1e-5)


def test_the_documentation_s_own_estimator_weighs(model: Any) -> None:
    page = Path(__file__).parent.parent / "docs" / "sentence_transformers.md"
    (block,) = (part for part in page.read_text().split("```")[1::2] if "def shared_words" in part)
    names: dict[str, Any] = {"model": model, "SoftInfoNCELoss": SoftInfoNCELoss}
    exec(block.removeprefix("python"), names)
    column = batch(model, range(10), range(30, 40))
    found = names["loss"](column)
    plain = SoftInfoNCELoss(model, None)(column)
    assert found.isfinite() and found.item() != pytest.approx(plain.item(), rel=1e-3)
    dense = names["shared_words"](column)
    words = [set(model.tokenizer.encode(QUERIES[i]).ids) for i in range(10)]
    assert dense.tolist() == [[len(a & b) for b in words] for a in words]
    # Further codes change no other weight: with none of them the first K weigh the same.
    query, code, more = (unit(model, each) for each in column)
    rule = {"alpha": 1.5, "beta": 0.5, "temperature": 2.0}
    weights = reference.soft_weights(dense, **rule, min_weight=0.1)
    weights = torch.cat([weights, torch.ones(10, 10)], 1)
    scores = 20 * query @ torch.cat([code, more]).T
    wanted = nn.functional.cross_entropy(scores + weights.log(), torch.arange(10))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("wrapper", [nn.DataParallel, torch.compile])
def test_a_wrapped_models_tokenizer_is_found(model: Any, wrapper: Any) -> None:
    column = batch(model, range(10))
    loss, plain = SoftInfoNCELoss(wrapper(model)), SoftInfoNCELoss(model)
    assert loss.estimator.special_ids.tolist() == plain.estimator.special_ids.tolist()
    assert loss(column).item() == pytest.approx(plain(column).item())


def test_factors_are_cut_and_turned_as_their_matrix_is(model: Any) -> None:
    column = batch(model, range(10), range(30, 40))
    factors = InBatchBM25([0, 1], sides="text-code").factors(column)
    dense = factors.dense()
    torch.testing.assert_close(take_rows(factors, slice(3, 7)).dense(), dense[3:7])
    for columns in (7, 10, 20):
        turned = transposed(factors, columns)
        torch.testing.assert_close(turned.dense(), dense[:, :columns].T)
        assert all(part.is_contiguous() for part in turned)


@pytest.mark.parametrize("kind", ["dense", "pair", "factors"])
@pytest.mark.parametrize("repeated", [False, True])
def test_own_mined_negatives_keep_weight_1(model: Any, kind: str, repeated: bool) -> None:
    mined = range(30, 40)
    texts = [CODES[i] for i in mined]
    if repeated:
        texts[4] = CODES[7]  # another row's code: must not become a negative of that row
    column = [*batch(model, range(10), range(50, 60)), model.preprocess(texts)]
    bm25 = InBatchBM25([0, 1], sides="text-code")
    dense = bm25(column)
    given: Any = dense if kind == "dense" else bm25.factors(column)
    if kind == "pair":
        left, values, right = torch.linalg.svd(dense, full_matrices=False)
        given = (left * values, right.T)
    loss = SoftInfoNCELoss(model, lambda columns: given, exclude_hard_negatives=True, **RULE)
    found = loss(column)
    found.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()

    row = torch.arange(10)
    own = torch.zeros(10, 30, dtype=torch.bool)
    own[row, 10 + row] = own[row, 20 + row] = True
    masked = own.clone()
    if repeated:
        own[4, 24] = masked[4, 24] = False
        masked[7, 24] = True
    # A matrix of its own: groups cannot say that a row's own are out for it alone.
    judged = ~masked
    judged[row, row] = False
    share = (dense / RULE["temperature"]).masked_fill(~judged, -torch.inf).softmax(1)
    count = judged.sum(1, keepdim=True)
    weights = (RULE["beta"] - RULE["alpha"] * share) / (RULE["beta"] - RULE["alpha"] / count)
    weights = weights.clamp(min=0.1).masked_fill(masked & ~own, 0.0)
    weights[own] = 1.0
    weights[row, row] = 1.0
    query, *codes = (unit(model, each) for each in column)
    scores = 20 * query @ torch.cat(codes).T
    wanted = nn.functional.cross_entropy(scores + weights.log(), row)
    wanted.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    theirs = [p.grad for p in model.parameters() if p.grad is not None]
    for ours, gradient in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-6)
    plain = SoftInfoNCELoss(model, lambda columns: given, **RULE)
    assert plain(column).item() != pytest.approx(wanted.item(), rel=1e-4)
    model.zero_grad()


@pytest.fixture(scope="module")
def teacher(model: Any, tmp_path_factory: pytest.TempPathFactory) -> TeacherEstimator:
    other = static_model(QUERIES + CODES, seed=5)
    made = TeacherEstimator(other).cache(QUERIES, CODES, folder=tmp_path_factory.mktemp("tables"))
    estimator = TeacherEstimator(other)  # knows no texts to hold mixed up rows against
    estimator.tables = dict(zip(("query", "code"), made, strict=True))
    return estimator


@pytest.mark.parametrize("negatives", [0, 1, 2])
def test_labels_are_row_numbers_of_the_tables(
    model: Any, teacher: TeacherEstimator, negatives: int
) -> None:
    chosen = [range(5, 11), range(40, 46), range(60, 66)][: 1 + negatives]
    column = batch(model, *chosen)
    ids = torch.tensor([list(each) for each in chosen]).T
    loss = SoftInfoNCELoss(model, teacher, **RULE)
    query = torch.from_numpy(teacher.tables["query"].vectors[ids[:, 0].numpy()])
    code = torch.from_numpy(teacher.tables["code"].vectors[ids.T.flatten().numpy()])
    dense = SoftInfoNCELoss(model, lambda columns: query @ code.T, **RULE)(column).item()
    assert loss(column, ids).item() == pytest.approx(dense, rel=1e-5)
    if negatives == 0:
        assert loss(column, ids[:, 0]).item() == pytest.approx(dense, rel=1e-5)
    other = loss(column, ids.flip(0)).item()
    assert other != pytest.approx(dense, rel=1e-5)


def test_a_table_of_queries_alone_needs_no_ids_of_negatives(model: Any, tmp_path: Path) -> None:
    simcse = SimCSEEstimator(static_model(QUERIES + CODES, seed=5))
    simcse.cache(QUERIES, folder=tmp_path)
    loss = SoftInfoNCELoss(model, simcse)
    column = batch(model, range(6), range(40, 46))
    vectors = torch.from_numpy(simcse.tables["query"].vectors[:6].copy())
    wanted = SoftInfoNCELoss(
        model, lambda columns: vectors @ vectors.T, **PRESETS["simcse"]._asdict()
    )
    assert loss(column, torch.arange(6)).item() == pytest.approx(wanted(column).item(), rel=1e-5)


def test_row_numbers_the_table_lacks_are_named(model: Any, teacher: TeacherEstimator) -> None:
    loss = SoftInfoNCELoss(model, teacher, **RULE)
    pairs = batch(model, range(6))
    beyond = torch.tensor([0, 1, 2, 3, 4, 80])
    with pytest.raises(IndexError, match=r"row must be in \[0, 80\), got 0 to 80: .* other data"):
        loss(pairs, beyond)
    with pytest.raises(IndexError, match="got -1 to 4"):
        loss(pairs, torch.arange(6) - 1)
    # What needs no row numbers takes whatever comes as labels, as other losses do.
    plain = SoftInfoNCELoss(model)
    assert plain(pairs, torch.rand(6)).item() == plain(pairs, None).item()


def test_a_compiled_model_is_trained_as_itself(tmp_path: Path) -> None:
    model = transformer_model(QUERIES + CODES, tmp_path)
    loss, column = SoftInfoNCELoss(model), batch(model, range(6))
    wanted = loss(column)
    wanted.backward()
    gradient = next(model.parameters()).grad.clone()
    model.zero_grad()
    loss.model = torch.compile(model, backend="eager")
    found = loss(column)
    found.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(next(model.parameters()).grad, gradient)
