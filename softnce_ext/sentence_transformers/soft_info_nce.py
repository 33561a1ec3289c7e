"""Soft-InfoNCE as a loss of sentence-transformers, with weights from the batch's own texts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import Peers, alone, meet
from ..estimators.collate import add_labels, model_features
from ..estimators.similarity import (
    Groups,
    Similarity,
    check_similarity,
    compared_columns,
    low_weights,
    take_rows,
    transposed,
    widen,
)
from ..functional import soft_info_nce
from .batch import batch_groups, batch_similarity, device_of, gathered_vectors, row_count
from .options import (
    CITATION,
    PUBLISHED_RATE,
    Estimator,
    check_numbers,
    estimator_for,
    expected_alpha,
    weights_for,
)
from .own_negatives import add_own, group_own
from .statistics import Statistics

_logger = logging.getLogger(__name__)


class SoftInfoNCELoss(nn.Module):
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
        symmetric: Score codes against all queries as well; the loss is the mean of both ways.
        exclude_hard_negatives: Keep a query's own mined negatives at weight 1, out of its softmax
            over similarities. They are still weighed for other queries.
        gather_across_devices: Take the codes of all ranks of torch.distributed as negatives, and
            the softmax over all their similarities. Ranks may have different numbers of rows: with
            the average of data-parallel training each row counts alike. A function as estimator
            then gets all ranks' features, in a static encoder's form (flat `input_ids` with
            `offsets`); one with the attribute `by_row` gets this rank's alone and must return a
            pair of vectors, which are gathered.
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
        symmetric: bool = False,
        exclude_hard_negatives: bool = False,
        gather_across_devices: bool = False,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        check_numbers(scale, alpha_scaling, false_negative_rate, impl)
        estimator = estimator_for(model, estimator)
        given = {"alpha": alpha, "beta": beta, "temperature": temperature}
        self.weights = weights_for(estimator, given, min_weight)
        attach = getattr(estimator, "attach", None)
        if attach is not None:
            attach(model, temperature=temperature)
        self.model = model
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
        embeddings = [self.embed(column) for column in columns]
        return self.compute_loss_from_embeddings(embeddings, labels, **beside)

    def embed(self, features: dict[str, Any]) -> Tensor:
        """Return the model's embeddings of a column, [N, D]."""
        embeddings: Tensor = self.model(model_features(features))["sentence_embedding"]
        return embeddings

    @torch.no_grad()
    def beside(self, columns: Sequence[dict[str, Any]], labels: Tensor | None) -> dict[str, Any]:
        """Return what `compute_loss_from_embeddings` takes beside a batch's embeddings."""
        columns = add_labels(columns, labels)
        peers = self._meet(row_count(columns[0]), len(columns), device_of(columns[0]))
        similarity = groups = None
        if self.estimator is not None and not self._takes_embeddings():
            similarity = batch_similarity(self.estimator, columns, peers)
        if self.mask_duplicates:
            groups, masked = batch_groups(columns, peers)
            self._statistics.add("duplicates", masked)
            if masked and peers.rank == 0:
                self._tell_once(masked, peers.total)
        return {"similarity": similarity, "groups": groups, "peers": peers}

    def compute_loss_from_embeddings(
        self,
        embeddings: Sequence[Tensor],
        labels: Tensor | None = None,
        *,
        similarity: Similarity | None = None,
        groups: Groups | None = None,
        peers: Peers | None = None,
    ) -> Tensor:
        """Return the loss of embeddings, one [N, D] per column.

        Args:
            embeddings: Of the queries, of their codes and of further codes.
            labels: Not used.
            similarity: What the estimator returns for the batch, that of all ranks.
            groups: As in `softnce_ext.soft_info_nce`, of all ranks.
            peers: The ranks the batch lies on; None: asked for.

        Raises:
            ValueError: There are fewer than two columns, or the loss has an estimator and
                `similarity` is None.
        """
        if len(embeddings) < 2:
            raise ValueError(f"embeddings must hold at least 2 columns, got {len(embeddings)}")
        query, *codes_by_column = embeddings
        code = codes_by_column[0] if len(codes_by_column) == 1 else torch.cat(codes_by_column)
        peers = peers or self._meet(len(query), len(embeddings), query.device)
        if self._takes_embeddings():
            online: Any = self.estimator
            similarity = gathered_vectors(online.from_embeddings(query, code), peers)
        if self.estimator is not None and similarity is None:
            raise ValueError(
                "similarity must be given with the embeddings, since the estimator needs the "
                "texts, got None"
            )
        if self.normalize:
            query = nn.functional.normalize(query, dim=-1)
            code = nn.functional.normalize(code, dim=-1)
        codes = peers.gather_columns(code)
        if similarity is not None:
            check_similarity(similarity, peers.total, len(codes))
        loss = self._one_way(query, codes, similarity, groups, peers)
        if self.symmetric:
            if similarity is not None:
                similarity = transposed(similarity, peers.total)
            if groups is not None:
                groups = (groups[1][: peers.total], groups[0])
            queries, code = peers.gather(query), code[: len(query)]
            loss = (loss + self._one_way(code, queries, similarity, groups, peers)) / 2
        return loss if peers.share == 1 else loss * peers.share

    def _one_way(
        self,
        query: Tensor,
        codes: Tensor,
        similarity: Similarity | None,
        groups: Groups | None,
        peers: Peers,
    ) -> Tensor:
        """Return the mean over this rank's rows of `query`; all else is of all ranks."""
        rows, total = peers.rows, peers.total
        # Where a rank is alone, no more is asked of a subclass's fused_loss than it always was.
        place: dict[str, Any] = {"positive_offset": rows.start} if rows.start else {}
        free = None
        if self.exclude_hard_negatives and len(codes) > total:
            groups, free = group_own(groups, total, codes)
            place["reduction"] = "none"
        if total > len(query):
            similarity = None if similarity is None else take_rows(similarity, rows)
            groups = None if groups is None else (groups[0][rows], groups[1])
        loss = self.fused_loss(query, codes, similarity, groups, **place)
        if free is not None:
            loss = add_own(loss, query, codes, free, rows, self.scale).mean()
        return loss

    def fused_loss(
        self,
        query: Tensor,
        code: Tensor,
        similarity: Similarity | None,
        groups: Groups | None,
        *_: Any,
        **place: Any,
    ) -> Tensor:
        """Return the loss of vectors that are ready to be scored.

        Args:
            query, code, similarity, groups: As in `softnce_ext.soft_info_nce`.
            place: Its positive_offset and reduction, where they are not its defaults.
        """
        rule, offset = self.weights, place.get("positive_offset", 0)
        if similarity is not None:
            temperature = rule["temperature"]
            similarity = widen(similarity, len(code), temperature, groups, offset)
            if self.alpha_scaling == "expected":
                negatives, rate = compared_columns(similarity) - 1, self.false_negative_rate
                alpha = expected_alpha(rule["alpha"], rule["beta"], negatives, rate)
                rule = {**rule, "alpha": alpha}
            self._statistics.add("low_weights", low_weights(similarity, groups, rule, offset))
        return soft_info_nce(
            query,
            code,
            similarity,
            **rule,
            scale=self.scale,
            groups=groups,
            impl=self.impl,
            **place,
        )

    def pop_statistics(self) -> dict[str, float]:
        """Return the means per step since the last call, and start anew.

        `low_weights` is how many negatives a row had with a weight below 0.5, `duplicates` how
        many (query, code) pairs of a batch, that of all ranks, were masked out. Of a batch of more
        than 1024 rows `low_weights` is told from the first 1024; of several ranks each tells its
        own rows'.
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

    @property
    def citation(self) -> str:
        """BibTeX of the paper."""
        return CITATION

    def _tell_once(self, masked: int, rows: int) -> None:
        """Say that duplicates are masked, where nobody reads the statistics of each step."""
        if not self._statistics.is_read and self._statistics.steps("duplicates") > 1:
            self._statistics.is_read = True
            _logger.warning(
                "%s: %d (query, code) pairs of this batch of %d rows are no negatives, since they "
                "repeat another row's query or code (mask_duplicates=False keeps them); among the "
                "trainer's callbacks, softnce_ext.sentence_transformers.log.LogStatistics(loss) "
                "logs how many there are",
                type(self).__name__,
                masked,
                rows,
            )

    def _meet(self, rows: int, columns: int, device: torch.device) -> Peers:
        return meet(rows, columns, device) if self.gather_across_devices else alone(rows)

    def _takes_embeddings(self) -> bool:
        """Tell whether the estimator works on the step's own embeddings, not on its features."""
        return bool(getattr(self.estimator, "takes_embeddings", False))
