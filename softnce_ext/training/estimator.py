"""The estimator of a run: BM25, or an encoder whose vectors of the training texts are made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..encoders.saved import load_encoder
from ..estimators.bm25 import (
    InBatchBM25,
    average_length,
    model_special_ids,
    published_special_ids,
)
from ..estimators.encoder import SimCSEEstimator, TeacherEstimator
from ..estimators.frozen import check_unit_vectors
from .model import remember_codes, texts_of
from .settings import UNWEIGHTED, TrainSettings
from .simcse import SIMCSE_MODEL, SIMCSE_SETTINGS, train_simcse
from .trainer import TrainingRun

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.pairs import Pair


class Teacher(NamedTuple):
    """A trained encoder and how often it wants a function's name before its code."""

    model: SentenceTransformer
    name_boost: int


def needs_twin(settings: TrainSettings) -> bool:
    """Return whether the teacher is a model trained with InfoNCE in the same run."""
    return (
        settings.loss not in UNWEIGHTED
        and settings.estimator == "trained"
        and settings.teacher is None
        and (settings.teacher_mode == "frozen" or settings.init_student_from_teacher)
    )


def check_teacher(settings: TrainSettings, model: SentenceTransformer) -> None:
    """Refuse, before a twin is trained, what its vectors would be refused for.

    Raises:
        ValueError: Its vectors have length 1, and no temperature is given.
    """
    if needs_twin(settings) and settings.temperature is None:
        check_unit_vectors(model)


def find_teacher(
    settings: TrainSettings, pairs: Sequence[Pair], twin: SentenceTransformer | None, progress: bool
) -> tuple[Teacher | None, TrainingRun | None]:
    """Return the encoder behind the estimator, if it has one, and how its training went, if here.

    Args:
        settings: Resolved settings.
        pairs: The training pairs.
        twin: The model that was trained with InfoNCE, where `needs_twin`.
        progress: Show progress on stderr.

    Raises:
        FileNotFoundError: There is no such model.
    """
    boost = settings.name_boost or 0
    if settings.loss in UNWEIGHTED or settings.estimator not in ("simcse", "trained"):
        return None, None
    if settings.teacher is not None:
        model, told = load_encoder(settings.teacher)
        if told.form != settings.form and getattr(model[0], "kind", None) is not None:
            raise ValueError(
                f"teacher must read code as the model does, as {settings.form}, got "
                f"{settings.teacher}, which reads {told.form} (see form)"
            )
        return Teacher(model, told.name_boost), None
    if settings.estimator == "trained":
        return None if twin is None else Teacher(twin, boost), None
    start, _ = load_encoder(SIMCSE_MODEL)
    queries = [pair.query for pair in pairs]
    how = SIMCSE_SETTINGS[settings.simcse_settings]
    model, run = train_simcse(start, queries, how, progress=progress)
    return Teacher(model, boost), run


def make_estimator(
    settings: TrainSettings,
    student: SentenceTransformer,
    pairs: Sequence[Pair],
    teacher: Teacher | None,
    *,
    progress: bool = True,
) -> tuple[Any, dict[str, Any]]:
    """Return the estimator, None for a loss without one, and what its tables cost, by side.

    Raises:
        ValueError: Settings, student and teacher do not go together.
        OSError: A table cannot be kept.
    """
    if settings.loss in UNWEIGHTED:
        return None, {}
    if settings.estimator == "bm25":
        return _bm25(settings, student, pairs), {}
    queries, codes = texts_of(pairs, teacher.name_boost if teacher is not None else 0)
    options = {"dtype": settings.teacher_dtype, "progress": progress}
    if settings.estimator == "simcse":
        assert teacher is not None
        length = settings.query_length if settings.simcse_mode == "reference" else None
        simcse = SimCSEEstimator(teacher.model, mode=settings.simcse_mode, length=length)
        return simcse, {"query": _cost(simcse.cache(queries, **options))}
    trained = TeacherEstimator(
        None if teacher is None else teacher.model,
        mode=settings.teacher_mode,
        init_student_from_teacher=settings.init_student_from_teacher,
    )
    if settings.teacher_mode == "online":
        return trained, {}
    assert teacher is not None
    if settings.temperature is None:
        check_unit_vectors(teacher.model)
    remember_codes(teacher.model, codes, progress=progress)
    tables = trained.cache(queries, codes, **options)
    return trained, dict(zip(("query", "code"), map(_cost, tables), strict=True))


def _bm25(settings: TrainSettings, student: SentenceTransformer, pairs: Sequence[Pair]) -> Any:
    options: dict[str, Any] = {
        "sides": settings.bm25_sides,
        "temperature": settings.bm25_temperature,
    }
    if settings.bm25_rules == "batch":
        return InBatchBM25(model_special_ids(student), **options)
    # Documents of the sides "text-code" and "code-code" are codes.
    side = int(settings.bm25_sides != "text-text")
    texts = texts_of(pairs, settings.name_boost or 0)[side]
    length = average_length(student, texts, ("query", "document")[side])
    return InBatchBM25(published_special_ids(student.tokenizer), avgdl=length, **options)


def _cost(table: Any) -> dict[str, Any]:
    return {
        "rows": len(table),
        "built": table.built,
        "seconds": table.seconds,
        "megabytes": table.megabytes,
    }
