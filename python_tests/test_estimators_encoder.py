from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import static_model, tiny_rows, transformer_model
from tiny_distilbert import distilbert
from tokenizers import normalizers
from torch import nn

from softnce_ext import reference
from softnce_ext.estimators.alike import other_reading
from softnce_ext.estimators.collate import RowCollator, add_rows
from softnce_ext.estimators.encoder import SimCSEEstimator, TeacherEstimator
from softnce_ext.estimators.frozen import check_raw_dot, no_gradient
from softnce_ext.presets import PRESETS
from softnce_ext.sentence_transformers import SoftInfoNCELoss

ROWS = tiny_rows()
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] for row in ROWS]
CHOSEN = [5, 3, 17, 40, 2, 61]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = transformer_model(QUERIES + CODES, tmp_path_factory.mktemp("student"))
    model.similarity_fn_name = "dot"  # as the paper's; unsaid it would be cosine
    return model


@pytest.fixture(scope="module")
def simcse(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return distilbert(QUERIES, tmp_path_factory.mktemp("simcse"))


def other_weights(model: Any) -> Any:
    """A model of the same kind with other weights."""
    other = copy.deepcopy(model)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return other


def batch(model: Any, rows: list[int], *, texts: bool = False) -> list[dict[str, Any]]:
    """Features of rows as the trainer hands them to the loss."""
    collator = RowCollator(lambda some: collate(model, some), texts=texts)
    made = collator([{"query": QUERIES[i], "code": CODES[i], "row": i} for i in rows])
    return [
        {key[len(name) + 1 :]: value for key, value in made.items() if key.startswith(name)}
        for name in ("query", "code")
    ]


def collate(model: Any, rows: list[dict[str, str]]) -> dict[str, Any]:
    return {
        f"{name}_{key}": value
        for name in rows[0]
        for key, value in model.preprocess([row[name] for row in rows]).items()
    }


def embed(model: Any, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(model.preprocess(texts))["sentence_embedding"]


def test_rows_and_texts_travel_with_their_columns(student: Any) -> None:
    query, code = batch(student, CHOSEN, texts=True)
    assert query["row"].tolist() == code["row"].tolist() == CHOSEN
    assert query["text"] == [QUERIES[i] for i in CHOSEN]
    assert code["text"] == [CODES[i] for i in CHOSEN]
    assert "text" not in batch(student, CHOSEN)[0]
    assert add_rows({}, [3, 1], ["query"])["query_row"].tolist() == [3, 1]
    with pytest.raises(ValueError, match="rows must hold a column \"row\", got .'code'"):
        RowCollator(lambda rows: {})([{"code": "x"}])


def test_rows_and_texts_pass_through_the_trainer(student: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.data_collator import (
        SentenceTransformerDataCollator,
    )

    seen = []

    def estimator(features: list[dict[str, Any]]) -> torch.Tensor:
        rows = features[0]["row"].tolist()
        assert features[1]["row"].tolist() == rows
        assert features[0]["text"] == [QUERIES[row] for row in rows]
        seen.extend(rows)
        return torch.zeros(len(rows), len(rows))

    model = copy.deepcopy(student)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=5,
            num_train_epochs=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_dict({"query": QUERIES, "code": CODES, "row": range(80)}).select(
            range(10)
        ),
        data_collator=RowCollator(SentenceTransformerDataCollator(model.preprocess), texts=True),
        loss=SoftInfoNCELoss(model, estimator, alpha=1.0, beta=1.0, temperature=1.0),
    )
    trainer.train()
    assert sorted(seen) == list(range(10))


def test_simcse_is_the_cosine_of_the_queries(simcse: Any, student: Any) -> None:
    estimator = SimCSEEstimator(simcse)
    features = batch(student, CHOSEN, texts=True)
    left, right = estimator(features)
    vectors = nn.functional.normalize(embed(simcse, [QUERIES[i] for i in CHOSEN]))
    torch.testing.assert_close(left @ right.T, vectors @ vectors.T, rtol=0, atol=1e-6)
    assert not left.requires_grad


@pytest.mark.parametrize("length", [12, 40])
def test_simcse_reference_mode_pads_and_does_not_mask(
    simcse: Any, student: Any, length: int
) -> None:
    estimator = SimCSEEstimator(simcse, mode="reference", length=length)
    vectors, _ = estimator(batch(student, CHOSEN, texts=True))
    for row, vector in zip(CHOSEN, vectors, strict=True):  # literally, a text at a time
        ids = simcse.tokenizer(QUERIES[row])["input_ids"]
        ids = [*ids[:-1][: length - 1], 3]
        padded = torch.tensor([ids + [0] * (length - len(ids))])
        with torch.no_grad():
            hidden = simcse[0].auto_model(input_ids=padded, attention_mask=torch.ones(1, length))[0]
        wanted = nn.functional.normalize(hidden[0, : len(ids)].mean(0), dim=0)
        torch.testing.assert_close(vector, wanted, rtol=0, atol=1e-6)
    masked, _ = SimCSEEstimator(simcse)(batch(student, CHOSEN, texts=True))
    assert (vectors - masked).abs().max() > 1e-4  # what the published code's padding does


@pytest.mark.parametrize("options", [{}, {"length": 6}, {"mode": "reference", "length": 12}])
def test_a_simcse_table_gives_what_the_encoder_gives(
    simcse: Any, student: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    estimator = SimCSEEstimator(copy.deepcopy(simcse), **options)
    live, _ = estimator(batch(student, CHOSEN, texts=True))
    table = estimator.cache(QUERIES, folder=tmp_path)
    assert table.built and len(table) == len(QUERIES)
    assert table.seconds > 0 and table.megabytes > 0
    read, again = estimator(batch(student, CHOSEN))
    torch.testing.assert_close(read, live, rtol=0, atol=1e-6)
    assert again is read
    other = SimCSEEstimator(copy.deepcopy(simcse), mode="reference", length=13)
    assert other.cache(QUERIES, folder=tmp_path).built  # other settings, another table


@pytest.mark.parametrize("kind", ["static", "transformer"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_frozen_table_gives_what_the_teacher_gives(
    student: Any, kind: str, dtype: str, tmp_path: Path
) -> None:
    model = static_model(QUERIES + CODES) if kind == "static" else student
    estimator = TeacherEstimator(other_weights(model))
    estimator.attach(model, temperature=1.0)
    live = estimator(batch(model, CHOSEN))
    by_text = estimator(batch(model, CHOSEN, texts=True))
    tables = estimator.cache(QUERIES, CODES, dtype=dtype, folder=tmp_path)
    assert [len(table) for table in tables] == [80, 80] and all(table.built for table in tables)
    read = estimator(batch(model, CHOSEN))
    teacher = estimator.encoder.model
    query, code = (embed(teacher, [texts[i] for i in CHOSEN]) for texts in (QUERIES, CODES))
    wanted = query @ code.T
    for found in (live, by_text, read):
        error = (found[0] @ found[1].T - wanted).abs().max() / wanted.abs().max()
        assert error <= (1e-3 if dtype == "float16" and found is read else 1e-6)
    again = TeacherEstimator(estimator.encoder.model)
    assert not any(
        table.built for table in again.cache(QUERIES, CODES, dtype=dtype, folder=tmp_path)
    )


def test_the_loss_is_that_of_the_teachers_similarities(student: Any, tmp_path: Path) -> None:
    teacher = other_weights(student)
    features = batch(student, CHOSEN)
    query, code = (embed(teacher, [texts[i] for i in CHOSEN]) for texts in (QUERIES, CODES))
    own_query, own_code = (embed(student, [texts[i] for i in CHOSEN]) for texts in (QUERIES, CODES))
    rule = {**PRESETS["trained"]._asdict(), "temperature": 0.5}
    wanted = reference.soft_info_nce(own_query, own_code, query @ code.T, **rule)
    for cached in (False, True):
        estimator = TeacherEstimator(copy.deepcopy(teacher))
        if cached:
            estimator.cache(QUERIES, CODES, folder=tmp_path)
        loss = SoftInfoNCELoss(student, estimator, temperature=0.5, normalize=False, scale=1.0)
        loss.pop_statistics()
        assert loss.weights == {**rule, "min_weight": 0.1}
        assert loss(features).item() == pytest.approx(wanted.item(), rel=1e-5)
        assert loss.pop_statistics()["low_weights"] > 0


def test_simcse_in_the_loss_leaves_further_codes_their_weight(student: Any, simcse: Any) -> None:
    features = batch(student, CHOSEN, texts=True)
    features.append(student.preprocess([CODES[i] for i in range(70, 76)]))
    loss = SoftInfoNCELoss(student, SimCSEEstimator(simcse), normalize=False, scale=1.0)
    vectors, _ = loss.estimator(features)
    similarity = vectors @ vectors.T
    weights = reference.soft_weights(similarity, **PRESETS["simcse"]._asdict())
    weights = torch.cat([weights, torch.ones(6, 6)], 1)
    query = embed(student, [QUERIES[i] for i in CHOSEN])
    code = embed(student, [CODES[i] for i in [*CHOSEN, *range(70, 76)]])
    scores = query @ code.T + weights.log()
    wanted = torch.nn.functional.cross_entropy(scores, torch.arange(6))
    assert loss(features).item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("second_pass", [False, True])
def test_online_is_the_students_similarity_without_gradient(
    student: Any, second_pass: bool
) -> None:
    model = copy.deepcopy(student)
    features = batch(model, CHOSEN)
    query, code = (model(dict(column))["sentence_embedding"] for column in features)
    rule = {**PRESETS["trained"]._asdict(), "temperature": 0.2}
    wanted = reference.soft_info_nce(query, code, (query @ code.T).detach(), **rule)
    wanted.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()

    estimator = TeacherEstimator(mode="online", second_pass=second_pass)
    loss = SoftInfoNCELoss(model, estimator, temperature=0.2, normalize=False, scale=1.0)
    found = loss(features)
    found.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    own = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(own) == len(gradients)
    for ours, theirs in zip(own, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for left, right in (estimator.from_embeddings(query, code), estimator(features)):
        assert not left.requires_grad and not right.requires_grad
    torch.testing.assert_close(left @ right.T, query @ code.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("second_pass", [False, True])
def test_online_follows_the_model_that_is_trained_now(student: Any, second_pass: bool) -> None:
    def make(model: Any) -> SoftInfoNCELoss:
        estimator = TeacherEstimator(mode="online", second_pass=second_pass)
        return SoftInfoNCELoss(model, estimator, temperature=0.2)

    features, other = batch(student, CHOSEN), other_weights(student)
    loss, before = make(copy.deepcopy(student)), make(student)(features).item()
    assert loss(features).item() == pytest.approx(before)
    loss.model = nn.DataParallel(other)  # as a trainer with model_init does
    assert loss(features).item() == pytest.approx(make(other)(features).item()) != before


@pytest.mark.parametrize("second_pass", [False, True])
def test_online_counts_the_students_forwards(student: Any, second_pass: bool) -> None:
    model = copy.deepcopy(student)
    calls = []
    model[0].register_forward_hook(lambda *args: calls.append(torch.is_grad_enabled()))
    loss = SoftInfoNCELoss(
        model, TeacherEstimator(mode="online", second_pass=second_pass), temperature=0.2
    )
    loss(batch(model, CHOSEN))
    assert calls == ([False, False] if second_pass else []) + [True, True]


@pytest.mark.parametrize("mode", ["frozen", "online"])
@pytest.mark.parametrize("start", [False, True])
def test_the_four_corners(student: Any, mode: str, start: bool) -> None:
    teacher, model = other_weights(student), copy.deepcopy(student)
    before, weights = state(model), state(teacher)
    estimator = TeacherEstimator(
        teacher if mode == "frozen" or start else None, mode=mode, init_student_from_teacher=start
    )
    loss = SoftInfoNCELoss(model, estimator, temperature=0.1, normalize=False, scale=1.0)
    assert same(state(model), weights if start else before)
    assert (estimator.encoder is None) == (mode == "online")  # it would only take memory
    features = batch(model, CHOSEN)
    first = loss(features)
    with torch.no_grad():  # a step of training
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    source = teacher if mode == "frozen" else model
    query, code = (embed(source, [texts[i] for i in CHOSEN]) for texts in (QUERIES, CODES))
    own_query, own_code = (embed(model, [texts[i] for i in CHOSEN]) for texts in (QUERIES, CODES))
    rule = {**PRESETS["trained"]._asdict(), "temperature": 0.1}
    wanted = reference.soft_info_nce(own_query, own_code, query @ code.T, **rule)
    assert loss(features).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert first.item() != pytest.approx(wanted.item(), rel=1e-4)
    assert same(state(teacher), weights)


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, right[name]) for name, value in left.items())


def test_a_teacher_is_not_trained_moved_or_saved(student: Any, simcse: Any) -> None:
    teacher = other_weights(student).train()
    for estimator in (TeacherEstimator(teacher), SimCSEEstimator(copy.deepcopy(simcse).train())):
        loss = SoftInfoNCELoss(student, estimator, temperature=0.1)
        frozen = estimator.encoder.model
        assert not frozen.training
        assert not any(parameter.requires_grad for parameter in frozen.parameters())
        loss.train()
        assert not frozen.training
        loss.to(torch.float64)
        assert next(frozen.parameters()).dtype == torch.float32
        loss.to(torch.float32)
        trained = {id(parameter) for parameter in loss.parameters()}
        assert trained == {id(parameter) for parameter in student.parameters()}
        assert set(loss.state_dict()) == {f"model.{name}" for name in student.state_dict()}


def test_a_teacher_of_another_tokenizer_needs_texts_or_a_table(student: Any, simcse: Any) -> None:
    for estimator in (TeacherEstimator(simcse), SimCSEEstimator(simcse)):
        loss = SoftInfoNCELoss(student, estimator, temperature=0.1)
        with pytest.raises(ValueError, match="the teacher has another tokenizer than the student"):
            loss(batch(student, CHOSEN))
        loss(batch(student, CHOSEN, texts=True))


def test_a_teacher_that_cuts_words_otherwise_has_another_tokenizer(student: Any) -> None:
    """The same vocabulary: with another normaliser a text has other pieces."""
    teacher = other_weights(student)
    assert other_reading(teacher, student) == ""
    tokenizer = getattr(teacher.tokenizer, "backend_tokenizer", teacher.tokenizer)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), tokenizer.normalizer])
    assert other_reading(teacher, student) == "tokenizer"


def test_bad_arguments_get_one_sentence(student: Any, simcse: Any, tmp_path: Path) -> None:
    teacher = other_weights(student)
    with pytest.raises(ValueError, match="mode must be frozen or online, got 'live'"):
        TeacherEstimator(teacher, mode="live")
    with pytest.raises(ValueError, match='teacher must be given with mode="frozen"'):
        TeacherEstimator()
    with pytest.raises(ValueError, match="teacher must be given with init_student_from_teacher"):
        TeacherEstimator(mode="online", init_student_from_teacher=True)
    with pytest.raises(ValueError, match='teacher must be None with mode="online"'):
        TeacherEstimator(teacher, mode="online")
    with pytest.raises(ValueError, match='second_pass is for mode="online" alone'):
        TeacherEstimator(teacher, second_pass=True)
    with pytest.raises(ValueError, match='mode="online" must be attached'):
        TeacherEstimator(mode="online")(batch(student, CHOSEN))
    with pytest.raises(ValueError, match="a table needs a frozen teacher, got mode 'online'"):
        TeacherEstimator(mode="online").cache(QUERIES, CODES)
    with pytest.raises(ValueError, match="mode must be masked or reference, got 'raw'"):
        SimCSEEstimator(simcse, mode="raw")
    with pytest.raises(ValueError, match="length must be given"):
        SimCSEEstimator(simcse, mode="reference")
    with pytest.raises(ValueError, match="needs a table or texts, got token ids alone"):
        SimCSEEstimator(simcse, mode="reference", length=9)(batch(student, CHOSEN))
    with pytest.raises(ValueError, match="model must be an encoder, its folder or its name, got N"):
        SimCSEEstimator(None)
    with pytest.raises(ValueError, match="got a model that begins with StaticEmbedding"):
        SimCSEEstimator(static_model(QUERIES), mode="reference", length=9)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SimCSEEstimator("nowhere")
    with pytest.raises(ValueError, match="must be a model of its own, got the student"):
        copied = copy.deepcopy(student)
        SoftInfoNCELoss(copied, TeacherEstimator(copied))
    with pytest.raises(ValueError, match=r"of the student's architecture, \d+ weights differ"):
        estimator = TeacherEstimator(simcse, init_student_from_teacher=True)
        SoftInfoNCELoss(student, estimator, temperature=0.1)
    cached = SimCSEEstimator(simcse)
    cached.cache(QUERIES, folder=tmp_path)
    with pytest.raises(ValueError, match="column 1 of the batch must have row numbers"):
        cached([student.preprocess(QUERIES[:3])])


def test_raw_dot_presets_are_refused_where_vectors_have_length_1(student: Any) -> None:
    static = static_model(QUERIES)
    with pytest.raises(ValueError, match="scoring must be cosine .* for an encoder whose vectors"):
        check_raw_dot(static)
    check_raw_dot(student)
    for estimator in (TeacherEstimator(static), TeacherEstimator(mode="online")):
        model = student if estimator.mode == "frozen" else static_model(QUERIES)
        with pytest.raises(ValueError, match="temperature must be given with a teacher whose"):
            SoftInfoNCELoss(model, estimator)
        SoftInfoNCELoss(model, estimator, temperature=0.1)
    assert SoftInfoNCELoss(student, TeacherEstimator(mode="online")).weights["temperature"] == 5.0


@pytest.mark.parametrize("said", ["cosine", "dot"])
def test_a_teacher_is_compared_as_it_says_itself(student: Any, said: str, tmp_path: Path) -> None:
    """Though no module of it normalises: by text, by features and by table."""
    teacher = other_weights(student)
    teacher.similarity_fn_name = said
    query, code = (embed(teacher, [texts[i] for i in CHOSEN]) for texts in (QUERIES, CODES))
    if said == "cosine":
        query, code = nn.functional.normalize(query), nn.functional.normalize(code)
    estimator = TeacherEstimator(teacher)
    found = [estimator(batch(student, CHOSEN, texts=texts)) for texts in (False, True)]
    estimator.cache(QUERIES, CODES, folder=tmp_path)
    for left, right in (*found, estimator(batch(student, CHOSEN))):
        torch.testing.assert_close(left @ right.T, query @ code.T, rtol=1e-5, atol=1e-5)
    other = TeacherEstimator(teacher, normalize=said != "cosine")
    assert all(table.built for table in other.cache(QUERIES, CODES, folder=tmp_path))
    if said == "cosine":
        with pytest.raises(ValueError, match="temperature must be given with a teacher whose"):
            SoftInfoNCELoss(student, estimator)
    else:
        SoftInfoNCELoss(student, estimator)


def test_a_teachers_prompts_are_in_its_vectors_and_its_hash(student: Any, tmp_path: Path) -> None:
    teacher = other_weights(student)
    plain, old = TeacherEstimator(teacher).cache(QUERIES, CODES, folder=tmp_path)
    teacher.prompts = {"query": "read file ", "document": ""}
    estimator = TeacherEstimator(teacher)
    query, code = estimator.cache(QUERIES, CODES, folder=tmp_path)
    assert query.built and code.built and plain.folder != query.folder
    assert np.array_equal(old.vectors, code.vectors)
    wanted = embed(teacher, ["read file " + text for text in QUERIES])
    torch.testing.assert_close(torch.from_numpy(query.vectors), wanted, rtol=0, atol=1e-5)
    assert not np.allclose(plain.vectors, query.vectors, atol=1e-3)
    unit = SimCSEEstimator(teacher).encode(QUERIES[:3])
    torch.testing.assert_close(unit, nn.functional.normalize(wanted[:3]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["document", "passage"])
def test_a_live_teacher_reads_a_prompt_that_is_its_own_alone(student: Any, name: str) -> None:
    teacher = other_weights(student)
    estimator = TeacherEstimator(teacher)
    texts = {"query": QUERIES[:8], "code": CODES[:8]}
    prompts = {"query": "read file ", "code": "write "}
    asked = [student.preprocess(texts[side], prompt=prompts[side]) for side in texts]
    plain = [student.preprocess(texts[side]) for side in texts]
    estimator(plain)
    with pytest.raises(
        ValueError, match=r"prompt for a query must be .* got one of 0 tokens .* of 3 in"
    ):
        estimator(asked)
    student = copy.deepcopy(student)
    for model in (teacher, student):
        model.prompts = {"query": prompts["query"], name: prompts["code"]}
    estimator = TeacherEstimator(teacher)
    estimator.attach(student, temperature=1.0)
    with pytest.raises(
        ValueError, match=r"must be .* got one of 3 tokens of its own and one of 0 in"
    ):
        estimator(plain)
    other = [student.preprocess(texts[side], prompt="write the ") for side in texts]
    with pytest.raises(ValueError, match=r"must be .* got one of 3 tokens of its own and one of 3"):
        estimator(other)
    wanted = teacher.encode_query(texts["query"]), teacher.encode_document(texts["code"])
    for vectors, each in zip(estimator(asked), wanted, strict=True):
        torch.testing.assert_close(vectors, torch.from_numpy(each), rtol=0, atol=2e-6)


def test_models_are_loaded_by_folder(student: Any, simcse: Any, tmp_path: Path) -> None:
    simcse.save(str(tmp_path / "simcse"))
    loaded, _ = SimCSEEstimator(tmp_path / "simcse")(batch(student, CHOSEN, texts=True))
    given, _ = SimCSEEstimator(simcse)(batch(student, CHOSEN, texts=True))
    torch.testing.assert_close(loaded, given, rtol=0, atol=1e-6)


def test_a_pass_without_gradient_takes_none_from_the_next() -> None:
    """Under autocast, whose cast weights are kept from one pass to the next."""
    layer = torch.nn.Linear(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        with no_gradient():
            assert not layer(torch.ones(1, 4)).requires_grad
        assert torch.is_autocast_cache_enabled()
        layer(torch.ones(1, 4)).sum().backward()
    assert layer.weight.grad is not None
