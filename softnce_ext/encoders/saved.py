"""A saved encoder: load it, learn how its texts were made, turn texts into vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SETTINGS_FILE = "softnce.json"


@dataclass(frozen=True)
class EncoderSettings:
    """How an encoder's texts were made in training; the defaults are for encoders of others.

    Attributes:
        name_boost: How often a function's name is put before its code.
        hybrid_weight: Weight of the lexical score in the hybrid one.
    """

    name_boost: int = 0
    hybrid_weight: float = 1.0


def load_encoder(name: str) -> tuple[SentenceTransformer, EncoderSettings]:
    """Load a sentence-transformers model from a folder, the local cache or the hub.

    What is on this machine is taken without asking the network. Only "organisation/name" is looked
    up on the hub, so that a mistyped folder does not wait for it.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: softnce.json does not hold what it should.
    """
    folder = Path(name)
    is_hub_name = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
    if not folder.exists() and not is_hub_name and not re.fullmatch(r"[\w-][\w.-]*", name):
        raise FileNotFoundError(f"model {name}: there is no such folder")
    settings = read_settings(folder)
    try:
        return _load(name, local_files_only=True), settings
    except Exception as error:  # the libraries raise many kinds for "there is no such model"
        if folder.exists():
            raise FileNotFoundError(f"model {name} cannot be loaded: {error}") from error
        if not is_hub_name:
            raise FileNotFoundError(
                f"model {name}: there is no such folder, nor a model of that name in the cache"
            ) from error
    try:
        return _load(name, local_files_only=False), settings
    except Exception as error:
        raise FileNotFoundError(f"model {name} cannot be loaded: {error}") from error


def _load(name: str, local_files_only: bool) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(name, local_files_only=local_files_only)


def read_settings(folder: Path) -> EncoderSettings:
    """Read softnce.json of a model folder; the defaults where there is none.

    Raises:
        ValueError: The file is not JSON or a value is not a number in range.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return EncoderSettings()
    try:
        read: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(read).__name__}")
    known = {f.name: read[f.name] for f in fields(EncoderSettings) if f.name in read}
    for key, value in known.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise ValueError(f"{key} in {path} must be a number >= 0, got {value!r}")
    return EncoderSettings(**known)


def encode(
    model: SentenceTransformer,
    texts: Sequence[str],
    side: Literal["query", "code"],
    batch_size: int = 64,
    progress: bool = False,
) -> np.ndarray[Any, Any]:
    """Return the vectors of texts, float32 [N, D], such that dot products are the model's scores.

    A model that compares by cosine gives vectors of length 1. The prompts it was saved with, if
    any, are put before queries and codes.
    """
    encode_side = model.encode_query if side == "query" else model.encode_document
    vectors = encode_side(
        list(texts),
        batch_size=batch_size,
        show_progress_bar=progress,
        normalize_embeddings=model.similarity_fn_name == "cosine",
    )
    return np.asarray(vectors, dtype=np.float32)
