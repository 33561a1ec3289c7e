"""A DistilBERT of two layers with random weights, as the SimCSE estimator is one of six."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def distilbert(texts: list[str], folder: Path, *, dropout: float = 0.1, seed: int = 0) -> Any:
    """Return a sentence-transformers model over the words of the texts, mean pooling."""
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

    words = sorted({word for text in texts for word in text.lower().split()})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*names, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    special |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(str(folder))
    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=len(vocabulary),
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=64,
        max_position_embeddings=64,
        dropout=dropout,
        attention_dropout=dropout,
        pad_token_id=0,
    )
    DistilBertModel(config).save_pretrained(str(folder))
    return SentenceTransformer(str(folder), device="cpu")
