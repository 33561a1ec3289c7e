"""What a batch brings beside its embeddings, of all ranks: similarities and duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distributed import Peers, gather, gather_texts
from ..estimators.bm25 import PROMPT_LENGTH, own_token_ids, token_ids
from ..estimators.collate import ROW, TEXT
from ..estimators.duplicates import Array, count_masked, duplicate_groups, fingerprints
from ..estimators.similarity import Groups, Similarity
from .options import Estimator


def check_columns(columns: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a batch that is not made of rows with a query and a code each.

    Raises:
        ValueError: There are fewer than two columns, no rows, columns of unequal length, or a
            static encoder's ids were cut off elsewhere than its texts.
    """
    if len(columns) < 2:
        raise ValueError(f"a batch must have columns of queries and of codes, got {len(columns)}")
    for column in columns:
        if "offsets" in column:
            _check_flat(column["input_ids"], column["offsets"])
    rows = [row_count(column) for column in columns]
    if rows[0] == 0 or len(set(rows)) > 1:
        raise ValueError(f"the columns of a batch must have the same rows, 1 or more, got {rows}")


def _check_flat(ids: Tensor, offsets: Tensor) -> None:
    """Refuse flat ids without their texts' offsets: what a batch is when cut by rows."""
    ends = torch.cat([offsets.new_zeros(1), offsets, offsets.new_full((1,), len(ids))])
    begins_late = len(ids) > 0 if len(offsets) == 0 else bool(offsets[0] != 0)
    if begins_late or bool((ends.diff() < 0).any()):
        raise ValueError(
            f"offsets must rise from 0 to at most the {len(ids)} input_ids of a column, which they "
            "do not: a streaming data set's batches are cut by rows, which a static encoder's flat "
            "ids have none of; give the trainer's arguments "
            'accelerator_config={"dispatch_batches": False}'
        )


def row_count(features: Mapping[str, Any]) -> int:
    """Return how many texts a column has; [N, L], unpadded, or a static encoder's."""
    if "cu_seq_lens_q" in features:
        return len(features["cu_seq_lens_q"]) - 1
    for name in ("offsets", "input_ids"):
        if name in features:
            return len(features[name])
    # Of no texts the library makes no features.
    return next((len(value) for value in features.values() if isinstance(value, Tensor)), 0)


def device_of(features: Mapping[str, Any]) -> torch.device:
    """Return the device of a column's features."""
    return next(value.device for value in features.values() if isinstance(value, Tensor))


def batch_similarity(
    estimator: Estimator, columns: Sequence[dict[str, Any]], peers: Peers
) -> Similarity:
    """Return what an estimator finds of all ranks' rows."""
    if len(peers.sizes) == 1:
        return estimator(columns)
    if getattr(estimator, "by_row", False):
        return gathered_vectors(estimator(columns), peers)
    read = getattr(estimator, "columns_read", None)
    gathered = gathered_features(columns[:read], peers)
    # What is not read is not gathered; but that there are further codes counts.
    return estimator([*gathered, *({} for _ in columns[len(gathered) :])])


def batch_groups(columns: Sequence[dict[str, Any]], peers: Peers) -> tuple[Groups | None, int]:
    """Number the duplicates among all ranks' rows, None where there are none.

    Returns:
        The groups, and how many (query, code) pairs they mask, of all ranks' rows.

    Raises:
        ValueError: The features hold no token ids.
    """
    device = device_of(columns[0])
    try:
        texts = [token_ids(column) for column in columns]
    except ValueError as error:
        raise ValueError(
            f"mask_duplicates=True tells duplicates by token ids (False does without): {error}"
        ) from None
    prints = [fingerprints(each) for each in texts]
    if len(peers.sizes) > 1:
        prints = gathered_prints(prints, peers, device)
    query, code = duplicate_groups(prints)
    masked = count_masked(query, code)
    if masked == 0:
        return None, 0
    return (torch.from_numpy(query).to(device), torch.from_numpy(code).to(device)), masked


def gathered_features(columns: Sequence[dict[str, Any]], peers: Peers) -> list[dict[str, Any]]:
    """Return all ranks' token ids, as a static encoder has them, their row numbers and texts."""
    found = []
    for column in columns:
        # A rank may hold another data set, of another prompt. Static encoders' is told of all rows.
        is_static = "offsets" in column
        device, texts = device_of(column), (token_ids if is_static else own_token_ids)(column)
        lengths = peers.gather(torch.from_numpy(np.diff(texts.offsets)).to(device))
        tokens = tuple(int(part.sum()) for part in torch.split(lengths, list(peers.sizes)))
        ids = torch.from_numpy(texts.ids.astype(np.int32)).to(device)  # half as much to send
        gathered: dict[str, Any] = {
            "input_ids": gather(ids, Peers(tokens, peers.rank)).long(),
            "offsets": lengths.cumsum(0) - lengths,
        }
        if not is_static:
            gathered[PROMPT_LENGTH] = 0
        if ROW in column:
            gathered[ROW] = peers.gather(column[ROW])
        if TEXT in column:
            gathered[TEXT] = gather_texts(column[TEXT], peers)
        found.append(gathered)
    return found


def gathered_prints(prints: Sequence[Array], peers: Peers, device: torch.device) -> list[Array]:
    """Return the fingerprints of all ranks' texts: of the texts themselves nothing is sent."""
    own = torch.from_numpy(np.stack(prints, axis=1))  # [n, C, 2]
    gathered = peers.gather(own.to(device)).cpu().numpy()
    return list(np.ascontiguousarray(gathered.transpose(1, 0, 2)))


def gathered_vectors(pair: Similarity, peers: Peers) -> Similarity:
    """Return all ranks' vectors of queries and codes.

    Raises:
        TypeError, ValueError: It is no pair, or not of whole columns of codes.
    """
    if len(peers.sizes) == 1:
        return pair
    rows = peers.sizes[peers.rank]
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(
            "an estimator with by_row must return a pair of vectors to be gathered over ranks, got "
            f"{type(pair).__name__}"
        )
    query, code = pair
    if len(query) != rows or len(code) == 0 or len(code) % rows:
        raise ValueError(
            f"the estimator must return {rows} vectors of queries and those of whole columns of "
            f"{rows} codes, got {len(query)} and {len(code)}"
        )
    if code is query:
        query = code = peers.gather(query)
        return query, code
    return peers.gather(query), peers.gather_columns(code)
