"""Rank held-out pairs by everything a training run is compared with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..encoders.load import installed_model, load_model
from ..evaluation.evaluate import (
    Outcome,
    choose_hybrid_weight,
    encode_pairs,
    hybrid_blocks,
    lexical_blocks,
    lexical_of,
    timed,
)
from ..evaluation.ranking import mean_reciprocal_rank, score_blocks
from ..evaluation.significance import in_words, paired_difference

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.pairs import Pair

# Of an installed encoder: what suits all-MiniLM-L6-v2 best on validation packages (MRR 0.729; with
# 64 tokens 0.701, with 256 0.695, with a name counted 5 times 0.721).
PRETRAINED_LENGTH = 128
PRETRAINED_NAME_BOOST = 1


def validation_mrr(model: SentenceTransformer, pairs: Sequence[Pair], name_boost: int) -> float:
    """Return the MRR of a model on validation pairs."""
    return mean_reciprocal_rank(*encode_pairs(model, pairs, name_boost=name_boost))


def hybrid_weight_of(model: SentenceTransformer, pairs: Sequence[Pair], name_boost: int) -> float:
    """Return the weight of the lexical score that is best on validation pairs."""
    vectors = encode_pairs(model, pairs, name_boost=name_boost)
    lexical = lexical_of(pairs, plus=True)
    queries = iter([pair.query for pair in pairs])
    sizes: list[int] = []  # rows of the dense block that was made last

    def dense_blocks() -> Iterator[Any]:
        for scores in score_blocks(*vectors):
            sizes.append(len(scores))
            yield scores

    def lexical_blocks_alike() -> Iterator[Any]:
        while sizes:
            yield lexical.scores(list(islice(queries, sizes.pop())))

    return choose_hybrid_weight(dense_blocks(), lexical_blocks_alike())[0]


def rank_all(
    models: Mapping[str, SentenceTransformer],
    pairs: Sequence[Pair],
    *,
    best: str,
    name_boost: int,
    hybrid_weight: float,
    pretrained: bool = False,
    progress: bool = True,
) -> list[Outcome]:
    """Rank test pairs by words, by each model, by the hybrid and by an installed encoder.

    Args:
        models: Name -> model, in the order of the rows.
        pairs: The test pairs: each query against all codes.
        best: Name of the model that goes into the hybrid.
        name_boost: How often a function's name precedes its code.
        hybrid_weight: From `hybrid_weight_of`.
        pretrained: Rank a pretrained encoder too, if an installed package carries one.
        progress: Show a progress bar on stderr.
    """
    queries = [pair.query for pair in pairs]
    found = installed_model() if pretrained else None
    total = len(models) + 3 + (found is not None)
    with tqdm(total=total, desc="evaluating", unit="system", disable=not progress) as bar:
        outcomes = []
        for name, plus in (("lexical", False), ("lexical+", True)):
            begin = time.perf_counter()
            lexical = lexical_of(pairs, plus=plus)
            spent = time.perf_counter() - begin
            outcomes.append(timed(name, lexical_blocks(lexical, queries), spent))
            bar.update()
        for name, model in models.items():
            outcome, vectors = _dense(name, model, pairs, name_boost)
            outcomes.append(outcome)
            bar.update()
            if name == best:
                blocks = hybrid_blocks(score_blocks(*vectors), lexical, queries, hybrid_weight)
                hybrid = timed("hybrid", blocks, outcome.seconds + outcomes[1].seconds)
        outcomes.append(hybrid)
        bar.update()
        if found is not None:
            title, path = found
            model = load_model(str(path), max_length_tokens=PRETRAINED_LENGTH)
            outcomes.append(_dense(title, model, pairs, PRETRAINED_NAME_BOOST)[0])
            bar.update()
    return outcomes


def add_seconds(outcome: Outcome, seconds: float) -> Outcome:
    """Return an outcome that took so many seconds more."""
    return replace(outcome, seconds=outcome.seconds + seconds)


def differences(outcomes: Sequence[Outcome], packages: Sequence[str]) -> dict[str, Any]:
    """Return the paired differences that a reader looks for, with intervals and in words."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    strongest = max(
        (by_name[name] for name in ("lexical", "lexical+")),
        key=lambda outcome: float(outcome.reciprocals().mean()),
    )
    asked = [("soft-infonce", "infonce"), ("soft-infonce", "lexical"), ("infonce", "lexical")]
    asked.append(("hybrid", strongest.name))
    found = {}
    for first, second in asked:
        if first in by_name and second in by_name:
            gap = paired_difference(
                by_name[first].reciprocals(), by_name[second].reciprocals(), packages
            )
            found[f"{first} minus {second}"] = {
                "mrr": gap.mean,
                "low": gap.low,
                "high": gap.high,
                "words": in_words(gap.mean, gap.low, gap.high),
            }
    return found


def _dense(
    name: str, model: SentenceTransformer, pairs: Sequence[Pair], name_boost: int
) -> tuple[Outcome, tuple[Any, Any]]:
    begin = time.perf_counter()
    vectors = encode_pairs(model, pairs, name_boost=name_boost)
    spent = time.perf_counter() - begin
    return timed(name, score_blocks(*vectors), spent), vectors
