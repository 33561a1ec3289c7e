"""Near duplicates between two sets of functions: MinHash to find candidates, Jaccard to judge.

Code is compared as the set of its three-token shingles, after case, white space, brackets and
comments are gone. Candidates share one of 24 bands of 4 MinHash values (Broder 1997): a pair of
similarity 0.7 is missed with probability (1 - 0.7^4)^24 = 0.14 %, an equal one never.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .pairs import Pair

SIMILARITY = 0.7
SHINGLE_TOKENS = 3
_BANDS, _BAND_ROWS = 24, 4

Hashes = npt.NDArray[np.uint64]

_TOKEN = re.compile(r"\w+|[-+*/<>=%&|^!]+")
_HASH_COMMENT = re.compile(r"#.*")
_SLASH_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def normalised_query(query: str) -> str:
    """Return a query's words alone, lower case: what makes two queries the same."""
    return " ".join(re.findall(r"\w+", query.lower()))


def normalised_code(pair: Pair) -> list[str]:
    """Return the lower-case tokens of a pair's code, without comments, brackets and commas."""
    code = pair.code
    if pair.language in ("python", "ruby", "php"):
        code = _HASH_COMMENT.sub("", code)
    if pair.language not in ("python", "ruby"):
        code = _SLASH_COMMENT.sub("", code)
    return _TOKEN.findall(code.lower())


def near_duplicates(
    pairs: Sequence[Pair], of: Sequence[Pair], *, similarity: float = SIMILARITY
) -> npt.NDArray[np.bool_]:
    """Say which of N pairs have code that nearly stands in another set of M.

    Args:
        pairs: The pairs to judge.
        of: The pairs to compare them with.
        similarity: Smallest Jaccard similarity of two shingle sets that counts, in (0, 1].

    Returns:
        bool [N].

    Raises:
        ValueError: `similarity` is not in (0, 1].
    """
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity must be in (0, 1], got {similarity}")
    found = np.zeros(len(pairs), dtype=np.bool_)
    if not pairs or not of:
        return found
    ids: dict[str, int] = {}
    left, right = _shingles(pairs, ids), _shingles(of, ids)
    left_values, right_values = _minhash(left), _minhash(right)  # [N, 96], [M, 96]
    rows, others = _candidates(left_values, right_values)
    # The share of equal MinHash values estimates the similarity with a deviation below 0.05.
    estimate = np.concatenate(
        [
            (left_values[rows[i : i + 65536]] == right_values[others[i : i + 65536]]).mean(axis=1)
            for i in range(0, len(rows), 65536)
        ]
        or [np.zeros(0)]
    )
    for index in np.argsort(-estimate, kind="stable"):
        if estimate[index] < similarity - 0.2:
            break
        row = rows[index]
        if not found[row]:
            found[row] = _jaccard(left.row(row), right.row(others[index])) >= similarity
    return found


class _Shingles(NamedTuple):
    """Shingle hashes of all rows, flat, and where each row begins: offsets [rows + 1]."""

    hashes: Hashes
    offsets: npt.NDArray[np.int64]

    def row(self, index: int) -> Hashes:
        """Return the shingle set of one row."""
        return np.unique(self.hashes[self.offsets[index] : self.offsets[index + 1]])


def _shingles(pairs: Iterable[Pair], ids: dict[str, int]) -> _Shingles:
    """Hash every run of three tokens; a row's last shingles reach into its padding."""
    flat: list[int] = []
    offsets = [0]
    for pair in pairs:
        tokens = normalised_code(pair) or [""]
        flat.extend(ids.setdefault(token, len(ids) + 1) for token in tokens)
        flat.extend([0] * (SHINGLE_TOKENS - 1))  # so no shingle spans two rows
        offsets.append(len(flat))
    tokens_hashed = _mix(np.array(flat, dtype=np.uint64))
    rolled = tokens_hashed.copy()
    for step in range(1, SHINGLE_TOKENS):
        rolled = _mix(rolled) + np.roll(tokens_hashed, -step)
    ends = np.array(offsets[1:], dtype=np.int64)
    keep = np.ones(len(flat), dtype=np.bool_)
    for back in range(1, SHINGLE_TOKENS):
        keep[ends - back] = False
    lengths = np.diff(np.array(offsets, dtype=np.int64)) - (SHINGLE_TOKENS - 1)
    return _Shingles(_mix(rolled[keep]), np.concatenate([[0], np.cumsum(lengths)]))


def _minhash(shingles: _Shingles) -> Hashes:
    """Return 96 MinHash values a row: the least of its shingles under 96 hash functions."""
    factors = _mix(np.arange(1, 2 * _BANDS * _BAND_ROWS + 1, dtype=np.uint64)).reshape(2, -1)
    starts = shingles.offsets[:-1]
    values = np.empty((len(starts), _BANDS * _BAND_ROWS), dtype=np.uint64)
    for column, (factor, shift) in enumerate(zip(*factors, strict=True)):
        values[:, column] = np.minimum.reduceat(
            shingles.hashes * (factor | np.uint64(1)) + shift, starts
        )
    return values


def _candidates(left: Hashes, right: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the index pairs (row of left, row of right) that share a whole band."""
    keys: list[npt.NDArray[np.int64]] = []
    for band in range(0, _BANDS * _BAND_ROWS, _BAND_ROWS):
        left_keys, right_keys = (_band_key(each, band) for each in (left, right))
        order = np.argsort(right_keys, kind="stable")
        ordered = right_keys[order]
        first = np.searchsorted(ordered, left_keys, side="left")
        count = np.searchsorted(ordered, left_keys, side="right") - first
        rows = np.repeat(np.arange(len(left)), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        others = order[np.repeat(first, count) + within]
        keys.append(rows * len(right) + others)
    unique = np.unique(np.concatenate(keys))
    return unique // len(right), unique % len(right)


def _band_key(values: Hashes, band: int) -> Hashes:
    key: Hashes = values[:, band]
    for column in range(band + 1, band + _BAND_ROWS):
        key = _mix(key) + values[:, column]
    return key


def _jaccard(left: Hashes, right: Hashes) -> float:
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)


def _mix(values: Hashes) -> Hashes:
    """Scramble 64-bit integers one to one: the finaliser of SplitMix64 (Steele et al. 2014)."""
    mixed: Hashes = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
