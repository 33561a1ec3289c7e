"""GraphCodeBERT's inputs equal a literal construction; its vectors do not depend on how."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from code_samples import SAMPLES
from slow_graphcodebert import slow_row
from tiny_backbones import save_tiny_tokenizer, tiny_config
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from softnce_ext.data.dataflow.extract import extract
from softnce_ext.encoders import code_inputs, graphcodebert
from softnce_ext.encoders.backbones import build_backbone
from softnce_ext.encoders.code_memory import key_of
from softnce_ext.encoders.graphcodebert import GraphCodeBERT, additive, node_means
from softnce_ext.encoders.load import load_model

EVERYTHING = [code for codes in SAMPLES.values() for code in codes]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return save_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), EVERYTHING)


def tiny(tokenizer: Any, language: str = "python", **options: Any) -> GraphCodeBERT:
    torch.manual_seed(0)
    config = tiny_config(tokenizer, **options.pop("config", {}))
    module: GraphCodeBERT = GraphCodeBERT.from_source(
        config, tokenizer=tokenizer, language=language, **options
    )
    # The published initialisation makes a model this small nearly blind to its input.
    with torch.no_grad():
        for weights in module.parameters():
            if weights.dim() > 1:
                weights.mul_(5)
    return module


def check_row(module: GraphCodeBERT, features: dict[str, Any], row: int, code: str) -> None:
    flow = extract(code, module.language, compat=module.compat)
    words = module.encoder.get_input_embeddings().weight.detach()
    slow = slow_row(flow, module.tokenizer, words, module.code_length, module.data_flow_length)
    length = features["input_ids"].shape[1]
    ours = {name: features[name][row : row + 1] for name in module.row_features}
    pad = module.tokenizer.pad_token_id
    assert slow.ids[length:] == [pad] * (len(slow.ids) - length)
    assert ours["input_ids"][0].tolist() == slow.ids[:length]
    assert ours["position_ids"][0].tolist() == slow.positions[:length]
    assert ours["attention_mask"][0].tolist() == [int(p != 1) for p in slow.positions[:length]]
    seen = torch.tensor(slow.sees)
    assert not seen[length:].any() and not seen[:, length:].any()
    assert torch.equal(module.visible(ours)[0], seen[:length, :length])
    means = node_means(words[ours["input_ids"]], ours["position_ids"], ours["links"])
    torch.testing.assert_close(means[0], slow.vectors[:length])


@pytest.mark.parametrize("language", SAMPLES)
@pytest.mark.parametrize("compat", ["stable", "reference"])
@pytest.mark.parametrize("lengths", [(256, 64), (24, 6), (40, 0), (4, 3)])
def test_tensors_equal_the_literal_construction(language, compat, lengths, tokenizer):
    module = tiny(
        tokenizer,
        language,
        compat=compat,
        code_length=lengths[0],
        data_flow_length=lengths[1],
        query_length=16,
    )
    features = module.preprocess(SAMPLES[language], task="document")
    assert features["input_ids"].shape[1] <= sum(lengths)
    for row, code in enumerate(SAMPLES[language]):
        check_row(module, features, row, code)


def test_the_samples_meet_every_case_of_the_cut(tokenizer):
    module = tiny(tokenizer)
    features = module.preprocess(SAMPLES["python"])
    nodes = features["position_ids"].eq(0).sum(1)
    pieces = features["position_ids"].gt(1).sum(1)
    assert nodes.max() > 64 or pieces.max() > 256  # one side takes the other's room
    assert (nodes == 0).any()
    linked = [len(set(row[row.any(1)][:, 0].tolist())) for row in features["links"]]
    assert any(a < b for a, b in zip(linked, nodes.tolist(), strict=True))  # nodes cut from pieces


def test_more_nodes_fit_where_the_code_is_short(tokenizer):
    code = "x = " + " + ".join("abcdefgh") + "\n"
    module = tiny(tokenizer, code_length=40, data_flow_length=2, query_length=8)
    positions = module.preprocess([code])["position_ids"]
    assert positions.eq(0).sum() == len(extract(code, "python").nodes) > 2


def test_a_query_is_plain_roberta(tokenizer):
    module = tiny(tokenizer).eval()
    texts = ["mean of values", "count the words of a text " * 40]
    features = module.preprocess(texts, task="query")
    assert features["input_ids"].shape[1] == 128
    plain = module.encoder(features["input_ids"], attention_mask=features["attention_mask"])
    vectors = module(features)["sentence_embedding"]
    torch.testing.assert_close(vectors, plain.pooler_output, atol=1e-6, rtol=1e-5)


def literal_vectors(module: GraphCodeBERT, codes: list[str]) -> torch.Tensor:
    """One row at a time, padded to the full length, the mask as the literal loops say."""
    words = module.encoder.get_input_embeddings().weight.detach()
    found = []
    for code in codes:
        flow = extract(code, module.language)
        slow = slow_row(flow, module.tokenizer, words, module.code_length, module.data_flow_length)
        mask = torch.zeros(1, 1, len(slow.ids), len(slow.ids), dtype=words.dtype)
        mask[0, 0][~torch.tensor(slow.sees)] = torch.finfo(words.dtype).min
        output = module.encoder(
            inputs_embeds=slow.vectors[None],
            attention_mask=mask,
            position_ids=torch.tensor([slow.positions]),
        )
        found.append(output.pooler_output[0])
    return torch.stack(found)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("remove_padding", [True, False])
def test_vectors_equal_the_literal_ones(attention, remove_padding, tokenizer):
    module = tiny(
        tokenizer,
        remove_padding=remove_padding,
        config={"attn_implementation": attention},
    )
    assert module.encoder.config._attn_implementation == attention
    module = module.double().eval()
    codes = SAMPLES["python"]
    with torch.no_grad():
        vectors = module(module.preprocess(codes))["sentence_embedding"]
        torch.testing.assert_close(vectors, literal_vectors(module, codes), atol=1e-9, rtol=1e-7)


def test_the_data_flow_changes_the_vector(tokenizer):
    module = tiny(tokenizer).eval()
    features = module.preprocess(SAMPLES["python"][:1])
    vectors = module(dict(features))["sentence_embedding"]
    features["edges"] = torch.zeros_like(features["edges"])
    assert not torch.allclose(module(features)["sentence_embedding"], vectors, atol=1e-4)


def test_padding_stays_finite_under_autocast(tokenizer):
    module = tiny(tokenizer, remove_padding=False).eval()
    exact = module(module.preprocess(SAMPLES["python"]))["sentence_embedding"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = module(module.preprocess(SAMPLES["python"]))["sentence_embedding"]
    torch.testing.assert_close(vectors.float(), exact, atol=0.05, rtol=0.05)


def test_additive_masks_take_the_type_attention_computes_in():
    like = torch.zeros(1)
    mask = additive(torch.tensor([[[True, False]]]), like)
    assert mask.shape == (1, 1, 1, 2)
    assert mask.flatten().tolist() == [0.0, torch.finfo(torch.float32).min]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert additive(torch.tensor([[[False]]]), like).item() == torch.finfo(torch.bfloat16).min


def test_gradients_flow_through_the_means():
    embeddings = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    positions = torch.tensor([[2, 3, 4, 0, 0], [2, 3, 0, 1, 1]])
    links = torch.tensor([[[3, 1], [3, 2], [4, 1]], [[0, 0], [0, 0], [2, 1]]])
    assert torch.autograd.gradcheck(lambda e: node_means(e, positions, links), embeddings)


def test_prepared_codes_give_the_same_batches(tokenizer):
    module = tiny(tokenizer)
    codes = SAMPLES["python"]
    prepared = module.prepare(codes)
    assert prepared.rows == len(codes)
    rows = [3, 0, 2]
    for name, values in module.batch(prepared, rows).items():
        assert torch.equal(values, module.preprocess([codes[row] for row in rows])[name]), name
    assert module.prepare([]).rows == 0


def test_prepared_codes_do_not_depend_on_the_workers(tokenizer):
    module = tiny(tokenizer)
    codes = [f"def f_{i}(a):\n    b = a + {i}\n    return b\n" for i in range(450)]
    for alone, together in zip(
        module.prepare(codes), module.prepare(codes, workers=2), strict=True
    ):
        assert np.array_equal(alone, together)


def test_remembered_codes_are_not_read_again(tokenizer, monkeypatch):
    module = tiny(tokenizer)
    codes = SAMPLES["python"]
    fresh = module.preprocess(codes)
    module.remember(codes[:3])
    module.remember(codes[1:5])
    twin = copy.deepcopy(module)
    monkeypatch.setattr(graphcodebert, "extract", None)
    for each in (module, twin):
        assert torch.equal(each.preprocess(codes[:5])["links"], fresh["links"][:5])
        with pytest.raises(TypeError, match="not callable"):
            each.preprocess(codes[5:6])
    module.code_length = 100  # what was cut to another length is no use
    with pytest.raises(TypeError, match="not callable"):
        module.preprocess(codes[:1])


def test_remembered_codes_are_kept_in_a_folder_under_all_they_depend_on(
    tokenizer, monkeypatch, tmp_path
):
    codes = SAMPLES["python"]
    tiny(tokenizer).remember(codes, folder=tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    prepare = GraphCodeBERT.prepare
    calls = []

    def counted(self, texts, **options):
        calls.append(len(texts))
        return prepare(self, texts, **options)

    monkeypatch.setattr(GraphCodeBERT, "prepare", counted)
    again = tiny(tokenizer)
    again.remember(codes, folder=tmp_path / "kept")
    assert calls == []
    assert torch.equal(again.preprocess(codes)["edges"], tiny(tokenizer).preprocess(codes)["edges"])
    tiny(tokenizer, data_flow_length=20).remember(codes, folder=tmp_path / "kept")
    tiny(tokenizer, compat="reference").remember(codes, folder=tmp_path / "kept")
    tiny(tokenizer).remember(codes[1:], folder=tmp_path / "kept")
    assert calls == [6, 6, 5]
    file.write_bytes(file.read_bytes()[:1000])  # a broken file is made anew
    tiny(tokenizer).remember(codes, folder=tmp_path / "kept")
    tiny(tokenizer).remember(codes, folder=tmp_path / "kept")
    assert calls == [6, 6, 5, 6]


def test_a_full_disk_leaves_nothing_behind(tokenizer, monkeypatch, tmp_path):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    module = tiny(tokenizer)
    with pytest.raises(OSError, match="No space left"):
        module.remember(["a = 1"], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(GraphCodeBERT, "prepare", None)  # the work is not lost
    module.remember(["a = 1"], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pieces_are_remembered_and_forgotten_without_a_change(tokenizer, monkeypatch):
    flow = extract(SAMPLES["python"][1], "python")
    table = code_inputs.PieceTable(tokenizer)
    once = table([flow.tokens])
    assert table([flow.tokens, flow.tokens]) == once + once
    monkeypatch.setattr(code_inputs, "_REMEMBERED", 3)
    small = code_inputs.PieceTable(tokenizer)
    assert small([flow.tokens]) == once
    assert small([[*flow.tokens, "new"]])[0][:-1] == once[0]


def test_saved_and_loaded_it_gives_the_same_vectors(tokenizer, tmp_path):
    model = build_backbone(
        "graphcodebert",
        tiny_config(tokenizer),
        tokenizer=tokenizer,
        device="cpu",
        language="java",
        code_length=100,
        data_flow_length=20,
    )
    model.save(str(tmp_path))
    loaded = load_model(str(tmp_path), device="cpu")
    module: Any = loaded[0]
    assert isinstance(module, GraphCodeBERT)
    assert (module.language, module.code_length, module.data_flow_length) == ("java", 100, 20)
    codes = SAMPLES["java"]
    before, after = (each.encode_document(codes) for each in (model, loaded))
    assert np.array_equal(before, after)
    assert not np.allclose(before, loaded.encode_query(codes), atol=1e-4)


def test_features_survive_the_collator_and_training_learns(tokenizer, tmp_path):
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    from softnce_ext.sentence_transformers import SoftInfoNCELoss

    signs = {"plus": "+", "minus": "-", "product": "*", "quotient": "/"}
    codes = [f"def f(a, b):\n    c = a {sign} b\n    return c\n" for sign in signs.values()]
    config = tiny_config(tokenizer, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = build_backbone(
        "graphcodebert", config, tokenizer=tokenizer, device="cpu", language="python"
    )
    losses = []

    class Trainer(SentenceTransformerTrainer):
        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    Trainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            max_steps=10,
            per_device_train_batch_size=4,
            learning_rate=3e-3,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"query": list(signs), "code": codes}),
        loss=SoftInfoNCELoss(model, alpha=1.1, beta=0.9, temperature=1.0),
    ).train()
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]


def test_bad_arguments_are_refused_in_one_sentence(tokenizer):
    with pytest.raises(ValueError, match="language must be one of python, .*got ''"):
        GraphCodeBERT.from_source(tiny_config(tokenizer), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="data_flow_length must be >= 0, got -1"):
        tiny(tokenizer, data_flow_length=-1)
    with pytest.raises(ValueError, match="512 positions, got a row of 556"):
        tiny(tokenizer, data_flow_length=300)
    with pytest.raises(ValueError, match="compat must be one of stable, reference, got 'new'"):
        tiny(tokenizer, compat="new")
    module = tiny(tokenizer)
    with pytest.raises(TypeError, match="inputs must be texts, got int"):
        module.preprocess([1])
    with pytest.raises(ValueError, match='task must be "query", "document" or None, got \'code\''):
        module.preprocess(["a"], task="code")
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        module.prepare(["a"], workers=0)


def test_prepared_codes_are_found_by_all_that_cuts_them_into_tokens():
    """Merges as well as the vocabulary: with other ones the same text has other tokens."""

    def tokenizer(merges):
        vocabulary = {piece: i for i, piece in enumerate(["<pad>", "a", "b", "c", "ab", "bc"])}
        made = Tokenizer(tokenizers.models.BPE(vocabulary, merges))
        return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")

    first, other = (tokenizer(m) for m in ([("a", "b"), ("b", "c")], [("b", "c"), ("a", "b")]))
    assert first("abc")["input_ids"] != other("abc")["input_ids"]
    keys = [key_of(["abc"], (), each, "tree_sitter_python") for each in (first, first, other)]
    assert keys[0] == keys[1] != keys[2]
