"""The features of texts without their padding, kept from when a batch first needs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]
    Read = Callable[[list[str]], dict[str, Any]]


class KeptRows:
    """Batches of a column of texts, each text tokenized once.

    Rows are kept where batches of them differ by padding alone, which stands behind the tokens and
    is the same everywhere. Where an encoder makes other features (padding in front or up to a fixed
    length, pairs of positions), every batch is read anew.

    Args:
        texts: The column. The encoders that read it must do so alike, as copies of one do.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.rows: dict[int, Array] = {}  # [F, T] each: F features of the row's T tokens
        self.shared: _Shared | None = None
        self.keeps = True

    def batch(self, rows: Sequence[int], read: Read) -> dict[str, Any]:
        """Return the features of rows, those that reading their texts gives."""
        unknown = [row for row in rows if row not in self.rows]
        if 0 < len(unknown) < len(rows):
            self._read(unknown, read)
        known = [self.rows[row] for row in rows if row in self.rows]
        alike = len({row.shape[1] for row in known}) == 1
        shared = self.shared
        if len(known) == len(rows) and shared is not None and (alike or shared.padding):
            return _joined(known, shared)
        return self._read(rows, read)

    def _read(self, rows: Sequence[int], read: Read) -> dict[str, Any]:
        features = read([self.texts[row] for row in rows])
        if self.keeps:
            self._keep(rows, features)
        return features

    def _keep(self, rows: Sequence[int], features: dict[str, Any]) -> None:
        found = _split(features)
        if found is None:
            self.keeps, self.rows = False, {}
            return
        kept, shared = found
        before = shared if self.shared is None else self.shared
        if not (shared.padding and before.padding):
            either = shared.padding or before.padding
            shared, before = (each._replace(padding=either) for each in (shared, before))
        if shared != before:
            self.keeps, self.rows = False, {}
            return
        self.rows.update(zip(rows, kept, strict=True))
        self.shared = shared


class _Shared(NamedTuple):
    """What all batches have in common.

    Attributes:
        names: Of the features of the tokens.
        padding: What each is padded with; () where no row was padded yet.
        empty: Shape of a row of each feature without numbers, as a query's data flow.
        others: What is no tensor.
    """

    names: tuple[str, ...]
    padding: tuple[int, ...]
    empty: dict[str, tuple[int, ...]]
    others: dict[str, Any]


def _split(features: dict[str, Any]) -> tuple[list[Array], _Shared] | None:
    """Return a batch's rows and what they share; None where its features are of another form."""
    import torch

    found = {name: each for name, each in features.items() if isinstance(each, torch.Tensor)}
    others = {name: each for name, each in features.items() if name not in found}
    tensors = {name: each for name, each in found.items() if each.numel()}
    empty = {name: tuple(each.shape[1:]) for name, each in found.items() if name not in tensors}
    mask = tensors.get("attention_mask")
    if mask is None or any(
        (each.shape, each.dtype) != (mask.shape, torch.int64) for each in tensors.values()
    ):
        return None
    stacked = torch.stack(list(tensors.values())).numpy()  # [F, N, T]
    places = np.arange(1, mask.shape[1] + 1)
    ends = (mask.ne(0).numpy() * places).max(1)  # [N]
    outside = stacked[:, places > ends[:, None]]  # [F, padding of all rows]
    if not mask[:, 0].all() or ends.max() < len(places) or (outside != outside[:, :1]).any():
        return None
    # 16 bits do for the pieces of most vocabularies.
    small = stacked.astype(np.result_type(*map(np.min_scalar_type, (stacked.min(), stacked.max()))))
    rows = [small[:, index, :end].copy() for index, end in enumerate(ends)]
    return rows, _Shared(tuple(tensors), tuple(outside[:, :1].flatten().tolist()), empty, others)


def _joined(rows: Sequence[Array], shared: _Shared) -> dict[str, Any]:
    """Return rows as a batch, padded to the longest."""
    import torch

    longest = max(row.shape[1] for row in rows)
    full = np.empty((len(shared.names), len(rows), longest), dtype=np.int64)
    if shared.padding:
        full[:] = np.array(shared.padding)[:, None, None]
    for index, row in enumerate(rows):
        full[:, index, : row.shape[1]] = row
    batch = dict(zip(shared.names, map(torch.from_numpy, full), strict=True))
    batch |= {
        name: torch.empty(len(rows), *shape, dtype=torch.int64)
        for name, shape in shared.empty.items()
    }
    return batch | shared.others
