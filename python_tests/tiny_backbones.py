"""Small backbones with random weights, in folders as Hugging Face has theirs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODE = "<encoder-only>"
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0 to 3, as RoBERTa has them


def save_tiny_tokenizer(
    folder: Path, texts: Sequence[str], *, vocab_size: int = 500, mode: str | None = "entry"
) -> Any:
    """Train a byte-level BPE tokenizer and save it as RoBERTa's: vocab.json and merges.txt.

    Args:
        folder: Where to; is made.
        texts: What to train on.
        vocab_size: Number of pieces; at least the 256 bytes and 6 special ones.
        mode: Whether it knows <encoder-only>: as an ordinary "entry" of the vocabulary, as a
            "special" token besides, or None for not at all.
    """
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer, RobertaConfig

    folder.mkdir(parents=True, exist_ok=True)
    first = [*SPECIAL, *([MODE] if mode else [])]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        texts, vocab_size=vocab_size - 1, special_tokens=first, show_progress=False
    )
    vocabulary = trained.get_vocab()
    vocabulary["<mask>"] = len(vocabulary)  # the last one, as in RoBERTa
    trained.save_model(str(folder))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    RobertaConfig(vocab_size=len(vocabulary)).save_pretrained(str(folder))
    if mode == "special":
        names = {"additional_special_tokens": [MODE]}
        (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return AutoTokenizer.from_pretrained(str(folder))


def tiny_config(tokenizer: Any, **options: Any) -> Any:
    """A RoBERTa of two layers, 32 wide, with RoBERTa's 514 positions."""
    from transformers import RobertaConfig

    return RobertaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            **options,
        }
    )


def save_tiny_backbone(
    folder: Path,
    texts: Sequence[str],
    *,
    mode: str | None = "entry",
    pooler: bool = True,
    seed: int = 0,
    **options: Any,
) -> Path:
    """Save a whole small backbone of random weights; return the folder.

    Args:
        folder: Where to; is made.
        texts: What to train the tokenizer on.
        mode: As in `save_tiny_tokenizer`.
        pooler: Whether the weights have a pooler, as CodeBERT and GraphCodeBERT need it.
        seed: Of the weights.
        **options: Of the `RobertaConfig`.
    """
    import torch
    from transformers import RobertaModel

    tokenizer = save_tiny_tokenizer(folder, texts, mode=mode)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RobertaModel(tiny_config(tokenizer, **options), add_pooling_layer=pooler)
    # The published initialisation (0.02) makes a model this small nearly blind to its input.
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(5)
    model.save_pretrained(str(folder))
    return folder
