"""The paper's backbones as models of sentence-transformers: CodeBERT, UniXcoder, and the builder.

Source: the released code of "Rethinking Negative Pairs in Code Search" (EMNLP 2023) and the
backbones' own fine-tuning scripts, for lengths, special tokens and what the vector of a text is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import Tensor
from transformers import RobertaConfig

from .base import Backbone
from .load import BACKBONES, import_class

MODE = "<encoder-only>"


class CodeBERT(Backbone):
    """CodeBERT: ``<s> tokens </s>``, and the pooler's output as the vector."""

    kind = "codebert"
    default_source = "microsoft/codebert-base"
    default_query_length = 200
    default_code_length = 200
    has_pooler = True

    def encode_rows(self, features: dict[str, Tensor]) -> Tensor:
        """Return the pooler's output, [N, D]."""
        vectors: Tensor = self.encoder(**features).pooler_output
        return vectors


class UniXcoder(Backbone):
    """UniXcoder as an encoder: ``<s> <encoder-only> </s> tokens </s>``, and the mean over all."""

    kind = "unixcoder"
    default_source = "microsoft/unixcoder-base"
    default_query_length = 128
    default_code_length = 256
    has_pooler = False

    def special_prefix(self) -> list[int]:
        """Return ``<s> <encoder-only> </s>``."""
        vocabulary = self.tokenizer.get_vocab()
        if MODE not in vocabulary:
            raise ValueError(f"unixcoder needs a tokenizer that knows {MODE}, got one without")
        return [self.tokenizer.cls_token_id, vocabulary[MODE], self.tokenizer.sep_token_id]

    def encode_rows(self, features: dict[str, Tensor]) -> Tensor:
        """Return the mean over all tokens but padding, special ones included, [N, D]."""
        hidden: Tensor = self.encoder(**features).last_hidden_state  # [N, T, D]
        kind = torch.promote_types(hidden.dtype, torch.float32)
        mask = features["attention_mask"][..., None].to(kind)
        return ((hidden * mask).sum(1) / mask.sum(1)).to(hidden.dtype)


def build_backbone(
    kind: str,
    source: str | Path | RobertaConfig | None = None,
    *,
    tokenizer: Any = None,
    cosine: bool = False,
    device: str | None = None,
    **options: Any,
) -> SentenceTransformer:
    """Return one of the paper's backbones as a sentence-transformers model, not yet fine-tuned.

    Args:
        kind: "codebert", "graphcodebert" or "unixcoder".
        source: A name on the hub, a folder of Hugging Face weights, or a configuration for random
            ones; None for the published weights.
        tokenizer: A tokenizer, its name or folder; None for the source's own.
        cosine: Vectors of length 1, compared by cosine (UniXcoder's authors: times a scale of 20);
            False compares by dot product as the paper's code (scale 1).
        device: Where to; None for the GPU where there is one.
        **options: Of the module: `query_length`, `code_length`, `remove_padding`.

    Raises:
        FileNotFoundError: There is no such model, or its files are broken.
        ValueError: `kind` is unknown, or source, tokenizer and lengths do not fit each other.
    """
    if kind not in BACKBONES:
        raise ValueError(f"kind must be one of {', '.join(BACKBONES)}, got {kind!r}")
    module = import_class(BACKBONES[kind]).from_source(source, tokenizer=tokenizer, **options)
    return SentenceTransformer(
        modules=[module, Normalize()] if cosine else [module],
        device=device,
        similarity_fn_name="cosine" if cosine else "dot",
    )
