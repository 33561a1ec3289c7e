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


class ByDocument(NamedTuple):
    """BM25Factors made ready for blocks of rows; every shape is known without looking."""

    query_row: Tensor  # [Q] the query of each of its terms
    query_term: Tensor  # [Q]
    query_count: Tensor  # [Q]
    term: Tensor  # [P] by document
    weight: Tensor  # [P]
    start: Tensor  # [K] first posting of each document
    has_text: Tensor  # bool [K]
    terms: int

    @staticmethod
    def of(factors: BM25Factors, dtype: torch.dtype) -> ByDocument:
        """Sort the postings by document; sums will be of `dtype`."""
        document, order = factors.document.long().sort(stable=True)
        documents = torch.arange(factors.document_length.shape[0], device=document.device)
        return ByDocument(
            _row_of(factors.query_indptr, factors.query_term),
            factors.query_term.long(),
            factors.query_count.to(dtype),
            _row_of(factors.indptr, factors.document)[order],
            factors.weight.to(dtype)[order],
            torch.searchsorted(document, documents),
            factors.document_length > 0,
            factors.indptr.shape[0] - 1,
        )

    def known(self, columns: int) -> Tensor:
        """Return bool [columns]: which of the codes have a similarity at all."""
        known = self.has_text.new_zeros(columns)
        known[: self.has_text.shape[0]] = self.has_text
        return known

    def rows(self, part: slice, columns: int) -> Tensor:
        """Sum, for each document, its terms' counts in the queries of `part`: [R, columns]."""
        count = part.stop - part.start
        row = self.query_row - part.start
        inside = (row >= 0) & (row < count)
        # One row more than there are terms: a table may not be empty.
        counts = self.weight.new_zeros(self.terms + 1, count)
        place = (self.query_term, row.clamp(0, count - 1))
        counts.index_put_(place, self.query_count * inside, accumulate=True)
        sums = torch.nn.functional.embedding_bag(
            self.term, counts, self.start, mode="sum", per_sample_weights=self.weight
        )
        similarity = counts.new_zeros(count, columns)
        similarity[:, : sums.shape[0]] = sums.T
        return similarity


def _row_of(indptr: Tensor, entries: Tensor) -> Tensor:
    """Return the row of each entry of a CSR matrix."""
    place = torch.arange(entries.shape[0], device=indptr.device)
    return torch.searchsorted(indptr, place, right=True) - 1
