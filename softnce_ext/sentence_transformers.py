"""Soft-InfoNCE as a loss of sentence-transformers, with weights from the batch's own texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import checks
from .estimators.bm25 import InBatchBM25, special_ids, token_ids
from .estimators.duplicates import count_masked, duplicate_groups
from .functional import soft_info_nce
from .presets import PRESETS

Estimator = Callable[[Sequence[dict[str, Any]]], Tensor]
Groups = tuple[Tensor, Tensor]


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
            token ids), None, or a function of the batch's features (one dict per column) that
            returns raw similarities, float [N, K] with N <= K <= M. Codes past column K weigh 1.
        scale: Multiplies the scores; 1 / temperature of the scores.
        alpha: How strongly a similar negative is weakened; None: the paper's value for BM25.
        beta: The constant part of a weight; None: the paper's value for BM25.
        temperature: Of the softmax over similarities; None: the paper's value for BM25.
        min_weight: Lower bound of a weight.
        normalize: Score by cosine; False scores by dot product (then set `scale` to 1).
        mask_duplicates: Leave codes out of a query's negatives that repeat its own code, or that
            belong to the same query. Told from the token ids.
        impl: As in `softnce_ext.soft_info_nce`.

    Raises:
        TypeError, ValueError: A number is none or out of its range, `estimator` is no name of one,
            or it is a function and alpha, beta or temperature is missing.

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
        normalize: bool = True,
        mask_duplicates: bool = True,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        checks.check_number("scale", scale)
        checks.check_choice("impl", impl, ("auto", "native", "torch"))
        if not scale > 0:
            raise ValueError(f"scale must be > 0, got {scale}")
        given = {"alpha": alpha, "beta": beta, "temperature": temperature}
        if estimator == "bm25":
            estimator = InBatchBM25(special_ids(model.tokenizer))
        elif isinstance(estimator, str):
            raise ValueError(f'estimator must be "bm25", None or a function, got {estimator!r}')
        elif estimator is not None:
            missing = [name for name, value in given.items() if value is None]
            if missing:
                raise ValueError(
                    f"{', '.join(missing)} must be given with an estimator of your own, got None"
                )
        preset = PRESETS["bm25"]._asdict()
        self.model = model
        self.estimator: Estimator | None
        # Not as an attribute of the module: the trainer would train an estimator that is one.
        self.__dict__["estimator"] = estimator
        self.scale = scale
        self.weights: dict[str, Any] = {
            name: preset[name] if v is None else v for name, v in given.items()
        }
        self.weights["min_weight"] = min_weight
        checks.check_rule(**self.weights)
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
        if self.estimator is not None:
            with torch.no_grad():
                similarity = self.estimator(features)
        if self.mask_duplicates:
            groups = self._groups(features)
        embeddings = [self.model(dict(column))["sentence_embedding"] for column in features]
        return self.compute_loss_from_embeddings(
            embeddings, labels, similarity=similarity, groups=groups
        )

    def compute_loss_from_embeddings(
        self,
        embeddings: Sequence[Tensor],
        labels: Tensor | None = None,
        *,
        similarity: Tensor | None = None,
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
        if self.estimator is not None and similarity is None:
            raise ValueError(
                "similarity must be given with the embeddings, since the estimator needs the "
                "texts, got None"
            )
        query, code = embeddings[0], torch.cat(list(embeddings[1:]))
        if self.normalize:
            query = nn.functional.normalize(query, dim=-1)
            code = nn.functional.normalize(code, dim=-1)
        if similarity is not None:
            similarity = _widen(similarity, len(query), len(code), self.weights, groups)
            self._add("low_weights", _low_weights(similarity, groups, self.weights))
        self._steps += 1
        return soft_info_nce(
            query,
            code,
            similarity,
            **self.weights,
            scale=self.scale,
            groups=groups,
            impl=self.impl,
        )

    def pop_statistics(self) -> dict[str, float]:
        """Return the means per step since the last call, and start anew.

        `low_weights` is how many negatives a row had with a weight below 0.5, `duplicates` how
        many (query, code) pairs of a batch were masked out.
        """
        steps, sums = max(self._steps, 1), self._sums
        self._steps, self._sums = 0, {}
        return {name: float(total) / steps for name, total in sums.items()}

    def get_config_dict(self) -> dict[str, Any]:
        """Return the arguments, for the model card."""
        name = getattr(self.estimator, "__name__", type(self.estimator).__name__)
        return {
            "estimator": None if self.estimator is None else name,
            "scale": self.scale,
            **self.weights,
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

    def _add(self, name: str, value: Tensor | float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value


def _widen(
    similarity: Tensor, rows: int, columns: int, weights: dict[str, float], groups: Groups | None
) -> Tensor:
    """Add columns whose weight is 1, up to [N, M].

    A weight is 1 where the softmax is 1 / (number of negatives): where the similarity is the
    logarithm of the mean of exp(similarity / temperature) over the row's other negatives.
    """
    if not isinstance(similarity, Tensor) or not similarity.is_floating_point():
        kind = similarity.dtype if isinstance(similarity, Tensor) else type(similarity).__name__
        raise TypeError(f"the estimator must return a floating-point Tensor, got {kind}")
    shape = list(similarity.shape)
    if len(shape) != 2 or shape[0] != rows or not rows <= shape[1] <= columns:
        raise ValueError(
            f"the estimator must return shape [{rows}, {rows} to {columns}], got {shape}"
        )
    if shape[1] == columns:
        return similarity
    count = _count_negatives(similarity, groups)
    logits = _negatives(similarity, groups).div_(weights["temperature"])
    mean = weights["temperature"] * (torch.logsumexp(logits, 1) - count.log())
    mean = torch.where(count > 0, mean, 0.0)
    return torch.cat([similarity, mean[:, None].expand(-1, columns - shape[1])], dim=1)


def _low_weights(similarity: Tensor, groups: Groups | None, weights: dict[str, float]) -> Tensor:
    """Return how many negatives a row has with a weight below 0.5, on average.

    Told from the softmax, without the [N, M] weights: Eq. 4 solved for it.
    """
    alpha, beta = weights["alpha"], weights["beta"]
    if alpha <= 0 or weights["min_weight"] >= 0.5:
        return torch.tensor(0.0)
    denominator = beta - alpha / _count_negatives(similarity, groups)
    share = (beta - 0.5 * denominator) / alpha
    logits = _negatives(similarity, groups).div_(weights["temperature"])
    bound = torch.logsumexp(logits, 1) + share.log()
    low = torch.count_nonzero(logits > bound[:, None], dim=1)
    return torch.where(denominator > 0, low, 0).float().mean()


def _count_negatives(similarity: Tensor, groups: Groups | None) -> Tensor:
    """Return how many of the columns are negatives of each row, [N]."""
    rows, columns = similarity.shape
    if groups is None:
        return torch.full((rows,), columns - 1, device=similarity.device)
    query, code = groups[0], groups[1][:columns]
    largest = int(max(query.max(), code.max()))
    return columns - torch.bincount(code, minlength=largest + 1)[query]


def _negatives(similarity: Tensor, groups: Groups | None) -> Tensor:
    """Return a copy of similarities [N, K] with -inf at what is no negative."""
    negatives = similarity.detach().clone().fill_diagonal_(-torch.inf)
    if groups is not None:
        same = groups[0][:, None] == groups[1][None, : similarity.shape[1]]
        negatives.masked_fill_(same, -torch.inf)
    return negatives
