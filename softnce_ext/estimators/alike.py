"""Whether two models are alike: whether one reads what was made for the other, has its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..encoders.load import is_static
from ..encoders.tokenizer_state import pieces_state

_SIDES = ("query", "document")


def other_reading(teacher: Any, student: Any) -> str:
    """Return in what a teacher reads a text otherwise than the student, "" where in nothing.

    Where it does, it would take the student's features for another text, without an error.
    """
    theirs, own = _reading(teacher), _reading(student)
    names = [*theirs, *(name for name in own if name not in theirs)]
    return next((name for name in names if theirs.get(name) != own.get(name)), "")


def check_start(teacher: Any, student: Any) -> None:
    """Refuse a teacher whose weights would mean something else to the student.

    Raises:
        ValueError: They are of different shapes, or of other word pieces.
    """
    given, wanted = teacher.state_dict(), student.state_dict()
    other = {
        name
        for name in given.keys() | wanted.keys()
        if name not in given or name not in wanted or given[name].shape != wanted[name].shape
    }
    if other:
        raise ValueError(
            "init_student_from_teacher needs a teacher of the student's architecture, "
            f"{len(other)} weights differ in name or shape, {min(other)} among them"
        )
    theirs, own = (model.tokenizer.get_vocab() for model in (teacher, student))
    if theirs != own:
        changed = sum(own.get(piece) != number for piece, number in theirs.items())
        raise ValueError(
            "init_student_from_teacher needs a teacher of the student's tokenizer, "
            f"{changed:,} of the teacher's {len(theirs):,} word pieces have another id in it"
        )


def copy_weights(teacher: Any, student: Any) -> None:
    """Give the student the teacher's weights.

    Raises:
        ValueError: As in `check_start`.
    """
    check_start(teacher, student)
    student.load_state_dict(teacher.state_dict())


def _reading(model: Any) -> Mapping[str, Any]:
    """Return all that decides the features of a text."""
    first = model[0]
    options = dict(first.get_config_dict()) if hasattr(first, "kind") else {}
    options.pop("remove_padding", None)  # changes how they are computed on
    length = first.tokenizer.truncation if is_static(model) else model.max_seq_length
    return {
        "tokenizer": pieces_state(model.tokenizer),
        "kind": getattr(first, "kind", None),
        "max_seq_length": length,
        **options,
        "prompt": [model.prompts.get(side) or "" for side in _SIDES],
    }
