"""Which settings go together, and which of them count for nothing beside the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .settings import TrainSettings

STATIC = "static"  # the model that is built here, from nothing
WEIGHTED = "soft-infonce"
UNWEIGHTED = ("infonce", "simcse")  # need no estimator
LOSSES = (WEIGHTED, *UNWEIGHTED, "bce", "weighted-infonce", "kl", "top-k", "threshold")
WITH_TEMPERATURE = (WEIGHTED, "bce", "weighted-infonce", "kl")  # take a softmax of similarities

_OF_ESTIMATORS = {
    "bm25": ("bm25_sides", "bm25_temperature", "bm25_rules"),
    "simcse": ("simcse_mode", "simcse_settings"),
    "trained": ("teacher_mode", "init_student_from_teacher"),
}
_OF_TEACHERS = ("teacher", "teacher_dtype")
_OF_RANKING = ("form", "name_boost", "scoring", "scale", "warmup_epochs", "select", "compare")


def conflict(given: TrainSettings) -> str:
    """Return the first rule that settings break, in a sentence; "" where they go together."""
    for wrong, rule in (
        (
            given.loss not in UNWEIGHTED and given.estimator == "none",
            f"estimator must be bm25, simcse or trained with loss {given.loss}, got none: "
            "loss infonce needs no estimator",
        ),
        (
            given.init is not None and not given.is_from_scratch,
            f"init is for model {STATIC} alone, got model {given.encoder}",
        ),
        (
            given.preset is not None and given.model == STATIC,
            f"preset {given.preset} needs its backbone, got model {STATIC}",
        ),
        (
            given.teacher is not None and given.estimator not in ("simcse", "trained"),
            f"teacher is for estimator simcse or trained, got estimator {given.estimator}",
        ),
        (
            given.loss in UNWEIGHTED
            and (given.teacher is not None or given.init_student_from_teacher),
            f"teacher is for losses with an estimator, got loss {given.loss}",
        ),
        (
            given.teacher_mode != "frozen"
            and given.teacher is not None
            and not given.init_student_from_teacher,
            f"teacher_mode {given.teacher_mode} takes the student itself, and a teacher only with "
            f"init_student_from_teacher, got teacher {given.teacher}",
        ),
        (
            given.loss == "simcse" and given.model == STATIC,
            f"loss simcse needs a transformer with dropout, got model {STATIC}",
        ),
        (
            given.simcse_mode == "reference" and given.preset is None,
            "simcse_mode reference pads to a preset's query_length, got no preset",
        ),
        (
            given.estimator != "trained"
            and (given.teacher_mode != "frozen" or given.init_student_from_teacher),
            "teacher_mode and init_student_from_teacher are for estimator trained, "
            f"got estimator {given.estimator}",
        ),
        (
            given.query_length is not None and given.preset is None,
            f"query_length is for presets, which cut queries apart from code, got model "
            f"{given.encoder}",
        ),
        (
            given.loss == "simcse" and given.preset is not None,
            f"preset is for code search, got preset {given.preset} with loss simcse: model names "
            "what loss simcse trains",
        ),
        (
            given.loss == "kl" and given.info_nce_weight == given.kl_weight == 0,
            "info_nce_weight or kl_weight must be above 0 with loss kl, got 0 for both",
        ),
        (
            given.loss == "top-k"
            and given.batch_size is not None
            and given.top_k >= given.batch_size - 1,
            f"top_k must leave a negative in a batch of {given.batch_size}, got {given.top_k}",
        ),
    ):
        if wrong:
            return rule
    return ""


def unused(given: TrainSettings) -> dict[str, str]:
    """Return the settings that count for nothing, each with what it is not used by."""
    found: dict[str, str] = {}

    def only(is_used: bool, reason: str, *names: str) -> None:
        for name in () if is_used else names:
            found.setdefault(name, reason)

    loss, estimator = f"loss {given.loss}", f"estimator {given.estimator}"
    weighs = given.loss not in UNWEIGHTED
    only(given.loss != "simcse", loss, *_OF_RANKING, "init", "vocab_size", "dimension")
    only(given.is_from_scratch, f"model {given.encoder}", "vocab_size", "dimension")
    only(given.loss == WEIGHTED, loss, "alpha", "beta", "min_weight", "alpha_scaling")
    only(given.loss == WEIGHTED, loss, "false_negative_rate")
    only(given.alpha_scaling == "expected", "alpha_scaling none", "false_negative_rate")
    only(given.loss in WITH_TEMPERATURE, loss, "temperature", "bm25_temperature")
    only(given.loss == "kl", loss, "info_nce_weight", "kl_weight")
    only(given.loss == "top-k", loss, "top_k")
    only(given.loss == "threshold", loss, "ratio")
    only(weighs, loss, "estimator", *_OF_TEACHERS)
    for name, names in _OF_ESTIMATORS.items():
        only(weighs and given.estimator == name, estimator if weighs else loss, *names)
    if weighs:
        only(given.estimator in ("simcse", "trained"), estimator, *_OF_TEACHERS)
        mode = f"teacher_mode {given.teacher_mode}"
        only(given.teacher_mode == "frozen", mode, "teacher_dtype")
        only(given.teacher is None, f"teacher {given.teacher}", "simcse_settings")
    elif given.loss == "simcse":
        del found["simcse_settings"]
    return found
