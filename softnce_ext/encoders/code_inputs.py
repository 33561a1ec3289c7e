"""GraphCodeBERT's code side as flat arrays: word pieces, the nodes' pieces, the nodes' sources.

A row is ``<s> pieces </s> nodes``. Source: GraphCodeBERT (Guo et al. 2021), section 4, and the
inputs of its code search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data.dataflow.extract import DataFlow

Array = np.ndarray[Any, Any]

_REMEMBERED = 500_000  # tokens, some 100 MB; then it starts anew
_REMEMBERED_CHARACTERS = 64  # longer tokens are string literals, which do not come again


class PieceTable:
    """Word pieces of a code's tokens, each token split on its own; those met before remembered.

    Args:
        tokenizer: A byte-pair tokenizer of transformers that marks a leading space.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def __call__(self, codes: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """Return the ids of each token of each code; all but a code's first follow a space.

        New tokens of all codes are split in one call, which costs far more than splitting one.
        """
        texts = [[*tokens[:1], *(" " + token for token in tokens[1:])] for tokens in codes]
        found = {text: self._known.get(text) for each in texts for text in each}
        fresh = [text for text, ids in found.items() if ids is None]
        if fresh:
            read = self.tokenizer(fresh, add_special_tokens=False, return_attention_mask=False)
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            for text, ids in zip(fresh, read["input_ids"], strict=True):
                found[text] = ids
                if len(text) <= _REMEMBERED_CHARACTERS:
                    self._known[text] = ids
        return [[found[text] or [] for text in each] for each in texts]


class CodeRow(NamedTuple):
    """One code as the encoder takes it.

    Attributes:
        ids: ``<s> pieces </s>``, int32.
        spans: First piece and piece after the last of each node's token, as positions of the
            row, int32 [K, 2]; (0, 0) where they were cut off.
        edges: Node and the node it comes from, int32 [E, 2], counted from the row's first node.
    """

    ids: Array
    spans: Array
    edges: Array


def code_row(
    flow: DataFlow,
    pieces: Sequence[Sequence[int]],
    *,
    length: int,
    node_room: int,
    ends: tuple[int, int],
) -> CodeRow:
    """Cut a code to a row: pieces first, then as many nodes as fit behind them.

    Args:
        flow: Its data flow.
        pieces: The word pieces of its tokens.
        length: Positions of a row, `node_room` included.
        node_room: Positions that pieces leave to nodes where there are so many; a shorter code
            leaves more.
        ends: The ids of ``<s>`` and ``</s>``.
    """
    kept = length - 2 - min(len(flow.nodes), node_room)
    flat = [piece for token in pieces for piece in token]
    ids = [ends[0], *flat[:kept], ends[1]]
    nodes = flow.nodes[: length - len(ids)]
    stops = np.cumsum([len(token) for token in pieces], dtype=np.int32) + 1  # behind <s>
    spans = np.zeros((len(nodes), 2), dtype=np.int32)
    if nodes:
        spans[:, 1] = stops[nodes]
        spans[:, 0] = spans[:, 1] - [len(pieces[ordinal]) for ordinal in nodes]
        spans[spans[:, 1] >= len(ids)] = 0
    # Of several nodes of one token the last stands for it, as in the published code.
    place = {ordinal: node for node, ordinal in enumerate(nodes)}
    edges = [
        (node, place[source])
        for node, sources in enumerate(flow.sources[: len(nodes)])
        for source in sources
        if source in place
    ]
    return CodeRow(
        np.array(ids, dtype=np.int32), spans, np.array(edges, dtype=np.int32).reshape(-1, 2)
    )


class CodeInputs(NamedTuple):
    """Rows of many codes, one behind the other.

    Attributes:
        ids: Of all rows, int32; row i has ``ids[id_offsets[i] : id_offsets[i + 1]]``.
        spans: The same of the nodes' spans, int32 [sum of K, 2], with `span_offsets`.
        edges: The same of the edges, int32 [sum of E, 2], with `edge_offsets`.
    """

    ids: Array
    id_offsets: Array
    spans: Array
    span_offsets: Array
    edges: Array
    edge_offsets: Array

    @classmethod
    def of(cls, rows: Sequence[CodeRow]) -> CodeInputs:
        """Join rows."""
        return cls(
            *_joined([row.ids for row in rows], ()),
            *_joined([row.spans for row in rows], (2,)),
            *_joined([row.edges for row in rows], (2,)),
        )

    @classmethod
    def joined(cls, parts: Sequence[CodeInputs]) -> CodeInputs:
        """Join what was made in parts."""
        joined = []
        for values, offsets in ((0, 1), (2, 3), (4, 5)):
            joined.append(np.concatenate([part[values] for part in parts]))
            lengths = np.concatenate([np.diff(part[offsets]) for part in parts])
            joined.append(np.append(np.int64(0), np.cumsum(lengths)))
        return cls(*joined)

    @property
    def rows(self) -> int:
        """How many codes there are."""
        return len(self.id_offsets) - 1

    def row(self, index: int) -> CodeRow:
        """Return one code."""
        parts = []
        for values, offsets in (self[0:2], self[2:4], self[4:6]):
            parts.append(values[offsets[index] : offsets[index + 1]])
        return CodeRow(*parts)


def padded(rows: Iterable[CodeRow], *, padding: int, unknown: int) -> dict[str, Array]:
    """Return rows as a batch, int64: arrays [N, ...] that may be cut and joined by row.

    Args:
        rows: The rows.
        padding: The padding id; positions of pieces count from the one behind it.
        unknown: The id that nodes have.

    Returns:
        `input_ids`, `attention_mask` (1 at pieces and nodes) and `position_ids` (0 at nodes),
        [N, T]; `links` [N, M, 2], a node's and its piece's position, the first node's first;
        `edges` [N, E, 2], a node's and its source's position. Links and edges are filled up with
        (0, 0) in front, which says that ``<s>`` sees itself. M is 0 where no row has nodes.
    """
    rows = list(rows)
    sizes = [(len(row.ids), len(row.ids) + len(row.spans)) for row in rows]
    shape = (len(rows), max((size for _, size in sizes), default=0))
    ids = np.full(shape, padding, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    positions = np.full(shape, padding, dtype=np.int64)
    links, edges = [], []
    for index, (row, (pieces, size)) in enumerate(zip(rows, sizes, strict=True)):
        ids[index, :pieces] = row.ids
        ids[index, pieces:size] = unknown
        mask[index, :size] = 1
        positions[index, :pieces] = np.arange(padding + 1, padding + 1 + pieces)
        positions[index, pieces:size] = 0
        widths = row.spans[:, 1] - row.spans[:, 0]
        # Of each linked piece: how many came before it in its own node.
        within = np.arange(widths.sum()) - np.repeat(np.cumsum(widths) - widths, widths)
        node = np.repeat(np.arange(pieces, size), widths)
        links.append(np.stack([node, np.repeat(row.spans[:, 0], widths) + within], axis=1))
        edges.append(row.edges + pieces)
    has_nodes = any(pieces < size for pieces, size in sizes)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "links": _filled(links, least=int(has_nodes)),
        "edges": _filled(edges, least=0),
    }


def _joined(parts: Sequence[Array], shape: tuple[int, ...]) -> tuple[Array, Array]:
    offsets = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.concatenate([np.zeros((0, *shape), dtype=np.int32), *parts]), offsets


def _filled(parts: Sequence[Array], least: int) -> Array:
    """Stack lists of pairs, filled up in front with (0, 0), int64 [N, longest, 2]."""
    filled = np.zeros((len(parts), max([least, *map(len, parts)]), 2), dtype=np.int64)
    for index, part in enumerate(parts):
        if len(part):
            filled[index, -len(part) :] = part
    return filled
