"""A saved encoder: load it, learn how its texts were made, turn texts into vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.codesearchnet_read import Form

SETTINGS_FILE = "softnce.json"
MANIFEST_FILE = "manifest.json"

_HUB_NAME = re.compile(r"(?!.*(?:--|\.\.))\w[\w.-]*/(?:\w|\w[\w.-]*\w)")
_MODEL_FILES = ("modules.json", "config.json")  # of sentence-transformers, of Hugging Face
_DESCRIPTIONS = {"query": "encoding queries", "code": "encoding functions"}
_TEXTS_AT_ONCE = 2048  # the step of the progress bar and of a Ctrl-C; sorted by length within


@dataclass(frozen=True)
class EncoderSettings:
    """How an encoder's texts were made in training; the defaults are for encoders of others.

    Attributes:
        name_boost: How often a function's name is put before its code.
        hybrid_weight: Weight of the lexical score in the hybrid one.
        form: Of prepared CodeSearchNet: code as it stands ("source"), or its "tokens".
    """

    name_boost: int = 0
    # The best for all-MiniLM-L6-v2 on 700 functions of sympy, mypy and datasets: MRR 0.78, against
    # 0.74 by its vectors alone and 0.75 with a weight of 1.
    hybrid_weight: float = 0.3
    form: Form = "source"


def load_encoder(name: str) -> tuple[SentenceTransformer, EncoderSettings]:
    """Load an encoder and how its texts were made, by its folder or name.

    What is on this machine is taken without asking the network, and only "organisation/name" is
    looked up on the hub, so that a mistyped folder does not wait for it.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: softnce.json does not hold what it should.
    """
    from .load import load_model

    folder = local_folder(name)
    if folder is not None:
        settings = read_settings(folder)
        try:
            return load_model(str(folder)), settings
        except FileNotFoundError:
            if folder == Path(name):  # else the cache holds a part of it
                raise
    check_model_name(name)
    return load_model(name), settings_of(name)


def check_model_name(name: str) -> None:
    """Refuse what no model can be loaded from, before any work is done for it.

    Of what is not on this machine the hub is asked, unless that is forbidden; nothing is fetched.

    Raises:
        FileNotFoundError: There is no such folder or installed model, nor does the hub tell of one.
    """
    from .load import installed_model

    folder = Path(name)
    if folder.exists():
        if not any((folder / file).is_file() for file in _MODEL_FILES):
            raise FileNotFoundError(f"model {name} holds neither modules.json nor config.json")
    elif name not in (installed_model() or ()) and local_folder(name) is None:
        if not _HUB_NAME.fullmatch(name):
            raise FileNotFoundError(
                f"model {name}: there is no such folder, nor a model of that name on this machine"
            )
        if refusal := _hub_refusal(name):
            raise FileNotFoundError(f"model {name} is not on this machine, and {refusal}")


def check_language(model: SentenceTransformer, languages: Iterable[str], name: str) -> None:
    """Refuse to read code with the grammar of another language, as GraphCodeBERT would.

    Args:
        model: The encoder.
        languages: Of the code.
        name: What to call the encoder in the error.

    Raises:
        ValueError: The encoder reads one language, and it is another.
    """
    own = getattr(model[0], "language", None)
    others = sorted(set(languages) - {own})
    if own is not None and others:
        raise ValueError(
            f"{name} must be of the language of the code, {', '.join(others)}, got one that reads "
            f'{own} (rows of data without a field "language" are python)'
        )


def _hub_refusal(name: str) -> str:
    """Say why the hub gives no model of a name; "" where it does."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask the hub"
    try:
        if any(HfApi().file_exists(name, file) for file in _MODEL_FILES):
            return ""
    except Exception as error:  # no network, no permission, and what else the library raises
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return f"the hub cannot be asked: {reason}"
    return "the hub has none of that name"


def local_folder(name: str) -> Path | None:
    """Return the folder of a model: itself, or in the Hugging Face cache; None where neither is."""
    if Path(name).exists():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache

    for repository in (name, f"sentence-transformers/{name}"):
        for file in _MODEL_FILES:
            if _HUB_NAME.fullmatch(repository):
                path = try_to_load_from_cache(repository, file)
                if isinstance(path, str):
                    return Path(path).parent
    return None


def settings_of(name: str) -> EncoderSettings:
    """Return how an encoder's texts were made, by its folder or name; the hub is asked last.

    Raises:
        ValueError: softnce.json does not hold what it should.
    """
    folder = local_folder(name)
    if folder is None and _HUB_NAME.fullmatch(name):
        from sentence_transformers.util import load_file_path

        path = load_file_path(name, SETTINGS_FILE)
        folder = None if path is None else Path(path).parent
    return EncoderSettings() if folder is None else read_settings(folder)


def trained_pairs(name: str) -> set[str]:
    """Return the hashes of the pairs that the manifest of a saved model says it was trained on.

    Of one that was not trained by this package there are none.

    Raises:
        ValueError: The manifest does not hold what it should.
    """
    from ..data.manifest import read_manifest

    folder = local_folder(name)
    if folder is None or not (folder / MANIFEST_FILE).is_file():
        return set()
    try:
        return set(read_manifest(folder / MANIFEST_FILE)["train"]["pairs"])
    except ValueError:
        if (folder / SETTINGS_FILE).is_file():
            raise
        return set()  # another's file of that name


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
        if key == "form":
            if value not in ("source", "tokens"):
                raise ValueError(f"form in {path} must be source or tokens, got {value!r}")
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise ValueError(f"{key} in {path} must be a number >= 0, got {value!r}")
        elif key == "name_boost" and not isinstance(value, int):
            raise ValueError(f"{key} in {path} must be a whole number, got {value!r}")
    return EncoderSettings(**known)


def encode(
    model: SentenceTransformer,
    texts: Sequence[str],
    side: Literal["query", "code"],
    batch_size: int | None = None,
    progress: bool = False,
) -> np.ndarray[Any, Any]:
    """Return the vectors of texts, float32 [N, D], such that dot products are the model's scores.

    A model that compares by cosine gives vectors of length 1. The prompts it was saved with, if
    any, are put before queries and codes.

    Args:
        model: The encoder.
        texts: At least one text.
        side: Which of the model's two prompts to use.
        batch_size: Texts encoded at once; None for 512 with a static encoder, 64 with others.
        progress: Show progress on stderr.

    Raises:
        ValueError: There are no texts.
    """
    from tqdm import tqdm

    from .load import is_static

    if len(texts) == 0:
        raise ValueError("texts must hold at least one text, got none")
    if batch_size is None:
        batch_size = 512 if is_static(model) else 64
    encode_side = model.encode_query if side == "query" else model.encode_document
    parts = []
    with tqdm(
        total=len(texts), desc=_DESCRIPTIONS[side], mininterval=0.3, disable=not progress
    ) as bar:
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            part = encode_side(
                list(texts[start : start + _TEXTS_AT_ONCE]),
                batch_size=batch_size,
                show_progress_bar=False,
                normalize_embeddings=model.similarity_fn_name == "cosine",
            )
            parts.append(np.asarray(part, dtype=np.float32))
            bar.update(len(part))
    return np.concatenate(parts)
