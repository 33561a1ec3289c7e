"""Texts as token ids: the forms they come in, and the one form the kernels take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .bm25_kernels import Array, largest_id


class TokenIds(NamedTuple):
    """Texts as token ids, one after the other; text i is `ids[offsets[i] : offsets[i + 1]]`.

    Attributes:
        ids: Integers [T]. Negative ids are padding and skipped.
        offsets: Integers [N + 1], never falling, from 0 or more to T or less.
    """

    ids: Array
    offsets: Array


Texts = TokenIds | Sequence[Any] | Array


def flat(texts: Texts, name: str) -> tuple[Array, Array, int]:
    """Return texts as ids and offsets, in int64 copies nobody else changes, and the largest id."""
    if isinstance(texts, TokenIds):
        ids, offsets = _part(texts, name)
    elif isinstance(texts, (list, tuple)):
        ids, offsets = _joined(texts, name)
    else:
        array = _integers(texts, name)
        if array.ndim != 2:
            raise ValueError(
                f"{name} must be TokenIds, a list of 1-D integer sequences or an integer array "
                f"[N, L], got shape {list(array.shape)}"
            )
        ids = np.array(array, np.int64, order="C").ravel()
        offsets = np.arange(array.shape[0] + 1, dtype=np.int64) * array.shape[1]
    largest = largest_id(ids, offsets)
    if largest == -2:
        raise ValueError(f"{name}.offsets must never fall, got {offsets.tolist()[:8]}...")
    return ids, offsets, largest


def _part(texts: TokenIds, name: str) -> tuple[Array, Array]:
    """Return the part of the ids that the offsets speak of, and the offsets in it."""
    ids, offsets = _integers(texts.ids, f"{name}.ids"), _integers(texts.offsets, f"{name}.offsets")
    if ids.ndim != 1 or offsets.ndim != 1 or not offsets.size:
        raise ValueError(
            f"{name} must have ids [T] and offsets [N + 1], got shapes {list(ids.shape)} and "
            f"{list(offsets.shape)}"
        )
    first, last = int(offsets[0]), int(offsets[-1])
    if not 0 <= first <= last <= ids.size:
        raise ValueError(f"{name}.offsets must lie in [0, {ids.size}], got {first} to {last}")
    return np.array(ids[first:last], np.int64), np.subtract(offsets, first, dtype=np.int64)


def _joined(texts: Sequence[Any], name: str) -> tuple[Array, Array]:
    """Return sequences of integers one after the other."""
    parts = [_integers(text, f"{name}[{i}]") for i, text in enumerate(texts)]
    for i, part in enumerate(parts):
        if part.ndim != 1:
            raise ValueError(f"{name}[{i}] must have 1 dimension, got shape {list(part.shape)}")
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([part.size for part in parts], out=offsets[1:])
    return np.concatenate([np.empty(0, np.int64), *parts], dtype=np.int64), offsets


def _integers(values: Any, name: str) -> Array:
    """Return an array of integers that int64 can hold, or refuse."""
    array = np.asarray(values)
    if array.dtype.kind == "i":
        return array
    if array.dtype.kind == "u":
        if array.dtype.itemsize == 8 and array.size and array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"{name} must be below 2**63, got {array.max()}")
        return array
    if array.size:
        raise TypeError(f"{name} must hold integers, got {array.dtype}")
    return array.astype(np.int64)  # an empty list is one of floats to numpy


def distinct(ids: Array) -> Array:
    """Return the distinct ids that are no padding, sorted."""
    return np.unique(ids[ids >= 0])


def renumbered(ids: Array, known: Array) -> Array:
    """Return each id's place among the known ones, -1 for others."""
    place = np.minimum(np.searchsorted(known, ids), known.size - 1)
    return np.where(known[place] == ids, place, -1)
