"""Tables of a frozen model's vectors: made once, kept in the user's cache, read by row number.

A table lives in ``<folder>/<key>/``, where the key is a hash of all that decides its vectors: the
texts, the model's weights and settings, the type. So no table of other data is ever found. It is
built under an OS file lock, which dies with its process, in ``<key>.part``, and renamed when whole.
A build that was stopped goes on where it was; one that found the disk full leaves nothing.

Environment: ``SOFTNCE_CACHE`` (where the user's caches are kept), ``XDG_CACHE_HOME``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..encoders.tokenizer_state import tokenizer_state
from .table import Encode, TeacherTable, open_table, write_table
from .table import text_hash as text_hash

DTYPES = ("float32", "float16")


def cached_table(
    encode: Encode,
    texts: Sequence[str],
    identity: Mapping[str, Any],
    *,
    dtype: str = "float32",
    folder: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> TeacherTable:
    """Return the table of texts' vectors; encode them where that has not been done yet.

    Several processes may ask at once: one encodes, the others wait for it.

    Args:
        encode: Returns the vectors of some texts, [n, D].
        texts: All texts, in the order of the data set's row numbers.
        identity: What else decides the vectors, as JSON values: `model_hash` and settings.
        dtype: "float32", or "float16" for half the size.
        folder: Where tables are kept; None: the user's cache folder.
        progress: Show progress on stderr.

    Raises:
        StaleTableError: There is a table, but it is damaged.
        TypeError: `texts` is one text, or holds something else.
        ValueError: There are no texts, `dtype` is no such type, or a vector is not finite.
        OSError: The folder cannot be written, or the disk is full; no part of the table is
            left behind, but its empty lock file.
    """
    from filelock import FileLock

    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of texts, got one text")
    if len(texts) == 0:
        raise ValueError("texts must hold at least one text, got none")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    whole = {"texts": text_hash(texts), "rows": len(texts), "dtype": dtype, **identity}
    key = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:24]
    root = Path(folder) if folder is not None else cache_folder()
    built = False
    try:
        if not (root / key).is_dir():
            root.mkdir(parents=True, exist_ok=True, mode=0o700)  # vectors tell of the texts
            with FileLock(root / f"{key}.lock"):
                if not (root / key).is_dir():  # else another process has built it meanwhile
                    _build(root / key, encode, texts, whole, progress)
                    built = True
    except OSError as error:
        raise OSError(
            error.errno,
            f"the table of {len(texts)} vectors cannot be kept in {root}, no part of it is left "
            f"there: {error.strerror or error}",
        ) from error
    return open_table(root / key, whole, built=built)


def _build(
    folder: Path, encode: Encode, texts: Sequence[str], identity: Mapping[str, Any], progress: bool
) -> None:
    part = folder.with_name(f"{folder.name}.part")
    try:
        write_table(part, encode, texts, identity, progress)
        os.replace(part, folder)
    except (OSError, TypeError, ValueError, LookupError):
        # Texts or model will not do. What a Ctrl-C or a lack of memory leaves is gone on with.
        shutil.rmtree(part, ignore_errors=True)
        raise


def cache_folder() -> Path:
    """Return the folder tables are kept in."""
    if os.environ.get("SOFTNCE_CACHE"):
        return Path(os.environ["SOFTNCE_CACHE"]) / "teachers"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "softnce_ext" / "teachers"


def model_hash(model: Any) -> str:
    """Return a hash of a SentenceTransformer: weights, modules, length, tokenizer and prompts.

    Of a module that parses code, what reads it too: another grammar gives other vectors.
    """
    import torch

    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}\0{weight.dtype}\0{list(weight.shape)}\0".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    modules = [_module_state(each) for each in model.modules()]
    settings = [modules, model.max_seq_length, tokenizer_state(model.tokenizer)]
    default = model.default_prompt_name
    # An empty prompt counts where there is a default one, which it takes the place of.
    prompts = {name: prompt for name, prompt in model.prompts.items() if prompt or default}
    settings += [prompts, default, model.truncate_dim]
    settings += [each.reading for each in model if hasattr(each, "reading")]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


# Of a transformer's config what does not decide its vectors, is in the weights, or training sets.
_NOT_HASHED = ("architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")


def _module_state(module: Any) -> list[Any]:
    """Return a module's kind and settings, also those of a transformer, as JSON values."""
    state: list[Any] = [type(module).__name__]
    if hasattr(module, "get_config_dict"):
        state.append(module.get_config_dict())
    config: Any = getattr(module, "config", None)
    if hasattr(config, "to_dict"):
        found = {name: v for name, v in config.to_dict().items() if name not in _NOT_HASHED}
        state.append({name: v for name, v in found.items() if not name.startswith("_")})
    return state
