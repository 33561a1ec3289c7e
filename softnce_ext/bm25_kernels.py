"""The loops of BM25; `bm25.py` checks what they get, and threads share the rows of its scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .compiled import kernel

Array = npt.NDArray[Any]

VARIANTS = ("reference", "okapi", "lucene")
_OKAPI, _LUCENE = 1, 2
_EPSILON = 0.25  # of rank_bm25.BM25Okapi: the share of the mean idf that replaces a negative idf
# Terms held by more than this share of the documents become dense rows: added with vector
# instructions, 1.3 to 3 times as fast as scattering them. Flat optimum between 0.06 and 0.125.
_DENSE_SHARE = 0.125


@kernel
def largest_id(ids: Array, offsets: Array) -> int:
    """Return the largest id, -1 where there is none, -2 where the offsets do not fit the ids."""
    if offsets[0] < 0 or offsets[-1] > ids.size:
        return -2
    for i in range(offsets.size - 1):
        if offsets[i] > offsets[i + 1]:
            return -2
    largest = -1
    for i in range(offsets[0], offsets[-1]):
        largest = max(largest, ids[i])
    return largest


@kernel
def count_terms(
    ids: Array, offsets: Array, table: Array, vocabulary: Array, known: int, grow: bool
) -> tuple[Array, Array, Array, Array, int]:
    """Count each text's terms: CSR (indptr, term, count), length, how many terms are known.

    `table` maps an id to the number of its term. Where it holds -1, the id gets the next number
    (and `vocabulary` the id) if `grow` is set; else it is skipped.
    """
    n = offsets.size - 1
    indptr = np.zeros(n + 1, np.int64)
    length = np.zeros(n, np.int64)
    term = np.empty(offsets[-1] - offsets[0], np.int32)
    count = np.empty(term.size, np.float32)
    capacity = min(known + term.size, table.size) if grow else known
    place = np.full(capacity, -1, np.int64)  # where a term stood last
    end = 0
    for i in range(n):
        start = end
        for j in range(offsets[i], offsets[i + 1]):
            token = ids[j]
            if token < 0:
                continue
            length[i] += 1
            number = np.int64(table[token]) if token < table.size else np.int64(-1)
            if number < 0:
                if not grow:
                    continue
                number = known
                table[token] = number
                vocabulary[number] = token
                known += 1
            if place[number] >= start:
                count[place[number]] += 1
            else:
                place[number] = end
                term[end] = number
                count[end] = 1
                end += 1
        indptr[i + 1] = end
    return indptr, term[:end], count[:end], length, known


@kernel
def weigh_postings(
    indptr: Array,
    term: Array,
    count: Array,
    length: Array,
    terms: int,
    k1: float,
    b: float,
    avgdl: float,
    variant: int,
) -> tuple[Array, Array, Array]:
    """Turn counts by document into weights by term: CSR (indptr, document, weight).

    `avgdl` 0 stands for the mean length of these documents.
    """
    n = length.size
    start = np.zeros(terms + 1, np.int64)
    for p in range(term.size):
        start[term[p] + 1] += 1

    idf_of_df = np.full(n + 1, np.nan)  # terms share few document frequencies: few logarithms
    idf = np.empty(terms)
    for t in range(terms):
        df = start[t + 1]
        if np.isnan(idf_of_df[df]):
            if variant == _LUCENE:
                idf_of_df[df] = math.log(1.0 + (n - df + 0.5) / (df + 0.5))
            else:
                idf_of_df[df] = math.log(n - df + 0.5) - math.log(df + 0.5)
        idf[t] = idf_of_df[df]
    if variant == _OKAPI and terms > 0:
        floor = _EPSILON * idf.mean()
        for t in range(terms):
            if idf[t] < 0:
                idf[t] = floor

    for t in range(terms):
        start[t + 1] += start[t]
    if avgdl == 0:
        avgdl = length.sum() / n
    scale = 1.0 if variant == _LUCENE else k1 + 1
    document = np.empty(term.size, np.int32)
    weight = np.empty(term.size, np.float32)
    free = start[:-1].copy()
    for i in range(n):
        norm = k1 * (1 - b + b * length[i] / avgdl)
        once = scale / (1 + norm)  # most terms occur once
        for p in range(indptr[i], indptr[i + 1]):
            t, f = term[p], count[p]
            document[free[t]] = i
            weight[free[t]] = idf[t] * (once if f == 1 else scale * f / (f + norm))
            free[t] += 1
    return start, document, weight


@kernel
def dense_rows(indptr: Array, document: Array, weight: Array, n: int) -> tuple[Array, Array]:
    """Copy frequent terms' postings into dense rows: (each term's row or -1, rows [K, n])."""
    terms = indptr.size - 1
    least = max(np.int64(n * _DENSE_SHARE), 1)
    row = np.full(terms, -1, np.int32)
    rows = 0
    for t in range(terms):
        if indptr[t + 1] - indptr[t] > least:
            row[t] = rows
            rows += 1
    dense = np.zeros((rows, n), np.float32)
    for t in range(terms):
        if row[t] >= 0:
            into = dense[row[t]]
            for p in range(indptr[t], indptr[t + 1]):
                into[document[p]] = weight[p]
    return row, dense


@kernel
def score_rows(
    first: int,
    last: int,
    scores: Array,
    q_indptr: Array,
    q_term: Array,
    q_count: Array,
    indptr: Array,
    document: Array,
    weight: Array,
    row: Array,
    dense: Array,
) -> None:
    """Fill rows first..last of the scores [N, M]; a row's terms are added in the query's order."""
    for i in range(first, last):
        into = scores[i]
        into[:] = 0
        for p in range(q_indptr[i], q_indptr[i + 1]):
            t, f = q_term[p], q_count[p]
            if row[t] >= 0:
                part = dense[row[t]]
                for j in range(into.size):
                    into[j] += f * part[j]
            else:
                for k in range(indptr[t], indptr[t + 1]):
                    into[document[k]] += f * weight[k]


@kernel
def batch_factors(
    ids: Array,
    offsets: Array,
    q_ids: Array,
    q_offsets: Array,
    same: bool,
    table: Array,
    k1: float,
    b: float,
    avgdl: float,
    variant: int,
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """Compute a batch's factors: queries' counts (CSR), weights by term (CSR), documents' lengths.

    `table` ends as it began: all -1.
    """
    vocabulary = np.empty(min(ids.size, table.size), np.int64)
    indptr, term, count, length, terms = count_terms(ids, offsets, table, vocabulary, 0, True)
    q_indptr, q_term, q_count = indptr, term, count
    if not same:
        q_indptr, q_term, q_count, _, _ = count_terms(
            q_ids, q_offsets, table, vocabulary, terms, False
        )
    for t in range(terms):
        table[vocabulary[t]] = -1
    start, document, weight = weigh_postings(
        indptr, term, count, length, terms, k1, b, avgdl, variant
    )
    return q_indptr, q_term, q_count, start, document, weight, length


@kernel
def prepare_batch(
    ids: Array,
    offsets: Array,
    q_ids: Array,
    q_offsets: Array,
    same: bool,
    table: Array,
    k1: float,
    b: float,
    avgdl: float,
    variant: int,
) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array]:
    """Compute a batch's factors, with dense rows, as `score_rows` takes them."""
    q_indptr, q_term, q_count, start, document, weight, length = batch_factors(
        ids, offsets, q_ids, q_offsets, same, table, k1, b, avgdl, variant
    )
    row, dense = dense_rows(start, document, weight, length.size)
    return q_indptr, q_term, q_count, start, document, weight, row, dense


@kernel
def score_batch(
    scores: Array,
    ids: Array,
    offsets: Array,
    q_ids: Array,
    q_offsets: Array,
    same: bool,
    table: Array,
    k1: float,
    b: float,
    avgdl: float,
    variant: int,
) -> None:
    """Prepare a batch and fill its scores, with no Python object in between."""
    q_indptr, q_term, q_count, start, document, weight, row, dense = prepare_batch(
        ids, offsets, q_ids, q_offsets, same, table, k1, b, avgdl, variant
    )
    score_rows(
        0, scores.shape[0], scores, q_indptr, q_term, q_count, start, document, weight, row, dense
    )
