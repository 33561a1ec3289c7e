"""Gradient caching: the plain loss and its gradients, mini-batch by mini-batch."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from memory import peak_bytes
from models import LIBRARY, static_model, tiny_rows, transformer_model
from ranks import MeanOfWords
from ranks import batch as columns_of_words
from torch import Tensor, nn

from softnce_ext.estimators.collate import TEXT
from softnce_ext.estimators.encoder import SimCSEEstimator, TeacherEstimator
from softnce_ext.estimators.frozen import FrozenEncoder
from softnce_ext.sentence_transformers import CachedSoftInfoNCELoss, SoftInfoNCELoss
from softnce_ext.sentence_transformers.batch import row_count
from softnce_ext.sentence_transformers.mini_batches import (
    FittingSize,
    Scene,
    longest,
    mini_batches,
    take,
)

ROWS = tiny_rows()
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] for row in ROWS]
COLUMNS = [QUERIES[:11], [*CODES[:9], *CODES[:2]], CODES[20:31], CODES[40:51]]


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return transformer_model(QUERIES + CODES, tmp_path_factory.mktemp("bert")).double()


@pytest.fixture(scope="module")
def dropping(transformer: Any) -> Any:
    """The same model with dropout."""
    model = copy.deepcopy(transformer)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    return model.train()


def features(model: Any, columns: int) -> list[dict[str, Any]]:
    random.seed(0)
    return [
        model.preprocess([text + " and so on" * random.randrange(4) for text in texts])
        for texts in COLUMNS[:columns]
    ]


def step(loss: nn.Module, batch: list[dict[str, Any]], factor: float = 1.0) -> list[Tensor]:
    loss.model.zero_grad()
    value = loss([dict(column) for column in batch], None)
    (factor * value).backward()
    gradients = [p.grad.clone() for p in loss.model.parameters() if p.grad is not None]
    return [value.detach(), *gradients]


def assert_equal(found: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(found) == len(wanted) > 1
    for ours, theirs in zip(found, wanted, strict=True):
        error = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6)
        assert error.item() <= tolerance


@pytest.mark.parametrize("size", [1, 4, 11, 32, "auto"])
@pytest.mark.parametrize(
    ("columns", "options"),
    [
        (2, {}),
        (4, {}),
        (3, {"symmetric": True, "exclude_hard_negatives": True}),
        (2, {"estimator": None, "mask_duplicates": False}),
    ],
)
def test_cached_is_plain(
    transformer: Any, size: int | str, columns: int, options: dict[str, Any]
) -> None:
    batch = features(transformer, columns)
    wanted = step(SoftInfoNCELoss(transformer, **options), batch)
    loss = CachedSoftInfoNCELoss(transformer, mini_batch_size=size, **options)
    assert_equal(step(loss, batch), wanted)
    twice = step(loss, batch, factor=2.0)
    assert_equal(twice, [wanted[0], *(2 * gradient for gradient in wanted[1:])])


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_holds_no_second_copy_of_the_vectors(normalize: bool) -> None:
    """Both sides' vectors, ready to be scored, their gradients, and the native op's block."""
    rows, width = 512, 512
    leaves = [[torch.randn(32, width).requires_grad_() for _ in range(rows // 32)] for _ in "qc"]
    loss = CachedSoftInfoNCELoss(nn.Identity(), None, normalize=normalize, impl="native")

    def step() -> None:
        loss.calculate_loss(leaves, with_backward=True)

    step()
    for leaf in (*leaves[0], *leaves[1]):
        leaf.grad = None
    assert peak_bytes(step) <= 1.05 * 4 * (4 * rows * width + rows * rows)


@pytest.mark.parametrize("size", [3, 16])
def test_a_static_encoder_is_cached_too(size: int) -> None:
    model = static_model(QUERIES + CODES)
    batch = features(model, 3)
    wanted = step(SoftInfoNCELoss(model), batch)
    assert_equal(step(CachedSoftInfoNCELoss(model, mini_batch_size=size), batch), wanted)


def test_dropout_is_the_same_the_second_time(dropping: Any) -> None:
    batch = features(dropping, 2)
    plain = SoftInfoNCELoss(dropping)
    torch.manual_seed(7)
    dropping.zero_grad()
    embeddings = [
        torch.cat([dropping(part)["sentence_embedding"] for part in mini_batches(column, 4)])
        for column in batch
    ]
    beside = plain.beside(batch, None)
    value = plain.compute_loss_from_embeddings(embeddings, **beside)
    value.backward()
    gradients = [p.grad.clone() for p in dropping.parameters() if p.grad is not None]

    torch.manual_seed(7)
    assert_equal(
        step(CachedSoftInfoNCELoss(dropping, mini_batch_size=4), batch),
        [value.detach(), *gradients],
    )
    torch.manual_seed(8)
    other = step(CachedSoftInfoNCELoss(dropping, mini_batch_size=4), batch)
    assert other[0].item() != pytest.approx(value.item(), rel=1e-4)


def test_the_second_pass_draws_no_numbers_of_its_own(dropping: Any) -> None:
    value = CachedSoftInfoNCELoss(dropping, mini_batch_size=4)(features(dropping, 2), None)
    torch.rand(5)
    before = torch.get_rng_state()
    value.backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_of_one_mini_batch_is_that_of_the_plain_loss(dropping: Any) -> None:
    batch = features(dropping, 2)
    torch.manual_seed(7)
    wanted = step(SoftInfoNCELoss(dropping), batch)
    torch.manual_seed(7)
    assert_equal(step(CachedSoftInfoNCELoss(dropping), batch), wanted)


class _InFull(nn.Module):
    """A layer that switches autocast off for itself, as some models' last ones do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        with torch.autocast("cpu", enabled=False):
            features["sentence_embedding"] = self.layer(features["sentence_embedding"].float())
        return features


def test_backward_casts_as_the_forward_pass_did(transformer: Any) -> None:
    model = copy.deepcopy(transformer).float()
    model.append(_InFull(model.get_embedding_dimension()))
    batch = features(model, 2)
    found = []
    for loss in (SoftInfoNCELoss(model), CachedSoftInfoNCELoss(model, mini_batch_size=11)):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss([dict(column) for column in batch], None)
        value.backward()
        found.append(model[-1].layer.weight.grad.clone())
    assert torch.linalg.norm(found[1] - found[0]) < 1e-5 * torch.linalg.norm(found[0])


def test_autocast_is_the_same_the_second_time(transformer: Any) -> None:
    model = copy.deepcopy(transformer).float()
    batch = features(model, 2)
    found = []
    for inside in (True, False):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value = CachedSoftInfoNCELoss(model, mini_batch_size=4)(batch, None)
            if inside:
                value.backward()
        if not inside:
            value.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append([value.detach(), *gradients])
    assert_equal(found[0], found[1], 0.0)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        plain = SoftInfoNCELoss(model)(batch, None)
    plain.backward()
    wanted = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    ours = torch.cat([gradient.flatten() for gradient in found[0][1:]])
    assert torch.nn.functional.cosine_similarity(ours, wanted, dim=0).item() > 0.999
    assert found[0][0].item() == pytest.approx(plain.item(), rel=1e-2)


class PromptTaker(nn.Module):
    """Takes what pooling is to leave out of the mask itself, as sentence-transformers 5.4 did."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        features["attention_mask"][:, :3] = 0
        return features


def prompt_taking(model: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    copied = copy.deepcopy(model)
    return SentenceTransformer(modules=[copied[0], PromptTaker(), copied[1]], device="cpu")


def test_the_second_pass_sees_the_mask_of_the_first(transformer: Any) -> None:
    model = prompt_taking(transformer)
    wanted = step(SoftInfoNCELoss(model), features(model, 2))
    assert_equal(step(CachedSoftInfoNCELoss(model, mini_batch_size=4), features(model, 2)), wanted)


def test_a_teacher_leaves_the_students_mask_alone(transformer: Any) -> None:
    batch = features(transformer, 1)
    FrozenEncoder(prompt_taking(transformer)).of_features(batch[0], "query")
    assert batch[0]["attention_mask"][:, :3].all()


def test_gradients_that_half_precision_cannot_hold_reach_a_half_model() -> None:
    """As those of many rows, p / N each, which a scaled loss lifts before the model sees them."""
    found = []
    for dtype in (torch.float64, torch.float16):
        model = MeanOfWords(torch.float64)
        with torch.no_grad():
            model.words.mul_(2e3).copy_(model.words.half())
        loss = CachedSoftInfoNCELoss(model.to(dtype), None, mini_batch_size=4, scale=0.002)
        value = loss(columns_of_words(16, 2))
        (2.0**16 * value).backward()
        found.append(model.words.grad.double())
    assert found[0].abs().max() < 2.0**16 * torch.finfo(torch.float16).smallest_normal / 100
    assert torch.cosine_similarity(*(grad.flatten() for grad in found), dim=0).item() > 0.999


def test_two_losses_before_one_backward(transformer: Any) -> None:
    first, second = features(transformer, 2), features(transformer, 3)
    plain = SoftInfoNCELoss(transformer)
    wanted = [step(plain, batch) for batch in (first, second)]
    transformer.zero_grad()
    loss = CachedSoftInfoNCELoss(transformer, mini_batch_size=4)
    values = [loss([dict(column) for column in batch], None) for batch in (first, second)]
    (values[0] + 3 * values[1]).backward()
    gradients = [p.grad.clone() for p in transformer.parameters() if p.grad is not None]
    sums = [a + 3 * b for a, b in zip(wanted[0][1:], wanted[1][1:], strict=True)]
    assert_equal([values[0].detach(), *gradients], [wanted[0][0], *sums])


def test_evaluation_embeds_once_without_gradient(transformer: Any) -> None:
    batch = features(transformer, 2)
    loss = CachedSoftInfoNCELoss(transformer, mini_batch_size=4)
    with torch.no_grad():
        value = loss(batch, None)
        assert not value.requires_grad
        assert value.item() == pytest.approx(SoftInfoNCELoss(transformer)(batch).item(), rel=1e-6)


def test_a_frozen_model_trains_nothing(transformer: Any) -> None:
    model = copy.deepcopy(transformer).requires_grad_(False)
    batch = features(model, 2)
    values = [kind(model)(batch, None) for kind in (SoftInfoNCELoss, CachedSoftInfoNCELoss)]
    assert [value.requires_grad for value in values] == [False, False]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-6)


RULE = {"alpha": 1.3, "beta": 0.7, "temperature": 0.1}


def with_texts(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**each, TEXT: texts} for each, texts in zip(batch, COLUMNS, strict=False)]


@pytest.mark.parametrize("kind", ["teacher", "simcse", "second pass", "texts", "static"])
@pytest.mark.parametrize("size", [4, 32, "auto"])
def test_a_live_teacher_sees_a_mini_batch_at_a_time(
    transformer: Any, kind: str, size: int | str
) -> None:
    model = static_model(QUERIES + CODES) if kind == "static" else copy.deepcopy(transformer)
    frozen = copy.deepcopy(model)
    estimator: Any = TeacherEstimator(frozen, normalize=True)
    if kind == "simcse":
        estimator = SimCSEEstimator(frozen)
    elif kind == "second pass":
        estimator = TeacherEstimator(mode="online", second_pass=True)
    elif kind == "texts":  # of a teacher that reads them otherwise
        estimator = TeacherEstimator(static_model(QUERIES + CODES, seed=3))
    batch = features(model, 4)
    if kind == "texts":
        batch = with_texts(batch)
    wanted = step(SoftInfoNCELoss(model, estimator, **RULE), batch)
    seen: list[int] = []
    call = type(estimator).__call__

    class Watched(type(estimator)):  # type: ignore[misc]
        def __call__(self, columns: Any) -> Any:
            seen.append(row_count(columns[0]))
            assert [len(column.get(TEXT, "0" * seen[-1])) for column in columns] == [seen[-1]] * 4
            return call(self, columns)

    estimator.__class__ = Watched
    found = step(CachedSoftInfoNCELoss(model, estimator, mini_batch_size=size, **RULE), batch)
    assert_equal(found, wanted)
    assert seen == ([4, 4, 3] if size == 4 else [11])


def test_a_table_is_read_at_once_and_functions_are_asked_once(transformer: Any) -> None:
    asked: list[int] = []

    def own(columns: Any) -> Tensor:
        asked.append(row_count(columns[0]))
        return torch.zeros(11, 11)

    CachedSoftInfoNCELoss(transformer, own, mini_batch_size=4, **RULE)(features(transformer, 2))
    assert asked == [11]


@pytest.mark.parametrize("kind", ["features", "texts", "simcse", "reference"])
def test_a_frozen_teacher_computes_as_its_table_does_under_autocast(
    transformer: Any, kind: str
) -> None:
    model = copy.deepcopy(transformer).float()
    estimator: Any = TeacherEstimator(copy.deepcopy(model))
    if kind == "simcse":
        estimator = SimCSEEstimator(copy.deepcopy(model))
    elif kind == "reference":
        estimator = SimCSEEstimator(copy.deepcopy(model), mode="reference", length=32)
    estimator.attach(model, temperature=1.0)
    batch = features(model, 2)
    if kind in ("texts", "reference"):
        batch = with_texts(batch)
    wanted = estimator(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = estimator(batch)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs)


@pytest.mark.parametrize("columns", [2, 3])
def test_matryoshka_cuts_cached_embeddings_as_plain_ones(transformer: Any, columns: int) -> None:
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

    batch, options = features(transformer, columns), {"matryoshka_weights": [1, 0.5]}
    wanted = step(
        MatryoshkaLoss(transformer, SoftInfoNCELoss(transformer), [32, 8], **options), batch
    )
    cached = CachedSoftInfoNCELoss(transformer, mini_batch_size=4)
    around = MatryoshkaLoss(transformer, cached, [32, 8], **options)
    if LIBRARY >= (5, 7):
        assert_equal(step(around, batch), wanted)
    else:
        with pytest.raises(RuntimeError, match="needs sentence-transformers >= 5.7, got 5"):
            around(batch, None)


def test_a_wrapper_is_told_to_wait_until_the_last_mini_batch(transformer: Any) -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.waits, self.seen = transformer, False, []

        def forward(self, batch: dict[str, Any]) -> Any:
            if torch.is_grad_enabled():
                self.seen.append(self.waits)
            return self.module(batch)

        def no_sync(self) -> Any:
            wrapper = self

            class Waiting:
                def __enter__(self) -> None:
                    wrapper.waits = True

                def __exit__(self, *_: Any) -> None:
                    wrapper.waits = False

            return Waiting()

    loss = CachedSoftInfoNCELoss(transformer, mini_batch_size=4)
    loss.model = wrapper = Wrapper()
    loss(features(transformer, 2), None).backward()
    assert wrapper.seen == [True] * 5 + [False]  # 3 mini-batches of each column


@pytest.mark.parametrize("kind", ["padded", "static"])
def test_mini_batches_are_what_the_model_would_be_given(transformer: Any, kind: str) -> None:
    model = transformer if kind == "padded" else static_model(QUERIES + CODES)
    texts = [text + " more" * (3 * i) for i, text in enumerate(QUERIES[:7])]
    parts = mini_batches(model.preprocess(texts), 3)
    assert len(parts) == 3
    for i, found in enumerate(parts):
        wanted = model.preprocess(texts[3 * i : 3 * i + 3])
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            if isinstance(value, Tensor):
                assert found[name].tolist() == value.tolist(), name


def test_data_flow_is_left_whole_where_a_row_has_as_many_links_as_tokens() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    for links, width in ((4, 4), (5, 3)):
        column = {"input_ids": mask, "attention_mask": mask}
        column["links"] = torch.arange(3 * links * 2).view(3, links, 2)  # filled up in front
        found = take(column, 0, 2)
        assert torch.equal(found["links"], column["links"][:2])
        assert found["input_ids"].shape == found["attention_mask"].shape == (2, width)


def test_a_mini_batch_may_have_no_token_at_all(transformer: Any) -> None:
    batch = features(transformer, 2)
    for name in ("input_ids", "attention_mask"):  # as of tokenizers without special tokens
        batch[0][name][4:8] = 0
    wanted = step(SoftInfoNCELoss(transformer, None), batch)
    assert_equal(step(CachedSoftInfoNCELoss(transformer, None, mini_batch_size=4), batch), wanted)


def test_mini_batches_of_unpadded_texts() -> None:
    lengths = torch.tensor([3, 1, 4, 2])
    column = {
        "input_ids": torch.arange(10)[None],
        "position_ids": torch.cat([torch.arange(int(n)) for n in lengths])[None],
        "seq_idx": torch.repeat_interleave(torch.arange(4), lengths)[None].int(),
        "cu_seq_lens_q": torch.tensor([0, 3, 4, 8, 10]),
        "cu_seq_lens_k": torch.tensor([0, 3, 4, 8, 10]),
        "max_length_q": 4,
        "max_length_k": 4,
        "modality": "text",
    }
    assert longest(column) == 4
    found = take(column, 1, 3)
    assert found["input_ids"].tolist() == [[3, 4, 5, 6, 7]]
    assert found["position_ids"].tolist() == [[0, 0, 1, 2, 3]]
    assert found["seq_idx"].tolist() == [[0, 1, 1, 1, 1]]
    assert found["cu_seq_lens_q"].tolist() == found["cu_seq_lens_k"].tolist() == [0, 1, 5]
    assert found["max_length_q"] == 4 and take(column, 0, 2)["max_length_k"] == 3
    assert found["modality"] == "text"


def test_the_largest_size_that_fits_is_found_by_halving() -> None:
    tried = []

    def trial(rows: int) -> None:
        tried.append(rows)
        if rows * length > 700:
            raise torch.OutOfMemoryError("no memory")

    fitting, length = FittingSize(), 10
    assert fitting.find(300, length, trial) == 32 and tried == [300, 256, 128, 64]
    assert fitting.find(300, length, trial) == 32 and len(tried) == 4  # known
    length = 20
    assert fitting.find(300, length, trial) == 16 and tried[4:] == [64, 32]
    length = 2000
    with pytest.raises(torch.OutOfMemoryError):
        fitting.find(300, length, trial)
    assert FittingSize().find(5, 1, trial=lambda rows: None) == 4


def test_the_size_grows_with_the_rows_until_memory_limits_it() -> None:
    tried = []

    def trial(rows: int) -> None:
        tried.append(rows)
        if rows * length > 7000:
            raise torch.OutOfMemoryError("no memory")

    fitting, length = FittingSize(), 10
    assert fitting.find(8, length, trial) == 4
    assert fitting.find(300, length, trial) == 256
    assert fitting.find(300, length, trial) == 256 and tried == [8, 300]  # known
    assert fitting.find(5000, length, trial) == 256 and tried[2:] == [5000, 4096, 2048, 1024, 512]
    assert fitting.find(9000, length, trial) == 256 and len(tried) == 7  # memory's limit
    length = 60
    assert fitting.find(20, length, trial) == 256 and tried[7:] == [20]
    assert fitting.find(9000, length, trial) == 32 and tried[8:] == [512, 256, 128, 64]


def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let "auto" try sizes as it does on a GPU."""
    place = "softnce_ext.sentence_transformers.cached."
    monkeypatch.setattr(place + "device_of", lambda features: torch.device("cuda"))
    monkeypatch.setattr(place + "Scene", lambda device: Scene(torch.device("cpu")))


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_the_search_goes_through_checkpointing_and_leaves_no_gradient(
    transformer: Any, monkeypatch: pytest.MonkeyPatch, is_reentrant: bool
) -> None:
    model = copy.deepcopy(transformer).train()
    model.gradient_checkpointing_enable({"use_reentrant": is_reentrant})
    loss, batch = CachedSoftInfoNCELoss(model, mini_batch_size=4), features(model, 2)
    wanted = step(loss, batch)
    loss.mini_batch_size = "auto"
    model.zero_grad()
    kept = next(model.parameters())
    kept.grad = torch.ones_like(kept)
    as_on_cuda(monkeypatch)
    value = loss(batch)
    assert loss._fitting.size == 8
    assert [name for name, p in model.named_parameters() if p.grad is not None] == [
        next(model.named_parameters())[0]
    ]
    assert torch.equal(kept.grad, torch.ones_like(kept))
    kept.grad = None
    value.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert_equal([value.detach(), *gradients], wanted)


def test_the_size_is_not_searched_for_without_gradient(
    transformer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_cuda(monkeypatch)
    loss, sizes = CachedSoftInfoNCELoss(transformer, mini_batch_size="auto"), []

    def find(rows: int, *_: Any) -> int:
        sizes.append(rows)
        return 4

    monkeypatch.setattr(loss._fitting, "find", find)
    with torch.no_grad():
        loss(features(transformer, 2))
    assert sizes == []
    loss(features(transformer, 2))
    assert sizes == [11]


def test_the_size_is_an_argument_of_the_card_and_checked(transformer: Any, tmp_path: Path) -> None:
    loss = CachedSoftInfoNCELoss(transformer, mini_batch_size="auto")
    assert loss.get_config_dict()["mini_batch_size"] == "auto"
    for size, error in ((0, ValueError), (True, TypeError), ("many", TypeError), (1.5, TypeError)):
        with pytest.raises(error, match=f"mini_batch_size must be .*got {size!r}"):
            CachedSoftInfoNCELoss(transformer, mini_batch_size=size)
