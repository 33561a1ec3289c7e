"""Which pairs of a batch are the same pair twice: a repeated query or a repeated code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..bm25 import TokenIds
from ..compiled import kernel

Array = np.ndarray[Any, Any]

# Odd constants of SplitMix64 (Steele, Lea and Flood, 2014), and two seeds.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SEEDS = (np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344))  # digits of pi
_HALF = np.uint64(32)


def fingerprints(texts: TokenIds) -> Array:
    """Return 128 bits of each text's ids, int64 [N, 2], which stand for the text from here on.

    Two texts of the same fingerprint are taken for equal: by chance that is one in 2^128, but texts
    could be made on purpose that have the same.
    """
    return _hash(np.asarray(texts.ids, np.int64), np.asarray(texts.offsets, np.int64))


def duplicate_groups(columns: Sequence[Array]) -> tuple[Array, Array]:
    """Number the groups of pairs that share a query or a code.

    The code of another pair of one's own group is no negative: it answers the same query, or it
    is the same code. Groups are transitive: a pair that shares its query with a second one, which
    shares its code with a third, is in one group with the third.

    Args:
        columns: Fingerprints [N, 2] of the queries, of their codes, and of any further columns of
            codes that are nobody's positive.

    Returns:
        Group of each query [N] and of each code [M], int64; codes column by column.

    Raises:
        ValueError: The columns are of unequal length.
    """
    if len({len(column) for column in columns}) > 1:
        raise ValueError(
            f"columns must be of equal length, got {[len(column) for column in columns]} rows"
        )
    query, code = columns[:2]
    groups = _joined(_first_rows(query, query), _first_rows(code, code))
    codes = [groups]
    for i, column in enumerate(columns[2:], start=1):
        twin = _first_rows(code, column)  # a further code is in a group only as a positive's twin
        alone = np.arange(i * len(query), (i + 1) * len(query))
        codes.append(np.where(twin < 0, alone, groups[twin]))
    return groups, np.concatenate(codes)


def count_masked(query_groups: Array, code_groups: Array) -> int:
    """Return how many (query, code) pairs the groups mask out, the positives not counted."""
    size = int(max(query_groups.max(), code_groups.max())) + 1
    queries = np.bincount(query_groups, minlength=size)
    codes = np.bincount(code_groups, minlength=size)
    return int(queries @ codes) - len(query_groups)


@kernel
def _hash(ids: Array, offsets: Array) -> Array:
    """Mix each text's ids into two lanes, one id after the other; each mix is a bijection."""
    prints = np.empty((offsets.size - 1, 2), np.int64)
    for row in range(offsets.size - 1):
        first, second = _SEEDS
        for i in range(offsets[row], offsets[row + 1]):
            if ids[i] < 0:  # padding
                continue
            token = np.uint64(ids[i]) + _STEP
            first = (first ^ token) * _MIX[0]
            first ^= first >> _HALF
            second = (second + token) * _MIX[1]
            second ^= second >> _HALF
        prints[row, 0] = np.int64(first)
        prints[row, 1] = np.int64(second)
    return prints


@kernel
def _place(table: Array, texts: Array, first: int, second: int) -> int:
    """Return where the table holds the row of `texts` with this fingerprint, or its free place."""
    place = first & (len(table) - 1)
    while table[place] >= 0:
        held = table[place]
        if texts[held, 0] == first and texts[held, 1] == second:
            break
        place = (place + 1) & (len(table) - 1)
    return place


@kernel
def _first_rows(texts: Array, asked: Array) -> Array:
    """Return the first of the rows `texts` [N, 2] that equals each row asked for [A, 2], or -1."""
    size = 1
    while size < 2 * len(texts):
        size *= 2
    table = np.full(size, -1, np.int64)  # open addressing, at most half full
    for row in range(len(texts)):
        place = _place(table, texts, texts[row, 0], texts[row, 1])
        if table[place] < 0:
            table[place] = row
    found = np.empty(len(asked), np.int64)
    for row in range(len(asked)):
        found[row] = table[_place(table, texts, asked[row, 0], asked[row, 1])]
    return found


@kernel
def _joined(first_query: Array, first_code: Array) -> Array:
    """Join each row with the first of its query and the first of its code; return row numbers."""
    parent = np.arange(len(first_query))
    for row in range(len(parent)):
        for other in (first_query[row], first_code[row]):
            a, b = row, other
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            # The higher number hangs on the lower: a parent is never higher than its child.
            parent[max(a, b)] = min(a, b)
    for row in range(len(parent)):
        parent[row] = parent[parent[row]]
    return parent
