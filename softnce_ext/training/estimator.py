"""The estimator of a run: BM25, or an encoder whose vectors of the training texts are made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..encoders.saved import check_language, load_encoder
from ..estimators.alike import check_start
from ..estimators.bm25 import (
    InBatchBM25,
    average_length,
    model_special_ids,
    published_special_ids,
)
from ..estimators.encoder import SimCSEEstimator, TeacherEstimator
from ..estimators.frozen import check_unit_vectors
from ..estimators.space import Need, check_space
from . import simcse
from .before import (
    checkpoint_need,
    model_need,
    needs_twin,
    table_need,
    teacher_folder,
    told_cure,
)
from .checkpoint import Stage
from .model import remember_codes, texts_of
from .rules import WITH_TEMPERATURE
from .run import TrainingRun
from .settings import UNWEIGHTED, TrainSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.pairs import Pair


class Teacher(NamedTuple):
    """A trained encoder and how often it wants a function's name before its code."""

    model: SentenceTransformer
    name_boost: int


def check_teacher(settings: TrainSettings, model: SentenceTransformer) -> None:
    """Refuse, before a twin is trained, what its vectors would be refused for.

    Raises:
        ValueError: Its vectors have length 1, and no temperature is given.
    """
    if needs_twin(settings) or settings.teacher_mode != "frozen":  # the student's, or like them
        _check_temperature(settings, model, settings.scoring == "cosine")


def find_teacher(
    settings: TrainSettings,
    pairs: Sequence[Pair],
    twin: SentenceTransformer | None,
    progress: bool,
    room: Sequence[Need] = (),
    stage: Stage | None = None,
) -> tuple[Teacher | None, TrainingRun | None]:
    """Return the encoder behind the estimator, if it has one, and how its training went, if here.

    Args:
        settings: Resolved settings.
        pairs: The training pairs.
        twin: The model that was trained with InfoNCE, where `needs_twin`.
        progress: Show progress on stderr.
        room: What else the run will write.
        stage: The checkpoints of a SimCSE that is trained here.

    Raises:
        FileNotFoundError: There is no such model.
        OSError: A disk is too small for `room` and a teacher trained here with its vectors.
    """
    boost = settings.name_boost or 0
    if settings.loss in UNWEIGHTED or settings.estimator not in ("simcse", "trained"):
        return None, None
    if settings.teacher is not None:
        with told_cure("--teacher"):
            model, told = load_encoder(settings.teacher)
        if told.form != settings.form and getattr(model[0], "kind", None) is not None:
            raise ValueError(
                f"teacher must read code as the model does, as {settings.form}, got "
                f"{settings.teacher}, which reads {told.form} (see form)"
            )
        if settings.estimator == "trained" and settings.teacher_mode == "frozen":  # it reads code
            languages = {pair.language for pair in pairs}
            check_language(model, languages, f"teacher {settings.teacher}")
        return Teacher(model, told.name_boost), None
    if settings.estimator == "trained":
        return None if twin is None else Teacher(twin, boost), None
    with told_cure("--teacher"):
        start, _ = load_encoder(simcse.SIMCSE_MODEL)
    kept = model_need(settings, start, len(pairs), teacher_folder(settings))
    vectors = table_need(settings, start, len(pairs))
    check_space([*room, kept, vectors, *checkpoint_need(settings, start, "simcse")])
    queries = [pair.query for pair in pairs]
    how = simcse_settings(settings)
    model, run = simcse.train_simcse(start, queries, how, progress=progress, stage=stage)
    return Teacher(model, boost), run


def simcse_settings(settings: TrainSettings) -> simcse.SimCSESettings:
    """Return how a SimCSE teacher is trained within a run of these settings, which are resolved."""
    assert settings.seed is not None
    chosen = simcse.SIMCSE_SETTINGS[settings.simcse_settings]
    return chosen._replace(
        max_steps=settings.max_steps, precision=settings.precision, seed=settings.seed
    )


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
        between = SimCSEEstimator(teacher.model, mode=settings.simcse_mode, length=length)
        return between, {"query": _cost(between.cache(queries, **options))}
    online = settings.teacher_mode != "frozen"
    trained = TeacherEstimator(
        None if teacher is None else teacher.model,
        mode="online" if online else "frozen",
        init_student_from_teacher=settings.init_student_from_teacher,
        second_pass=settings.teacher_mode == "online-second-pass",
        normalize=settings.scoring == "cosine" if online else None,
    )
    if online:
        return trained, {}
    assert teacher is not None
    if settings.init_student_from_teacher:
        check_start(teacher.model, student)  # told before the tables are made
    _check_temperature(settings, teacher.model, trained.normalize)
    remember_codes(teacher.model, codes, progress=progress)
    tables = trained.cache(queries, codes, **options)
    return trained, dict(zip(("query", "code"), map(_cost, tables), strict=True))


def _check_temperature(
    settings: TrainSettings, model: SentenceTransformer, by_cosine: bool
) -> None:
    if settings.loss in WITH_TEMPERATURE and settings.temperature is None:
        check_unit_vectors(model, by_cosine=by_cosine)


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
