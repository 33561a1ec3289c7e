"""Ask an index for the functions that a sentence describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ..data.pairs import Pair
from ..encoders.saved import encode
from ..lexical import blend
from .index import Index

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Mode = Literal["hybrid", "dense", "lexical"]


@dataclass(frozen=True)
class Hit:
    """A function found, and the score it was found with."""

    function: Pair
    score: float


def search(
    index: Index,
    model: SentenceTransformer,
    query: str,
    *,
    top: int = 5,
    mode: Mode = "hybrid",
    hybrid_weight: float = 0.3,
) -> list[Hit]:
    """Return the functions that fit a sentence best, best first.

    Args:
        index: The functions, indexed with the same model.
        model: The encoder.
        query: What the function should do.
        top: How many functions at most.
        mode: "dense" compares vectors, "lexical" words (and returns only functions that share
            some), "hybrid" both.
        hybrid_weight: Weight of the lexical score in "hybrid".

    Raises:
        ValueError: The query is empty, or an option is out of range.
    """
    if not query.strip():
        raise ValueError("query must hold at least one word, got an empty one")
    if top < 1:
        raise ValueError(f"top must be >= 1, got {top}")
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    scores = np.zeros(0, dtype=np.float32)
    if mode != "lexical":
        vector = encode(model, [query], "query")
        scores = vector @ index.vectors.T  # [1, M]
    if mode != "dense":
        words = index.lexical.scores([query])  # [1, M]
        scores = blend(scores, words, hybrid_weight) if mode == "hybrid" else words
    order = np.argsort(-scores[0], kind="stable")[:top]
    hits = [Hit(index.function(int(i)), float(scores[0, i])) for i in order]
    return [hit for hit in hits if hit.score > 0] if mode == "lexical" else hits
