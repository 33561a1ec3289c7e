"""BM25 between the texts of a batch, from the token ids the batch carries anyway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bm25 import BM25, TokenIds

if TYPE_CHECKING:
    import torch

    from ..bm25 import BM25Factors

# The features of one column of a batch, as sentence-transformers makes them.
Features = Mapping[str, Any]


class InBatchBM25:
    """How similar the queries of a batch are to each other, by BM25 over their token ids.

    A query is compared with the other queries and not with codes: two functions documented alike
    are likely to do the same. The statistics are the batch's own.

    Args:
        special_ids: Token ids that are no words (padding, separators); they are skipped.
        avgdl: Mean query length of the data set, in tokens; None: that of each batch.
        k1: Saturation of a term's count.
        b: Share of the length normalisation.
        variant: As in `softnce_ext.BM25`; "reference" is what the paper's code computes.

    Raises:
        TypeError, ValueError: As in `softnce_ext.BM25`.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), Section 3.2 and D.2.
    """

    def __init__(
        self,
        special_ids: Iterable[int] = (),
        *,
        avgdl: float | None = None,
        k1: float = 1.2,
        b: float = 0.75,
        variant: str = "reference",
    ) -> None:
        self.special_ids = np.array(sorted(set(special_ids)), dtype=np.int64)
        self.bm25 = BM25(k1=k1, b=b, variant=variant, avgdl=avgdl)

    def __call__(self, sentence_features: Sequence[Features]) -> torch.Tensor:
        """Return the raw similarity of each query (first column) with each, float32 [N, N]."""
        import torch

        scores = torch.from_numpy(self.bm25.scores(self._words(sentence_features[0])))
        return scores.to(sentence_features[0]["input_ids"].device)

    def factors(self, sentence_features: Sequence[Features]) -> BM25Factors:
        """Return the same similarities as two sparse factors, without the matrix [N, N].

        Args:
            sentence_features: One column of features each; the first are the queries'.

        Returns:
            What `softnce_ext.soft_info_nce` takes as `similarity`, on the features' device.

        Raises:
            ValueError: The features hold no token ids.
        """
        factors = self.bm25.factors(self._words(sentence_features[0]))
        return factors.to(sentence_features[0]["input_ids"].device)

    def _words(self, features: Features) -> TokenIds:
        """Return a column's texts with -1 in place of special ids."""
        texts = token_ids(features)
        if not len(self.special_ids):
            return texts
        return TokenIds(
            np.where(np.isin(texts.ids, self.special_ids), -1, texts.ids), texts.offsets
        )


def token_ids(features: Features) -> TokenIds:
    """Return a column's texts as flat token ids, without padding.

    Args:
        features: `input_ids` [N, L] with `attention_mask` [N, L], or a static encoder's flat
            `input_ids` [T] with `offsets` [N].

    Raises:
        ValueError: The features are neither.
    """
    if "input_ids" not in features:
        raise ValueError(f"sentence_features must hold input_ids, got {sorted(features)}")
    ids = features["input_ids"].detach().cpu().numpy()
    if ids.ndim == 1 and "offsets" in features:
        offsets = features["offsets"].detach().cpu().numpy()
        return TokenIds(ids, np.append(offsets, len(ids)).astype(np.int64))
    if ids.ndim == 2 and "attention_mask" in features:
        mask = features["attention_mask"].detach().cpu().numpy().astype(bool)
        return TokenIds(ids[mask], np.append(0, np.cumsum(mask.sum(1))).astype(np.int64))
    raise ValueError(
        "sentence_features must hold input_ids [N, L] with attention_mask, or flat input_ids "
        f"with offsets, got {sorted(features)} with input_ids of shape {list(ids.shape)}"
    )


def special_ids(tokenizer: Any) -> list[int]:
    """Return the ids of a tokenizer's special tokens, be it of transformers or of tokenizers."""
    if hasattr(tokenizer, "all_special_ids"):
        return [int(token) for token in tokenizer.all_special_ids]
    added = tokenizer.get_added_tokens_decoder()
    return [number for number, token in added.items() if token.special]
