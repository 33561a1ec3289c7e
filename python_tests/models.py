"""Small pairs and encoders for tests of training: nothing downloaded, nothing slow."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

LIBRARY = tuple(int(part) for part in version("sentence-transformers").split(".")[:2])
VERBS = ["read", "write", "send", "parse", "close", "merge", "count", "sort", "split", "draw"]
THINGS = ["file", "mail", "list", "image", "table", "graph", "token", "socket"]


def tiny_rows(packages: int = 12) -> list[dict[str, Any]]:
    """Rows of our own format: functions named for what they do, in packages."""
    rows = []
    for number, (verb, thing) in enumerate((v, t) for v in VERBS for t in THINGS):
        code = f"def {verb}_{thing}(self, {thing}_{number}):\n    state = self.open({number})\n"
        code += f"    state.{verb}({thing}_{number})\n    return state"
        query = f"{verb.capitalize()} the {thing} and return the state {number * 7 % 80}."
        rows.append(
            {
                "query": query,
                "code": code,
                "name": f"{verb}_{thing}",
                "package": f"package{number % packages}",
                "path": f"package{number % packages}/mod.py",
                "line": number + 1,
            }
        )
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def static_model(texts: list[str], dimension: int = 16, seed: int = 0) -> Any:
    """A static encoder over the pieces of the texts."""
    from softnce_ext.encoders.static import build_static_encoder, build_tokenizer

    tokenizer = build_tokenizer(texts, 200)
    lengths = np.full(tokenizer.get_vocab_size(), 2.0, np.float32)
    return build_static_encoder(tokenizer, lengths, dimension, seed=seed)


def transformer_model(texts: list[str], folder: Path) -> Any:
    """A BERT of two layers with random weights, saved and loaded as users have theirs."""
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = sorted({word for text in texts for word in text.lower().replace("_", " ").split()})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace("_", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(str(folder))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(str(folder))
    return SentenceTransformer(str(folder), device="cpu")
