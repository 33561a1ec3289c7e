"""Whether two models are alike: whether one may read what was made for the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..encoders.load import is_static

_SIDES = ("query", "document")


def other_reading(teacher: Any, student: Any) -> str:
    """Return in what a teacher reads a text otherwise than the student, "" where in nothing.

    Where it does, it would take the student's features for another text, without an error.
    """
    theirs, own = _reading(teacher), _reading(student)
    names = [*theirs, *(name for name in own if name not in theirs)]
    return next((name for name in names if theirs.get(name) != own.get(name)), "")


def _reading(model: Any) -> Mapping[str, Any]:
    """Return all that decides the features of a text."""
    first = model[0]
    options = dict(first.get_config_dict()) if hasattr(first, "kind") else {}
    options.pop("remove_padding", None)  # changes how they are computed on
    length = first.tokenizer.truncation if is_static(model) else model.max_seq_length
    return {
        "tokenizer": model.tokenizer.get_vocab(),
        "kind": getattr(first, "kind", None),
        "max_seq_length": length,
        **options,
        "prompt": [model.prompts.get(side) or "" for side in _SIDES],
    }
