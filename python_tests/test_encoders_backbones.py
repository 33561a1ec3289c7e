from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import static_model, tiny_rows
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from tiny_backbones import save_tiny_backbone, save_tiny_tokenizer, tiny_config
from transformers import BertConfig, BertModel, RobertaModel

from softnce_ext.encoders.backbones import CodeBERT, UniXcoder, build_backbone
from softnce_ext.encoders.load import load_model, set_max_length
from softnce_ext.encoders.saved import encode, load_encoder
from softnce_ext.sentence_transformers import SoftInfoNCELoss

ROWS = tiny_rows()
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] for row in ROWS]
LONG = "\n".join(CODES[:20])
KINDS = ("codebert", "unixcoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_backbone(tmp_path_factory.mktemp("backbone"), QUERIES + CODES)


def literal_ids(tokenizer: Any, kind: str, text: str, length: int) -> list[int]:
    """The published construction: pieces as strings, cut, special ones put around them."""
    if kind == "codebert":
        tokens = ["<s>", *tokenizer.tokenize(text)[: length - 2], "</s>"]
    else:
        tokens = ["<s>", "<encoder-only>", "</s>", *tokenizer.tokenize(text)[: length - 4], "</s>"]
    ids: list[int] = tokenizer.convert_tokens_to_ids(tokens)
    return ids + [1] * (length - len(ids))


def literal_vectors(folder: Path, kind: str, ids: list[list[int]]) -> torch.Tensor:
    """The published forward pass, over rows padded to their full length."""
    encoder = RobertaModel.from_pretrained(str(folder)).eval()
    rows = torch.tensor(ids)
    with torch.no_grad():
        if kind == "codebert":
            return encoder(rows, attention_mask=rows.ne(1))[1]
        hidden = encoder(rows, attention_mask=rows.ne(1))[0]
    vectors = [hidden[i][rows[i].ne(1)].mean(0) for i in range(len(rows))]
    return torch.stack(vectors)


@pytest.mark.parametrize(
    ("kind", "query_length", "code_length"), [("codebert", 200, 200), ("unixcoder", 128, 256)]
)
def test_ids_and_vectors_are_those_of_the_published_construction(
    folder: Path, kind: str, query_length: int, code_length: int
) -> None:
    model = build_backbone(kind, folder, device="cpu")
    texts = ["", "a", QUERIES[0], CODES[0], LONG, "naïve <pad> 𝛼 </s> x"]
    for task, length in (("query", query_length), ("document", code_length), (None, code_length)):
        features = model.preprocess(texts, task=task)
        expected = [literal_ids(model.tokenizer, kind, text, length) for text in texts]
        assert 1 not in expected[4]  # the long text fills its row
        got = torch.nn.functional.pad(
            features["input_ids"], (0, length - features["input_ids"].shape[1]), value=1
        )
        assert got.tolist() == expected
        assert torch.equal(features["attention_mask"], features["input_ids"].ne(1).long())
        vectors = literal_vectors(folder, kind, expected)
        encode_side = model.encode_query if task == "query" else model.encode_document
        np.testing.assert_allclose(encode_side(texts), vectors, atol=1e-5)
    assert np.abs(model.encode_query([LONG]) - model.encode_document([LONG])).max() > 1e-4 or (
        query_length == code_length
    )


def test_a_batch_is_padded_to_its_longest_and_a_prompt_is_put_before_the_texts(
    folder: Path,
) -> None:
    module = build_backbone("codebert", folder, device="cpu")[0]
    rows = [module.preprocess([text])["input_ids"] for text in CODES[:5]]
    batch = module.preprocess(CODES[:5])["input_ids"]
    assert batch.shape[1] == max(row.shape[1] for row in rows)
    prompted = module.preprocess(["b"], prompt="a ")
    assert torch.equal(prompted["input_ids"], module.preprocess(["a b"])["input_ids"])
    counted = int((module.preprocess(["a "])["attention_mask"]).sum()) - 1  # without the end
    assert prompted["prompt_length"] == counted
    assert "prompt_length" not in module.preprocess(["b"])


@pytest.mark.parametrize("mode", ["entry", "special"])
def test_the_mode_token_is_looked_up_however_the_tokenizer_knows_it(
    tmp_path: Path, mode: str
) -> None:
    save_tiny_backbone(tmp_path, CODES, mode=mode)
    model = build_backbone("unixcoder", tmp_path, device="cpu")
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    special = "<encoder-only>" in model.tokenizer.all_special_tokens
    assert special == (mode == "special")
    ids = model.preprocess(["x"])["input_ids"][0].tolist()
    assert ids == [0, vocabulary["<encoder-only>"], 2, vocabulary["x"], 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cosine", [False, True])
def test_a_saved_model_gives_the_same_vectors_bit_for_bit(
    folder: Path, tmp_path: Path, kind: str, cosine: bool
) -> None:
    model = build_backbone(
        kind, folder, cosine=cosine, query_length=20, code_length=50, device="cpu"
    )
    model.prompts = {"query": "find ", "document": ""}
    texts = [*QUERIES[:3], *CODES[:3], LONG]
    expected = [encode(model, texts, side) for side in ("query", "code")]
    model.save(str(tmp_path / "saved"), create_model_card=False)
    assert {path.suffix for path in (tmp_path / "saved").glob("*model*")} <= {
        ".safetensors",
        ".json",
    }
    loaded, _ = load_encoder(str(tmp_path / "saved"))
    assert type(loaded[0]) is type(model[0])
    assert loaded[0].get_config_dict() == model[0].get_config_dict()
    assert loaded.similarity_fn_name == ("cosine" if cosine else "dot")
    for side, vectors in zip(("query", "code"), expected, strict=True):
        np.testing.assert_array_equal(encode(loaded, texts, side), vectors)
        norms = np.linalg.norm(vectors, axis=1)
        assert np.allclose(norms, 1.0, atol=1e-5) == cosine


def test_code_that_a_saved_model_names_is_not_imported(folder: Path, tmp_path: Path) -> None:
    build_backbone("codebert", folder, device="cpu").save(str(tmp_path), create_model_card=False)
    parts = json.loads((tmp_path / "modules.json").read_text())
    parts.append({"idx": 1, "name": "1", "path": "1", "type": "antigravity.Flight"})
    (tmp_path / "modules.json").write_text(json.dumps(parts))
    with pytest.raises(FileNotFoundError, match="antigravity.Flight is none of sentence-transf"):
        load_model(str(tmp_path))


def test_a_plain_hugging_face_folder_still_gets_mean_pooling(folder: Path) -> None:
    model = load_model(str(folder), device="cpu")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling"]


def test_a_bare_roberta_is_said_to_be_no_preset(folder: Path, tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="no modules.json: a text's vector is the mean over"):
        bare = load_encoder(str(folder))[0]
    bare.save(str(tmp_path / "saved"))
    build_backbone("codebert", folder, device="cpu").save(str(tmp_path / "codebert"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("saved", "codebert"):
            load_encoder(str(tmp_path / name))


def test_weights_are_loaded_in_float32_whatever_they_are_stored_in(
    folder: Path, tmp_path: Path
) -> None:
    half, static = tmp_path / "half", static_model(CODES)
    shutil.copytree(folder, half)
    RobertaModel.from_pretrained(str(folder)).to(torch.bfloat16).save_pretrained(str(half))
    static.to(torch.float16).save(str(tmp_path / "static"))
    build_backbone("codebert", half, device="cpu").to(torch.bfloat16).save(str(tmp_path / "saved"))
    for model in (
        build_backbone("codebert", half, device="cpu"),
        *(load_model(str(path)) for path in (half, tmp_path / "saved", tmp_path / "static")),
    ):
        assert {each.dtype for each in model.parameters()} == {torch.float32}
    for word in ("dtype", "torch_dtype"):
        kept = CodeBERT.from_source(half, model_kwargs={word: torch.bfloat16})
        assert {each.dtype for each in kept.parameters()} == {torch.bfloat16}


def test_a_shorter_bound_cuts_both_sides(folder: Path) -> None:
    model = build_backbone("unixcoder", folder, device="cpu")
    set_max_length(model, 200)
    assert (model[0].query_length, model[0].code_length) == (128, 200)
    set_max_length(model, 40)
    assert (model[0].query_length, model[0].code_length) == (40, 40)
    assert model.preprocess([LONG], task="query")["input_ids"].shape == (1, 40)


@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_of_training_change_the_weights(folder: Path, tmp_path: Path, kind: str) -> None:
    from datasets import Dataset

    torch.manual_seed(0)
    model = build_backbone(kind, folder, device="cpu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            max_steps=2,
            learning_rate=1e-2,
            router_mapping={"query": "query", "code": "document"},
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=Dataset.from_dict({"query": QUERIES, "code": CODES}),
        loss=SoftInfoNCELoss(model, scale=1.0, normalize=False),
    ).train()
    after = model.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert still == []


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_gives_nearly_the_same_vectors(folder: Path, kind: str) -> None:
    model = build_backbone(kind, folder, device="cpu").eval()
    texts = [*QUERIES[:4], *CODES[:4]]
    with torch.no_grad():
        plain = model(model.preprocess(texts))["sentence_embedding"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = model(model.preprocess(texts))["sentence_embedding"]
    assert not torch.equal(plain, cast.float())
    assert (plain - cast.float()).abs().max() < 0.05 * plain.abs().max()


def test_a_configuration_builds_random_weights(folder: Path) -> None:
    tokenizer = save_tiny_tokenizer(folder.parent / "tokenizer", CODES)
    config = tiny_config(tokenizer, is_decoder=True)
    model = build_backbone("unixcoder", config, tokenizer=tokenizer, device="cpu")
    assert model.get_embedding_dimension() == 32
    assert model[0].encoder.pooler is None  # nothing without a gradient in training
    assert not model[0].encoder.config.is_decoder
    assert config.is_decoder
    with pytest.raises(ValueError, match="tokenizer must be given with a configuration"):
        build_backbone("unixcoder", config)


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind must be one of codebert, .*, got 'bert'"):
        build_backbone("bert", folder)
    with pytest.raises(ValueError, match=r"fit the model's 512 positions, got a row of 513"):
        build_backbone("codebert", folder, code_length=513)
    assert build_backbone("codebert", folder, code_length=512, device="cpu").encode([LONG]).all()
    with pytest.raises(ValueError, match=r"query_length must be >= 5, got 4"):
        build_backbone("unixcoder", folder, query_length=4)
    model = build_backbone("codebert", folder, device="cpu")
    with pytest.raises(ValueError, match='task must be "query", "document" or None, got "'[:-1]):
        model.preprocess(["a"], task="passage")
    with pytest.raises(TypeError, match="inputs must be texts, got tuple"):
        model[0].preprocess([("a", "b")])

    save_tiny_backbone(tmp_path / "headless", CODES, mode=None, pooler=False)
    with pytest.raises(ValueError, match="codebert takes the pooler's output, but .* has no pool"):
        build_backbone("codebert", tmp_path / "headless")
    with pytest.raises(ValueError, match="needs a tokenizer that knows <encoder-only>, got one"):
        build_backbone("unixcoder", tmp_path / "headless")

    other = save_tiny_tokenizer(tmp_path / "other", CODES, vocab_size=300)
    small = tiny_config(other)
    with pytest.raises(ValueError, match="at most the model's 300 pieces, got"):
        build_backbone("codebert", small, tokenizer=folder)
    small.pad_token_id = 5
    with pytest.raises(ValueError, match="padding id must be the model's, 5, got 1"):
        build_backbone("codebert", small, tokenizer=other)


def test_broken_models_are_refused_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="model .* cannot be loaded"):
        build_backbone("codebert", tmp_path / "nowhere")
    bert = BertConfig(vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    BertModel(bert).save_pretrained(str(tmp_path / "bert"))
    with pytest.raises(ValueError, match="codebert needs a RoBERTa model, got 'bert' in"):
        build_backbone("codebert", tmp_path / "bert")
    torn = save_tiny_backbone(tmp_path / "torn", CODES)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(FileNotFoundError, match="model .*torn cannot be loaded"):
        build_backbone("codebert", torn)
    short = save_tiny_backbone(tmp_path / "short", CODES)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"whole encoder's, got none for encoder\.layer\.2\."):
        build_backbone("codebert", short)


def test_classes_are_those_of_the_kinds(folder: Path) -> None:
    assert type(build_backbone("codebert", folder, device="cpu")[0]) is CodeBERT
    assert type(build_backbone("unixcoder", folder, device="cpu")[0]) is UniXcoder
