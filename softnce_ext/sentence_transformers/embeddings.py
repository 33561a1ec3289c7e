"""From the embeddings of a batch to its loss: one way or both, over one rank's rows or all."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import Peers, alone, meet
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
from .batch import gathered_vectors
from .options import Estimator, expected_alpha
from .own_negatives import add_own, group_own
from .statistics import Statistics


class EmbeddingsLoss(nn.Module, ABC):
    """What `SoftInfoNCELoss` makes of embeddings; there its arguments are told."""

    estimator: Estimator | None
    weights: dict[str, Any]
    scale: float
    alpha_scaling: str | None
    false_negative_rate: float
    normalize: bool
    mask_duplicates: bool
    symmetric: bool
    exclude_hard_negatives: bool
    gather_across_devices: bool
    impl: str
    _statistics: Statistics

    def compute_loss_from_embeddings(
        self,
        embeddings: Sequence[Tensor],
        labels: Tensor | None = None,
        *,
        similarity: Similarity | None = None,
        groups: Groups | None = None,
        peers: Peers | None = None,
        is_unit: bool = False,
    ) -> Tensor:
        """Return the loss of embeddings, one [N, D] per column.

        Args:
            embeddings: Of the queries, of their codes and of further codes.
            labels: Not used.
            similarity: What the estimator returns for the batch, that of all ranks.
            groups: As in `softnce_ext.soft_info_nce`, of all ranks.
            peers: The ranks the batch lies on; None: asked for.
            is_unit: Whether the embeddings have length 1 already.

        Raises:
            ValueError: There are fewer than two columns, or the loss has an estimator and
                `similarity` is None.

        Warns:
            RuntimeWarning: Duplicates are to be masked, and neither `groups` nor `peers` are given:
                embeddings do not tell them.
        """
        if len(embeddings) < 2:
            raise ValueError(f"embeddings must hold at least 2 columns, got {len(embeddings)}")
        query, *codes_by_column = embeddings
        code = codes_by_column[0] if len(codes_by_column) == 1 else torch.cat(codes_by_column)
        if self.mask_duplicates and groups is None and peers is None:
            warnings.warn(
                "mask_duplicates=True tells duplicates by token ids, and embeddings alone were "
                "given: none is masked (mask_duplicates=False asks for none)",
                RuntimeWarning,
                stacklevel=2,
            )
        peers = peers or self._meet(len(query), len(embeddings), query.device)
        if self._takes_embeddings():
            online: Any = self.estimator
            similarity = gathered_vectors(online.from_embeddings(query, code), peers)
        if self.estimator is not None and similarity is None:
            raise ValueError(
                "similarity must be given with the embeddings, since the estimator needs the "
                "texts, got None (a wrapper that hands over embeddings alone, such as SpladeLoss, "
                "goes with estimator=None)"
            )
        if self.normalize and not is_unit:
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
        rule: Mapping[str, Any] = self.weights
        offset = place.get("positive_offset", 0)
        if similarity is not None:
            if self.alpha_scaling == "expected":
                negatives, rate = compared_columns(similarity) - 1, self.false_negative_rate
                alpha = expected_alpha(rule["alpha"], rule["beta"], negatives, rate)
                rule = {**rule, "alpha": alpha}
            similarity, rule = widen(similarity, len(code), rule, groups, offset)
            if self._statistics.is_read and torch.is_grad_enabled():  # not of evaluation
                low = low_weights(similarity, groups, rule, offset)
                self._statistics.add("low_weights", low)
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

    def _meet(self, rows: int, columns: int, device: torch.device) -> Peers:
        if not self.gather_across_devices:
            return alone(rows)
        return meet(rows, columns, device, self.compared_options())

    @abstractmethod
    def compared_options(self) -> dict[str, Any]:
        """Return what the ranks of a step must agree on, as JSON values."""

    def _takes_embeddings(self) -> bool:
        """Tell whether the estimator works on the step's own embeddings, not on its features."""
        return bool(getattr(self.estimator, "takes_embeddings", False))
