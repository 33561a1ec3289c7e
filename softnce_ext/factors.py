"""BM25 similarities as two sparse factors, in place of a matrix [N, M]."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class BM25Factors(NamedTuple):
    """Similarities of N queries and K documents: queries' term counts times weighted postings.

    ``z_ij`` is the sum, over the terms t of query i, of count_it * weight_tj. As a loss's
    `similarity` it stands for [N, M], K <= M: a code from column K on, and one whose document has
    no text, is compared with nobody; it keeps weight 1 and is left out of the similarity softmax.
    `softnce_ext.BM25.factors` makes them; all tensors are contiguous and on one device.

    Attributes:
        query_indptr: int64 [N + 1]; query i's terms are at query_indptr[i] : query_indptr[i + 1].
        query_term: int32 [Q], in [0, V).
        query_count: float32 [Q], how often the query holds the term.
        indptr: int64 [V + 1]; term t's postings are at indptr[t] : indptr[t + 1].
        document: int32 [P], in [0, K), distinct within a term.
        weight: float32 [P], idf times the term's part in the document.
        document_length: int64 [K], tokens of each document.
    """

    query_indptr: Tensor
    query_term: Tensor
    query_count: Tensor
    indptr: Tensor
    document: Tensor
    weight: Tensor
    document_length: Tensor

    def to(self, device: torch.device | str) -> BM25Factors:
        """Return the factors on a device."""
        return BM25Factors(*(part.to(device, non_blocking=True) for part in self))

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the similarities as a matrix [N, K]; for tests and analysis."""
        queries, terms = len(self.query_indptr) - 1, len(self.indptr) - 1
        counts = torch.zeros(queries, terms, dtype=dtype, device=self.weight.device)
        row = torch.repeat_interleave(self.query_indptr.diff())
        counts.index_put_((row, self.query_term.long()), self.query_count.to(dtype), True)
        weights = torch.zeros(terms, len(self.document_length), dtype=dtype, device=counts.device)
        term = torch.repeat_interleave(self.indptr.diff())
        weights.index_put_((term, self.document.long()), self.weight.to(dtype), True)
        return counts @ weights

    def known(self, columns: int) -> Tensor:
        """Return bool [columns]: which of the codes have a similarity at all."""
        has_text = torch.zeros(columns, dtype=torch.bool, device=self.weight.device)
        has_text[: len(self.document_length)] = self.document_length > 0
        return has_text
