"""RoBERTa encoders and tokenizers from the hub, a folder or a configuration, whole or refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, RobertaConfig, RobertaModel

from .load import not_loaded


def load_roberta(
    source: str | Path | RobertaConfig,
    tokenizer: Any = None,
    *,
    kind: str,
    has_pooler: bool,
    model_kwargs: dict[str, Any],
    hub_kwargs: dict[str, Any],
) -> tuple[RobertaModel, Any]:
    """Return an encoder and its tokenizer.

    Args:
        source: A name on the hub, a folder, or a configuration for random weights.
        tokenizer: A tokenizer, its name or folder; None for the source's own.
        kind: The backbone, for messages.
        has_pooler: Whether the encoder needs its pooler; else it is left out.
        model_kwargs: For `from_pretrained` of the encoder, such as ``dtype``, float32 else.
        hub_kwargs: For everything that may come from the hub, such as ``revision``.

    Raises:
        FileNotFoundError: There is no such model, or its files are broken.
        ValueError: It is no RoBERTa, its weights lack a part, or a tokenizer is missing.
    """
    if isinstance(source, RobertaConfig):
        if tokenizer is None:
            raise ValueError("tokenizer must be given with a configuration, got None")
        encoder = RobertaModel(_as_encoder(source), add_pooling_layer=has_pooler)
    else:
        encoder = _load_encoder(str(source), kind, has_pooler, model_kwargs, hub_kwargs)
    if tokenizer is None or isinstance(tokenizer, (str, Path)):
        name = str(tokenizer or source)
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **hub_kwargs)
        except Exception as error:  # the library raises many kinds for "there is no such model"
            raise not_loaded(f"the tokenizer of {name}", error) from error
    return encoder, tokenizer


def _load_encoder(
    source: str, kind: str, has_pooler: bool, model_kwargs: dict[str, Any], hub: dict[str, Any]
) -> RobertaModel:
    try:
        config = AutoConfig.from_pretrained(source, **hub)
    except Exception as error:  # as above
        raise not_loaded(f"model {source}", error) from error
    if config.model_type != "roberta":
        raise ValueError(f"{kind} needs a RoBERTa model, got {config.model_type!r} in {source}")
    if "torch_dtype" not in model_kwargs:  # the word's older form
        # Not the stored type: steps of 2e-5 are lost in the eight bits of bf16 weights.
        model_kwargs = {"dtype": torch.float32, **model_kwargs}
    try:
        loaded: Any = RobertaModel.from_pretrained(
            source,
            config=_as_encoder(config),
            add_pooling_layer=has_pooler,
            output_loading_info=True,
            **model_kwargs,
            **hub,
        )
    except Exception as error:  # as above
        raise not_loaded(f"model {source}", error) from error
    encoder: RobertaModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if any(name.startswith("pooler.") for name in missing):
        raise ValueError(f"{kind} takes the pooler's output, but {source} has no pooler")
    if missing:
        raise ValueError(
            f"the weights in {source} must be a whole encoder's, got none for {missing[0]} "
            f"({len(missing)} missing)"
        )
    return encoder


def _as_encoder(config: RobertaConfig) -> RobertaConfig:
    config = copy.deepcopy(config)
    config.is_decoder = False  # a decoder's tokens would not see the ones after them
    return config
