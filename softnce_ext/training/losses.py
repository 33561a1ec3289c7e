"""The losses a run may name, as losses of the trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import functional
from ..estimators.similarity import Groups, Similarity
from ..sentence_transformers import PUBLISHED_RATE, SoftInfoNCELoss
from . import ranks
from .rules import WITH_TEMPERATURE
from .settings import WEIGHTED, TrainSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# What each takes beside query, code and similarity: from the loss's weights or the settings.
_FAMILY: dict[str, tuple[Callable[..., Tensor], Callable[[TrainSettings], dict[str, Any]]]] = {
    "bce": (functional.bce, lambda settings: {}),
    "weighted-infonce": (functional.weighted_info_nce, lambda settings: {}),
    "kl": (
        functional.kl_regularized_info_nce,
        lambda settings: {
            "info_nce_weight": settings.info_nce_weight,
            "kl_weight": settings.kl_weight,
        },
    ),
    "top-k": (functional.top_k_cancellation, lambda settings: {"k": settings.top_k}),
    "threshold": (functional.threshold_cancellation, lambda settings: {"ratio": settings.ratio}),
}


class FamilyLoss(SoftInfoNCELoss):
    """One of the paper's other losses, with SoftInfoNCELoss's estimators, scoring and groups.

    Args:
        model: The model to train.
        function: Of `softnce_ext.functional`.
        rule: Its own arguments beside those that all have.
        with_temperature: Whether it takes the softmax of the similarities.
        estimator: As in `SoftInfoNCELoss`, but not None.
        options: As in `SoftInfoNCELoss`.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), sections 4.3 and 4.4.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        function: Callable[..., Tensor],
        rule: dict[str, Any],
        *,
        with_temperature: bool,
        estimator: Any,
        **options: Any,
    ) -> None:
        super().__init__(model, estimator, **options)
        if self.exclude_hard_negatives:  # what it adds to a row is a log-sum-exp's
            raise ValueError(
                f"exclude_hard_negatives is of soft_info_nce, got True with {function.__name__}"
            )
        self.function = function
        self.rule = dict(rule)
        if with_temperature:
            self.rule["temperature"] = self.weights["temperature"]

    def get_config_dict(self) -> dict[str, Any]:
        """Return the arguments, for the model card."""
        told = {**super().get_config_dict(), "loss": self.function.__name__}
        return {k: v for k, v in told.items() if k not in self.weights} | self.rule

    def fused_loss(
        self,
        query: Tensor,
        code: Tensor,
        similarity: Similarity | None,
        groups: Groups | None,
        *_: Any,
        **place: Any,
    ) -> Tensor:
        """Return the loss of vectors that are ready to be scored."""
        common = {"scale": self.scale, "groups": groups, "impl": self.impl}
        return self.function(query, code, similarity, **self.rule, **common, **place)


def make_loss(
    model: SentenceTransformer, settings: TrainSettings, loss: str, estimator: Any = "bm25"
) -> SoftInfoNCELoss:
    """Return a loss as resolved settings want it.

    Args:
        model: The model to train.
        settings: Resolved settings.
        loss: One of `settings.LOSSES`; another than the settings' own for a twin.
        estimator: As in `SoftInfoNCELoss`; not used by "infonce".

    Raises:
        ValueError: As `SoftInfoNCELoss`.
    """
    assert settings.scale is not None
    options: dict[str, Any] = {
        "scale": settings.scale,
        "normalize": settings.scoring != "dot",
        "alpha": settings.alpha,
        "beta": settings.beta,
        "temperature": settings.temperature,
        "gather_across_devices": ranks.count() > 1,
        "mask_duplicates": settings.mask_duplicates is not False,
    }
    if loss == "infonce":
        return SoftInfoNCELoss(model, estimator=None, **options)
    if loss == WEIGHTED:
        scaling = None if settings.alpha_scaling == "none" else settings.alpha_scaling
        rate = settings.false_negative_rate
        return SoftInfoNCELoss(
            model,
            estimator=estimator,
            min_weight=settings.min_weight,
            alpha_scaling=scaling,
            false_negative_rate=PUBLISHED_RATE if rate is None else rate,
            **options,
        )
    if loss not in WITH_TEMPERATURE:
        options["temperature"] = 1.0  # it is not used, but the estimator asks for one
    function, rule = _FAMILY[loss]
    return FamilyLoss(
        model,
        function,
        rule(settings),
        with_temperature=loss in WITH_TEMPERATURE,
        estimator=estimator,
        **options,
    )
