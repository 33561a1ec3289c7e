"""What is written down of every run beside its settings: versions, data, and what data overlap."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from typing import Any

from .. import __version__
from ..data.dataflow.languages import language_named
from ..data.pairs import pair_hash
from ..data.split import Split
from ..encoders.saved import trained_pairs
from . import ranks
from .settings import TrainSettings

_HASHED = {"data": "other data", "pairs": "other training pairs"}
_HASHED |= {"start": "other weights to start from", "teacher": "another teacher"}
LIBRARIES = ("torch", "sentence-transformers", "transformers", "tokenizers", "numpy")


def library_versions(model: Any = None) -> dict[str, str]:
    """Return the versions of what decides a run's figures.

    Args:
        model: What is trained; of one that reads data flow its grammar is named too.
    """
    names = list(LIBRARIES)
    language = None if model is None else getattr(model[0], "language", None)
    if language is not None:
        names += ["tree-sitter", language_named(language).package.replace("_", "-")]
    found = {name: version(name) for name in names}
    return {"softnce_ext": __version__, "python": platform.python_version(), **found}


def data_hash(split: Split) -> str:
    """Return a hash of a split's pairs, whatever their order within its parts."""
    digest = hashlib.sha256()
    for name, pairs in split.parts().items():
        digest.update(f"{name}\0{' '.join(sorted(map(pair_hash, pairs)))}\0".encode())
    return digest.hexdigest()


def run_identity(
    data: str, settings: dict[str, Any], versions: dict[str, str], model: Any
) -> dict[str, Any]:
    """Return what decides a run's result, as JSON values: all but the weights it starts from.

    Args:
        data: The hash of the split's pairs.
        settings: All that count.
        versions: Those of the libraries.
        model: What is trained.
    """
    settings = {name: value for name, value in settings.items() if name != "output"}
    told = {"data": data, "settings": settings, "versions": versions}
    return {**told, "ranks": ranks.count(), "device": model.device.type}


def difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """Return in words what another run had, where it differs from ours first; "" for nowhere."""
    for name in {**ours, **theirs}:
        there, here = theirs.get(name), ours.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            if found := difference(there, here):
                return found
        elif there != here:
            return f"had {_HASHED.get(name) or f'{name} {there}, got {here}'}"
    return ""


def trained_before(settings: TrainSettings) -> set[str]:
    """Return the hashes of the pairs that what a run starts from was trained on.

    Raises:
        ValueError: As `trained_pairs`.
    """
    names = [settings.init, None if settings.is_from_scratch else settings.model]
    if settings.init_student_from_teacher:
        names.append(settings.teacher)
    return set[str]().union(*(trained_pairs(name) for name in names if name is not None))


def split_summary(split: Split, before: set[str]) -> dict[str, Any]:
    """Return a split's summary, with the number of test pairs that the model was trained on.

    Args:
        split: What it is trained on now.
        before: From `trained_before`.
    """
    trained = before.union(map(pair_hash, split.train))
    return {**split.summary, "trained_on": sum(pair_hash(pair) in trained for pair in split.test)}
