"""Soft-InfoNCE as a loss of sentence-transformers, with weights from the batch's own texts."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributed import Peers
from ..estimators.collate import add_labels, are_classes, check_labels, model_features
from ..estimators.similarity import check_similarity
from .batch import batch_groups, batch_similarity, check_columns, device_of, row_count
from .columns import LAYERS, bare, embed_columns
from .embeddings import EmbeddingsLoss
from .options import (
    CITATION,
    PUBLISHED_RATE,
    Estimator,
    check_flags,
    check_model,
    check_numbers,
    estimator_for,
    weights_for,
)
from .statistics import Statistics

# Attributes of estimators that must be the same on all ranks.
_OF_ESTIMATORS = ("by_row", "columns_read", "takes_embeddings", "sides", "mode", "temperature")

_logger = logging.getLogger(__name__)


class SoftInfoNCELoss(EmbeddingsLoss):
    """Soft-InfoNCE for `SentenceTransformerTrainer`: likely false negatives weigh less.

    The first column of the data set is the query, the second its code, further ones are negatives.
    An int column `label` has the row numbers an estimator's tables are read by: of the pair, or
    [1 + k] where there are k columns of negatives, with the row each of these is the code of. With
    ``estimator=None`` it is InfoNCE: `MultipleNegativesRankingLoss` without the duplicates of
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
        scale: Multiplies the scores; 1 / temperature of the scores. A number: a learned one would
            not be saved.
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
            belong to the same query. Told from the token ids. Pairs that share a query or a code
            with a pair that shares one with a third are one group with the third, too.
        symmetric: Score codes against all queries as well; the loss is the mean of both ways.
        exclude_hard_negatives: Keep a query's own mined negatives at weight 1, out of its softmax
            over similarities. They are still weighed for other queries. With `mask_duplicates`
            there are two exceptions: one that is another row's code in the batch too is weighed,
            and rows that repeat a query or code lose each other's mined negatives.
        gather_across_devices: Take the codes of all ranks of torch.distributed as negatives, and
            the softmax over all their similarities. Ranks may have different numbers of rows: with
            the average of data-parallel training each row counts alike. A function as estimator
            then gets all ranks' features, in a static encoder's form (flat `input_ids` with
            `offsets`); one with the attribute `by_row` gets this rank's alone and must return a
            pair of vectors, which are gathered.
        impl: As in `softnce_ext.soft_info_nce`.

    Raises:
        TypeError, ValueError: `model` is no module, a number is none or out of its range, a flag
            is no bool, `estimator` is no name of one and no function, or it is a function and
            alpha, beta or temperature is missing. What an estimator refuses of the model.

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
        symmetric: bool = False,
        exclude_hard_negatives: bool = False,
        gather_across_devices: bool = False,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        check_model(model)
        check_numbers(scale, alpha_scaling, false_negative_rate, impl)
        check_flags(
            normalize=normalize,
            mask_duplicates=mask_duplicates,
            symmetric=symmetric,
            exclude_hard_negatives=exclude_hard_negatives,
            gather_across_devices=gather_across_devices,
        )
        estimator = estimator_for(bare(model), estimator)
        given = {"alpha": alpha, "beta": beta, "temperature": temperature}
        self.weights = weights_for(estimator, given, min_weight)
        attach = getattr(estimator, "attach", None)
        if attach is not None:
            attach(bare(model), temperature=temperature)
        self.model = model
        self._has_seen_labels = False
        self.estimator: Estimator | None
        # Not as an attribute of the module: the trainer would train an estimator that is one.
        self.__dict__["estimator"] = estimator
        self.scale = scale
        self.alpha_scaling = alpha_scaling
        self.false_negative_rate = false_negative_rate
        self.normalize = normalize
        self.mask_duplicates = mask_duplicates
        self.symmetric = symmetric
        self.exclude_hard_negatives = exclude_hard_negatives
        self.gather_across_devices = gather_across_devices
        self.impl = impl
        self._statistics = Statistics()

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            sentence_features: One column each: queries, their codes, further codes.
            labels: Row numbers for an estimator that reads tables (`estimators.collate`), int [N]
                or [N, 1 + k]; else not used.
        """
        columns = list(sentence_features)
        beside = self.beside(columns, labels)
        return self.compute_loss_from_embeddings(self.embed(columns), labels, **beside)

    def embed(self, columns: Sequence[dict[str, Any]]) -> list[Tensor]:
        """Return the model's embeddings of each column, [N, D]."""
        found = [model_features(column) for column in columns]
        embeddings = embed_columns(self.model, found)
        for column, features in zip(columns, found, strict=True):
            if LAYERS in features:
                column[LAYERS] = features[LAYERS]
        return embeddings

    def beside(self, columns: Sequence[dict[str, Any]], labels: Tensor | None) -> dict[str, Any]:
        """Return what `compute_loss_from_embeddings` takes beside a batch's embeddings.

        Raises:
            TypeError, ValueError: The columns make no batch, the labels are no row numbers where
                tables are read by them, or the estimator or `mask_duplicates` lacks features.
        """
        check_columns(columns)
        tables = getattr(self.estimator, "tables", None)
        if tables:
            check_labels(columns, labels, len(tables))
        elif not self._has_seen_labels:  # once: a GPU's would have to be waited for
            self._has_seen_labels = True
            if are_classes(labels):
                warnings.warn(
                    "label is not read: rows whose label is 0 are trained on as right pairs too; "
                    "filter them out of the data set if they are wrong ones",
                    RuntimeWarning,
                    stacklevel=3,
                )
        columns = add_labels(columns, labels)
        peers = self._meet(row_count(columns[0]), len(columns), device_of(columns[0]))
        similarity = groups = None
        if self.estimator is not None and not self._takes_embeddings():
            follow = getattr(self.estimator, "follow", None)
            if follow is not None:  # the trainer may have put another model in place of ours
                follow(bare(self.model))
            expect = getattr(self.estimator, "expect", None)
            if expect is not None:
                expect(evaluation=not (torch.is_grad_enabled() and self.training))
            with torch.no_grad():
                similarity = batch_similarity(self.asked(self.estimator, peers), columns, peers)
            check_similarity(similarity, peers.total, peers.total * (len(columns) - 1))
        if self.mask_duplicates:
            groups, masked = batch_groups(columns, peers)
            if torch.is_grad_enabled():  # evaluation's are not counted among training's
                self._statistics.add("duplicates", masked)
                if masked and peers.rank == 0:
                    self._tell_once(masked, peers.total)
        return {"similarity": similarity, "groups": groups, "peers": peers}

    def asked(self, estimator: Estimator, peers: Peers) -> Estimator:
        """Return what is asked for the similarities in the estimator's place."""
        return estimator

    def pop_statistics(self) -> dict[str, float]:
        """Return the means per training step since the last call, and start anew.

        `duplicates` is how many (query, code) pairs of a batch, that of all ranks, were masked out.
        `low_weights` is how many negatives a row had with a weight below 0.5. It costs time, so it
        is counted from the first call on, and in a batch of 128 rows or more over a sample: at
        least 64 rows, spread evenly. Of several ranks each tells its own rows'.
        """
        return self._statistics.pop()

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
            "symmetric": self.symmetric,
            "exclude_hard_negatives": self.exclude_hard_negatives,
            "gather_across_devices": self.gather_across_devices,
        }

    def compared_options(self) -> dict[str, Any]:
        """Return the options that every rank's loss must have in a step, as JSON values.

        Beside the arguments it is what decides how an estimator's batch is gathered, and how texts
        are compared.
        """
        found = {name: getattr(self.estimator, name, None) for name in _OF_ESTIMATORS}
        found["tables"] = sorted(getattr(self.estimator, "tables", None) or ())
        # Of an estimator of the user's own such a name may be anything, an address in its words.
        kind = {
            f"estimator.{name}": value
            for name, value in found.items()
            if isinstance(value, (bool, int, str, list))
        }
        return {**SoftInfoNCELoss.get_config_dict(self), **kind}

    @property
    def citation(self) -> str:
        """BibTeX of the paper."""
        return CITATION

    def _tell_once(self, masked: int, rows: int) -> None:
        """Say that duplicates are masked, where nobody reads the statistics of each step."""
        statistics = self._statistics
        if not (statistics.is_read or statistics.is_told) and statistics.steps("duplicates") > 1:
            statistics.is_told = True
            _logger.warning(
                "%s: %d (query, code) pairs of this batch of %d rows are no negatives, since they "
                "repeat another row's query or code (mask_duplicates=False keeps them); among the "
                "trainer's callbacks, softnce_ext.sentence_transformers.log.LogStatistics(loss) "
                "logs how many there are",
                type(self).__name__,
                masked,
                rows,
            )
