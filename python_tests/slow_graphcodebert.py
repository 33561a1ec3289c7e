"""GraphCodeBERT's code inputs built literally, position by position: the oracle of its tests.

Nothing of softnce_ext is used beyond what `extract` found.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class SlowRow(NamedTuple):
    """A row of L positions: ids, positions, who sees whom, and the word vectors that go in."""

    ids: list[int]
    positions: list[int]
    sees: list[list[bool]]
    vectors: torch.Tensor


def slow_row(
    flow: Any, tokenizer: Any, words: torch.Tensor, code_length: int = 256, node_length: int = 64
) -> SlowRow:
    """Build a row of ``code_length + node_length`` positions.

    Args:
        flow: Tokens, nodes and sources, as `extract` returns them.
        tokenizer: RoBERTa's.
        words: Word embeddings, [V, D].
        code_length: Positions of the code.
        node_length: Positions kept for nodes.
    """
    length = code_length + node_length
    nodes = list(zip(flow.nodes, flow.sources, strict=True))

    # Pieces of each token: the first as it is, the others behind "@ " whose piece is taken off.
    pieces: list[str] = []
    span: dict[int, tuple[int, int]] = {}
    for ordinal, token in enumerate(flow.tokens):
        cut = tokenizer.tokenize(("@ " if ordinal else "") + token)[1 if ordinal else 0 :]
        span[ordinal] = (len(pieces), len(pieces) + len(cut))
        pieces = pieces + cut
    pieces = pieces[: length - 2 - min(len(nodes), node_length)]
    source = [tokenizer.cls_token, *pieces, tokenizer.sep_token]
    ids = tokenizer.convert_tokens_to_ids(source)
    positions = [2 + each for each in range(len(source))]
    nodes = nodes[: length - len(source)]
    for _ in nodes:
        ids.append(tokenizer.unk_token_id)
        positions.append(0)
    while len(ids) < length:
        ids.append(tokenizer.pad_token_id)
        positions.append(1)

    # Node to node, by the ordinals that are still there.
    node_of: dict[int, int] = {}
    for index, (ordinal, _) in enumerate(nodes):
        node_of[ordinal] = index
    to_nodes = [[node_of[each] for each in froms if each in node_of] for _, froms in nodes]
    to_pieces = [(span[ordinal][0] + 1, span[ordinal][1] + 1) for ordinal, _ in nodes]

    node_index = sum(1 for position in positions if position > 1)
    max_length = sum(1 for position in positions if position != 1)
    sees = [[False] * length for _ in range(length)]
    for row in range(node_index):
        for column in range(node_index):
            sees[row][column] = True
    for row in range(length):
        if ids[row] in (tokenizer.cls_token_id, tokenizer.sep_token_id):
            for column in range(max_length):
                sees[row][column] = True
    for index, (start, stop) in enumerate(to_pieces):
        if start < node_index and stop < node_index:
            for piece in range(start, stop):
                sees[node_index + index][piece] = True
                sees[piece][node_index + index] = True
    for index, froms in enumerate(to_nodes):
        for other in froms:
            sees[node_index + index][node_index + other] = True

    # Dense averaging: a node is the mean of the pieces it sees.
    vectors = words[torch.tensor(ids)].clone()
    given = vectors.clone()
    for row in range(length):
        if positions[row] == 0:
            total, count = torch.zeros_like(given[0]), 0
            for column in range(length):
                if sees[row][column] and positions[column] > 1:
                    total, count = total + given[column], count + 1
            vectors[row] = total / (count + 1e-10)
    return SlowRow(ids, positions, sees, vectors)
