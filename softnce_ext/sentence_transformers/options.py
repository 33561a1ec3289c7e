"""The arguments of the losses: what they may be, and what stands for None."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import Tensor, nn

from .. import values
from ..estimators.bm25 import InBatchBM25, model_special_ids
from ..estimators.similarity import Similarity
from ..presets import PRESETS

Estimator = Callable[[Sequence[dict[str, Any]]], Similarity]

# The paper's alpha is for batches of 32: one false negative among a row's 31.
PUBLISHED_RATE = 1 / 31

CITATION = """
@inproceedings{li2023rethinking,
    title={Rethinking Negative Pairs in Code Search},
    author={Haochen Li and Xin Zhou and Luu Anh Tuan and Chunyan Miao},
    booktitle={Proceedings of EMNLP 2023},
    year={2023},
    eprint={2310.08069},
    archivePrefix={arXiv},
}
"""


def check_model(model: Any) -> None:
    """Refuse what is no model.

    Raises:
        TypeError: It is no module, such as a name or a path, or one that embeds no text by itself.
    """
    if isinstance(model, (str, os.PathLike)):
        raise TypeError(
            f"model must be a SentenceTransformer, got {os.fspath(model)!r}: load it with "
            "SentenceTransformer(...), and give the trainer the same one"
        )
    if not isinstance(model, nn.Module) or isinstance(model, CrossEncoder):
        raise TypeError(f"model must be a SentenceTransformer, got {type(model).__name__}")


def check_flags(**flags: Any) -> None:
    """Refuse words and numbers, which all but a few are true.

    Raises:
        TypeError: An argument is no bool.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def check_numbers(
    scale: float, alpha_scaling: str | None, false_negative_rate: float, impl: str
) -> None:
    """Refuse what no batch could make right.

    Raises:
        TypeError, ValueError: An argument is of another type or out of its range.
    """
    if isinstance(scale, Tensor):
        raise TypeError(
            f"scale must be a number, got {type(scale).__name__}: a learned one would be lost, "
            "since the trainer saves the model's weights and not the loss's"
        )
    values.check_number("scale", scale)
    values.check_options(impl=impl)
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    if alpha_scaling not in (None, "expected"):
        raise ValueError(f'alpha_scaling must be None or "expected", got {alpha_scaling!r}')
    values.check_number("false_negative_rate", false_negative_rate)
    if not 0 < false_negative_rate < 1:
        raise ValueError(f"false_negative_rate must be in (0, 1), got {false_negative_rate}")


def estimator_for(model: Any, estimator: str | Estimator | None) -> Estimator | None:
    """Return the estimator that is meant for a model.

    Raises:
        ValueError: It is a word, but no name of an estimator.
        TypeError: It is nothing that could be one, or "bm25" for a model without a tokenizer.
    """
    if estimator == "bm25":
        if not hasattr(model, "tokenizer"):
            raise TypeError(
                'model must be a SentenceTransformer with estimator "bm25", which asks its '
                f"tokenizer for special ids, got {type(model).__name__}"
            )
        return InBatchBM25(model_special_ids(model))
    if isinstance(estimator, str):
        raise ValueError(f'estimator must be "bm25", None or a function, got {estimator!r}')
    if isinstance(estimator, (int, float)):  # the second argument of the library's own losses
        raise TypeError(
            f'estimator must be "bm25", None or a function, got the number {estimator}: what '
            f"multiplies the scores is given by name, scale={estimator}"
        )
    if isinstance(estimator, SentenceTransformer):  # callable, but with one column's features
        raise TypeError(
            'estimator must be "bm25", None or a function, got a SentenceTransformer: '
            "softnce_ext.estimators.encoder.TeacherEstimator makes a teacher of it, "
            "SimCSEEstimator an encoder of queries"
        )
    if estimator is not None and not callable(estimator):
        kind = type(estimator).__name__
        raise TypeError(f'estimator must be "bm25", None or a function, got {kind}')
    return estimator


def weights_for(
    estimator: Estimator | None, given: Mapping[str, float | None], min_weight: float
) -> dict[str, Any]:
    """Return Eq. 4's numbers: those given, the paper's for the estimator in place of None.

    Raises:
        TypeError, ValueError: A number is none or out of its range, or one is missing.
    """
    preset = PRESETS.get(getattr(estimator, "preset", "bm25" if estimator is None else ""))
    missing = [name for name, value in given.items() if value is None]
    if missing and preset is None:
        raise ValueError(
            f"{', '.join(missing)} must be given with an estimator of your own, got None"
        )
    weights: dict[str, Any] = {
        name: getattr(preset, name) if value is None else value for name, value in given.items()
    }
    return values.check_options(**weights, min_weight=min_weight)


def expected_alpha(alpha: float, beta: float, negatives: int, rate: float) -> float:
    """Return alpha times the number of false negatives a row is expected to have, at least one.

    A row's shares of similarity sum to 1: k equally similar negatives have 1 / k each, and Eq. 4
    takes alpha / k off the weight of each. k times the alpha weakens each as it would one alone.

    Args:
        alpha: For one false negative a row.
        beta: The constant part of a weight.
        negatives: How many negatives a row has.
        rate: Which part of them is expected to be false.

    Returns:
        ``alpha * rate * negatives``, but at least alpha, and at most ``beta * negatives / 2`` where
        that is more: Eq. 4's normaliser stays at beta / 2 or above, and no weight is above 2.
    """
    return max(alpha, min(alpha * rate * negatives, 0.5 * beta * negatives))
