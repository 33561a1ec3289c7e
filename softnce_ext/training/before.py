"""What is checked before a run begins its long work: that its models are there, and disk space."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..encoders.load import BACKBONES, import_class
from ..encoders.saved import check_model_name
from ..estimators.cache import cache_folder
from ..estimators.space import Need, check_space
from . import simcse
from .checkpoint import RUN_FILE
from .output import check_output
from .settings import STATIC, UNWEIGHTED, TrainSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Beside weights a folder has a tokenizer, and a line for each pair and each step.
_TOKENIZER_BYTES = 8 << 20
_PAIR_BYTES, _STEP_BYTES = 32, 256


def needs_twin(settings: TrainSettings) -> bool:
    """Return whether the teacher is a model trained with InfoNCE in the same run."""
    return (
        settings.loss not in UNWEIGHTED
        and settings.estimator == "trained"
        and settings.teacher is None
        and (settings.teacher_mode == "frozen" or settings.init_student_from_teacher)
    )


def needs_simcse(settings: TrainSettings) -> bool:
    """Return whether the teacher is a SimCSE encoder trained in the same run."""
    return (
        settings.loss not in UNWEIGHTED
        and settings.estimator == "simcse"
        and settings.teacher is None
    )


def teacher_folder(settings: TrainSettings) -> Path:
    """Return where a teacher that a run trains first is kept."""
    return Path(f"{settings.output.rstrip('/')}-teacher")


def checkpoint_folder(settings: TrainSettings) -> Path:
    """Return where a run's checkpoints are kept."""
    return Path(f"{settings.output.rstrip('/')}-checkpoint")


def check_folders(settings: TrainSettings) -> None:
    """Refuse folders that are not ours to replace: the output's, the teacher's, the checkpoints'.

    Raises:
        ValueError, OSError: As `check_output`.
    """
    check_output(Path(settings.output))
    if needs_twin(settings) or needs_simcse(settings):
        check_output(teacher_folder(settings))
    if settings.resolved(static=settings.is_from_scratch).checkpoints or settings.resume:
        check_output(checkpoint_folder(settings), RUN_FILE, "checkpoints")


def check_models(settings: TrainSettings) -> None:
    """Refuse models that cannot be loaded, before data are read.

    Raises:
        FileNotFoundError: A model is not there; the message names the flag that mends it.
        ValueError: The teacher is a table.
    """
    if settings.teacher is not None and (Path(settings.teacher) / "table.json").is_file():
        raise ValueError(
            f"teacher must be a model, got {settings.teacher}, a table of one's vectors, which is "
            "found without being named where model and texts are the same"
        )
    for flag, name in _models(settings):
        with told_cure(flag):
            check_model_name(name)


@contextmanager
def told_cure(flag: str) -> Iterator[None]:
    """Add to the error of a model that is not there which flag names another."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; {flag} PATH names one on this machine") from error


def _models(settings: TrainSettings) -> Iterator[tuple[str, str]]:
    """Yield what will be loaded, each with its flag."""
    if settings.model not in (None, STATIC):
        yield "--model", str(settings.model)
    elif settings.loss == "simcse":
        yield "--model", simcse.SIMCSE_MODEL
    elif settings.preset is not None:
        yield "--model", import_class(BACKBONES[settings.preset]).default_source
    if settings.init is not None:
        yield "--init", settings.init
    if settings.teacher is not None:
        yield "--teacher", settings.teacher
    elif needs_simcse(settings):
        yield "--teacher", simcse.SIMCSE_MODEL


def model_need(
    settings: TrainSettings, model: SentenceTransformer, rows: int, folder: Path | None = None
) -> Need:
    """Return the room that saving a model takes, on top of what is there already."""
    weights = {each.data_ptr(): each.nbytes for each in model.state_dict().values()}
    steps = settings.max_steps or (settings.epochs or 1) * (rows // (settings.batch_size or 1) + 1)
    size = sum(weights.values()) + _TOKENIZER_BYTES + _PAIR_BYTES * rows + _STEP_BYTES * steps
    what = "the model" if folder is None else "the teacher that is trained first"
    return Need(what, folder or Path(settings.output), size)


def checkpoint_need(
    settings: TrainSettings, model: SentenceTransformer, *stages: str
) -> list[Need]:
    """Return the room that checkpoints take, on top of what is there already.

    One has the model, its best weights and the optimizer's two moments. There are two of a training
    that goes on; of one that has ended there is one, and the kept weights.

    Args:
        settings: Resolved settings.
        model: What is trained.
        *stages: The trainings; none for those of the model and its twin.
    """
    if not settings.checkpoints:
        return []
    if not stages:
        has_twin = settings.compare or needs_twin(settings)
        stages = (settings.loss, *(("infonce",) if has_twin else ()))
    folder = checkpoint_folder(settings)
    files = (path for stage in stages for path in (folder / stage).glob("checkpoint-*/*"))
    there = sum(path.stat().st_size for path in files)
    weights = {each.data_ptr(): each.nbytes for each in model.state_dict().values()}
    size = (8 + 5 * (len(stages) - 1)) * sum(weights.values())
    return [Need("the checkpoints", folder, max(0, size - there))]


def table_need(settings: TrainSettings, model: SentenceTransformer, texts: int) -> Need:
    """Return the room that the table of a teacher's vectors takes."""
    width = model.get_embedding_dimension()
    assert width is not None
    number = 2 if settings.teacher_dtype == "float16" else 4
    return Need("the teacher's vectors", cache_folder(), texts * width * number)


def check_room(settings: TrainSettings, model: SentenceTransformer, rows: int) -> None:
    """Refuse a disk that is too small for what a run will write.

    Args:
        settings: Resolved settings.
        model: What is trained.
        rows: Number of training pairs.

    Raises:
        OSError: As `check_space`.
    """
    needs = [model_need(settings, model, rows), *checkpoint_need(settings, model)]
    if needs_twin(settings):  # a copy of the model
        needs.append(model_need(settings, model, rows, teacher_folder(settings)))
        if settings.teacher_mode == "frozen":
            needs.append(table_need(settings, model, 2 * rows))
    check_space(needs)
