"""Which pairs of a batch are the same pair twice: a repeated query or a repeated code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..bm25 import TokenIds

Array = np.ndarray[Any, Any]


def duplicate_groups(columns: Sequence[TokenIds]) -> tuple[Array, Array]:
    """Number the groups of pairs that share a query or a code, exactly.

    The code of another pair of one's own group is no negative: it answers the same query, or it
    is the same code.

    Args:
        columns: Token ids of the queries [N], of their codes [N], and of any further columns of
            codes [N each] that are nobody's positive.

    Returns:
        Group of each query [N] and of each code [M], int64; codes column by column.
    """
    count = len(columns[0].offsets) - 1
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first_of: dict[bytes, int] = {}
    for column in columns[:2]:
        first_of = {}
        for row, text in enumerate(_texts(column)):
            parent[root(row)] = root(first_of.setdefault(text, row))
    groups = [root(row) for row in range(count)]
    codes = list(groups)
    for column in columns[2:]:  # a further code is in a group only if it is a positive's twin
        for text in _texts(column):
            twin = first_of.get(text)
            codes.append(len(codes) if twin is None else groups[twin])
    return np.array(groups, dtype=np.int64), np.array(codes, dtype=np.int64)


def fingerprints(texts: TokenIds) -> Array:
    """Return 128 bits of each text, int64 [N, 2]: of other ranks' texts no more need be known."""
    digests = [hashlib.blake2b(text, digest_size=16).digest() for text in _texts(texts)]
    return np.frombuffer(b"".join(digests), dtype=np.int64).reshape(-1, 2)


def count_masked(query_groups: Array, code_groups: Array) -> int:
    """Return how many (query, code) pairs the groups mask out, the positives not counted."""
    size = int(max(query_groups.max(), code_groups.max())) + 1
    queries = np.bincount(query_groups, minlength=size)
    codes = np.bincount(code_groups, minlength=size)
    return int(queries @ codes) - len(query_groups)


def _texts(column: TokenIds) -> Iterator[bytes]:
    ids = np.ascontiguousarray(column.ids)
    for begin, end in zip(column.offsets[:-1], column.offsets[1:], strict=True):
        yield ids[begin:end].tobytes()
