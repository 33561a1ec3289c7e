"""Soft-InfoNCE as a loss of sentence-transformers, with weights from the batch's own texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import checks
from .estimators.bm25 import InBatchBM25, model_special_ids, token_ids
from .estimators.collate import model_features
from .estimators.duplicates import count_masked, duplicate_groups
from .estimators.similarity import (
    Groups,
    Similarity,
    check_similarity,
    compared_columns,
    low_weights,
    widen,
)
from .functional import soft_info_nce
from .presets import PRESETS

Estimator = Callable[[Sequence[dict[str, Any]]], Similarity]

# The paper's alpha is for batches of 32: one false negative among a row's 31.
PUBLISHED_RATE = 1 / 31


class SoftInfoNCELoss(nn.Module):
    """Soft-InfoNCE for `SentenceTransformerTrainer`: likely false negatives weigh less.

    The first column of the data set is the query, the second its code, further ones are negatives.
    With ``estimator=None`` it is InfoNCE: `MultipleNegativesRankingLoss` without the duplicates of
    the batch among the negatives.

    Example:
        >>> loss = SoftInfoNCELoss(model)
        >>> SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss).train()

    Args:
        model: The model to train.
        estimator: What tells how similar pairs are: "bm25" (queries against queries, by their
            token ids), None, one of `softnce_ext.estimators`, or a function of the batch's features
            (one dict per column) that returns what `softnce_ext.soft_info_nce` takes as
            `similarity`: float [N, K] with N <= K <= M, a pair of vectors [N, Dt] and [K, Dt], or
            BM25Factors. Codes past column K weigh 1.
        scale: Multiplies the scores; 1 / temperature of the scores.
        alpha: How strongly a similar negative is weakened; None: the paper's value for the
            estimator.
        beta: The constant part of a weight; None: the paper's value for the estimator.
        temperature: Of the softmax over similarities; None: the paper's value for the estimator.
        min_weight: Lower bound of a weight.
        alpha_scaling: None, or "expected": alpha is for one false negative a row, and is multiplied
            by their expected number where that is larger (`expected_alpha`).
        false_negative_rate: With "expected": which part of a row's negatives are false ones. The
            default makes a weight depend on how many times the row's average a negative's share of
            the similarity is, as it does in the paper's batches of 32, whatever the batch's size.
        normalize: Score by cosine; False scores by dot product (then set `scale` to 1).
        mask_duplicates: Leave codes out of a query's negatives that repeat its own code, or that
            belong to the same query. Told from the token ids.
        impl: As in `softnce_ext.soft_info_nce`.

    Raises:
        TypeError, ValueError: A number is none or out of its range, `estimator` is no name of one,
            or it is a function and alpha, beta or temperature is missing. What an estimator refuses
            of the model.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023).
    """

    def __init__(
        self,
        model: Any,
        estimator: str | Estimator | None = "bm25",
        *,
        scale: float = 20.0,
        alpha: float | None = None,
        beta: float | None = None,
        temperature: float | None = None,
        min_weight: float = 0.1,
        alpha_scaling: str | None = None,
        false_negative_rate: float = PUBLISHED_RATE,
        normalize: bool = True,
        mask_duplicates: bool = True,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        checks.check_number("scale", scale)
        checks.check_choice("impl", impl, ("auto", "native", "torch"))
        if not scale > 0:
            raise ValueError(f"scale must be > 0, got {scale}")
        if alpha_scaling not in (None, "expected"):
            raise ValueError(f'alpha_scaling must be None or "expected", got {alpha_scaling!r}')
        checks.check_number("false_negative_rate", false_negative_rate)
        if not 0 < false_negative_rate < 1:
            raise ValueError(f"false_negative_rate must be in (0, 1), got {false_negative_rate}")
        if estimator == "bm25":
            estimator = InBatchBM25(model_special_ids(model))
        elif isinstance(estimator, str):
            raise ValueError(f'estimator must be "bm25", None or a function, got {estimator!r}')
        given = {"alpha": alpha, "beta": beta, "temperature": temperature}
        preset = PRESETS.get(getattr(estimator, "preset", "bm25" if estimator is None else ""))
        missing = [name for name, value in given.items() if value is None]
        if missing and preset is None:
            raise ValueError(
                f"{', '.join(missing)} must be given with an estimator of your own, got None"
            )
        attach = getattr(estimator, "attach", None)
        if attach is not None:
            attach(model, temperature=temperature)
        self.model = model
        self.estimator: Estimator | None
        # Not as an attribute of the module: the trainer would train an estimator that is one.
        self.__dict__["estimator"] = estimator
        self.scale = scale
        self.weights: dict[str, Any] = {
            name: getattr(preset, name) if v is None else v for name, v in given.items()
        }
        self.weights["min_weight"] = min_weight
        checks.check_rule(**self.weights)
        self.alpha_scaling = alpha_scaling
        self.false_negative_rate = false_negative_rate
        self.normalize = normalize
        self.mask_duplicates = mask_duplicates
        self.impl = impl
        self._steps = 0
        self._sums: dict[str, Tensor | float] = {}

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch; `labels` are not used."""
        features = list(sentence_features)
        similarity, groups = None, None
        if self.estimator is not None and not self._takes_embeddings():
            with torch.no_grad():
                similarity = self.estimator(features)
        if self.mask_duplicates:
            groups = self._groups(features)
        embeddings = [
            self.model(model_features(column))["sentence_embedding"] for column in features
        ]
        return self.compute_loss_from_embeddings(
            embeddings, labels, similarity=similarity, groups=groups
        )

    def compute_loss_from_embeddings(
        self,
        embeddings: Sequence[Tensor],
        labels: Tensor | None = None,
        *,
        similarity: Similarity | None = None,
        groups: Groups | None = None,
    ) -> Tensor:
        """Return the loss of embeddings, one [N, D] per column.

        Args:
            embeddings: Of the queries, of their codes and of further codes.
            labels: Not used.
            similarity: What the estimator returns for the batch.
            groups: As in `softnce_ext.soft_info_nce`.

        Raises:
            ValueError: There are fewer than two columns, or the loss has an estimator and
                `similarity` is None.
        """
        if len(embeddings) < 2:
            raise ValueError(f"embeddings must hold at least 2 columns, got {len(embeddings)}")
        query, code = embeddings[0], torch.cat(list(embeddings[1:]))
        if self._takes_embeddings():
            online: Any = self.estimator
            similarity = online.from_embeddings(query, code)
        if self.estimator is not None and similarity is None:
            raise ValueError(
                "similarity must be given with the embeddings, since the estimator needs the "
                "texts, got None"
            )
        if self.normalize:
            query = nn.functional.normalize(query, dim=-1)
            code = nn.functional.normalize(code, dim=-1)
        if similarity is not None:
            check_similarity(similarity, len(query), len(code))
        self._steps += 1
        return self.fused_loss(query, code, similarity, groups)

    def fused_loss(
        self, query: Tensor, code: Tensor, similarity: Similarity | None, groups: Groups | None
    ) -> Tensor:
        """Return the loss of vectors that are ready to be scored."""
        rule = self.weights
        if similarity is not None:
            similarity = widen(similarity, len(code), rule["temperature"], groups)
            if self.alpha_scaling == "expected":
                negatives, rate = compared_columns(similarity) - 1, self.false_negative_rate
                alpha = expected_alpha(rule["alpha"], rule["beta"], negatives, rate)
                rule = {**rule, "alpha": alpha}
            self._add("low_weights", low_weights(similarity, groups, rule))
        return soft_info_nce(
            query,
            code,
            similarity,
            **rule,
            scale=self.scale,
            groups=groups,
            impl=self.impl,
        )

    def pop_statistics(self) -> dict[str, float]:
        """Return the means per step since the last call, and start anew.

        `low_weights` is how many negatives a row had with a weight below 0.5, `duplicates` how
        many (query, code) pairs of a batch were masked out. Of a batch of more than 1024 rows
        `low_weights` is told from the first 1024.
        """
        steps, sums = max(self._steps, 1), self._sums
        self._steps, self._sums = 0, {}
        return {name: float(total) / steps for name, total in sums.items()}

    def get_config_dict(self) -> dict[str, Any]:
        """Return the arguments, for the model card."""
        name = getattr(self.estimator, "__name__", type(self.estimator).__name__)
        scaling: dict[str, Any] = {}
        if self.alpha_scaling is not None:
            scaling["alpha_scaling"] = self.alpha_scaling
            scaling["false_negative_rate"] = self.false_negative_rate
        return {
            "estimator": None if self.estimator is None else name,
            "scale": self.scale,
            **self.weights,
            **scaling,
            "normalize": self.normalize,
            "mask_duplicates": self.mask_duplicates,
        }

    @property
    def citation(self) -> str:
        """BibTeX of the paper."""
        return """
@inproceedings{li2023rethinking,
    title={Rethinking Negative Pairs in Code Search},
    author={Haochen Li and Xin Zhou and Luu Anh Tuan and Chunyan Miao},
    booktitle={Proceedings of EMNLP 2023},
    year={2023},
    eprint={2310.08069},
    archivePrefix={arXiv},
}
"""

    def _groups(self, features: Sequence[dict[str, Any]]) -> Groups | None:
        """Number the duplicates of a batch; None where there are none."""
        query, code = duplicate_groups([token_ids(column) for column in features])
        masked = count_masked(query, code)
        self._add("duplicates", masked)
        if masked == 0:
            return None
        device = features[0]["input_ids"].device
        return torch.from_numpy(query).to(device), torch.from_numpy(code).to(device)

    def _takes_embeddings(self) -> bool:
        """Tell whether the estimator works on the step's own embeddings, not on its features."""
        return bool(getattr(self.estimator, "takes_embeddings", False))

    def _add(self, name: str, value: Tensor | float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value


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
