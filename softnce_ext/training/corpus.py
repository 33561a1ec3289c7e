"""What a run trains on, and what it is chosen and measured on: pairs, split, code bases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..data.codesearchnet_language import (
    PARTITIONS,
    PreparedLanguage,
    joined_pairs,
    language_folders,
)
from ..data.codesearchnet_read import Form, is_prepared
from ..data.formats import read_pairs
from ..data.hub import read_hub
from ..data.manifest import apply_manifest, read_manifest
from ..data.mining import mine_interpreter
from ..data.pairs import Pairs, of_language, pair_hash
from ..data.split import Split, split_by_package
from ..evaluation.ranking import PAPER_CUTOFF
from ..evaluation.retrieval import RetrievalTask
from .settings import TrainSettings

HUB = "hf:"


class Corpus(NamedTuple):
    """Pairs to train on, and the tasks they are held against.

    Attributes:
        split: The pairs of the three parts.
        valid: What epoch and hybrid weight are chosen on.
        test: What is ranked once, at the end.
        cutoff: Ranks beyond it count as 0 in the MRR; None for all.
        prepared: Whether `softnce prepare csn` wrote the data, which then have forms.
    """

    split: Split
    valid: RetrievalTask
    test: RetrievalTask
    cutoff: int | None
    prepared: bool = False


def read_corpus(
    settings: TrainSettings, *, progress: bool = True
) -> tuple[Pairs, list[PreparedLanguage]]:
    """Read the pairs the settings name.

    Returns:
        The pairs, and the languages they are of where `softnce prepare csn` wrote them.

    Raises:
        FileNotFoundError: Nothing is there, or a part of what was prepared is not.
        ValueError: The data cannot be read, have no tokens that are asked for, or hold nothing of
            the language.
    """
    prepared = _prepared(settings)
    if settings.form == "tokens" and not prepared:
        raise ValueError(
            "form tokens is for data that softnce prepare csn wrote, got data "
            + (settings.data or "of this Python's packages")
        )
    if prepared:
        pairs = joined_pairs(prepared, PARTITIONS)
    elif settings.data is None:
        pairs = mine_interpreter(progress=progress)
    elif settings.data.startswith(HUB):
        pairs = read_hub(settings.data.removeprefix(HUB), progress=progress)
    else:
        pairs = read_pairs(Path(settings.data), language=settings.language, progress=progress)
    return of_language(pairs, settings.language), prepared


def split_corpus(
    pairs: Pairs, prepared: Sequence[PreparedLanguage], settings: TrainSettings
) -> Corpus:
    """Split pairs, and say what valid and test are ranked against.

    The queries of one prepared language are ranked against its whole code base, as in the paper;
    others against the codes of their own part.

    Raises:
        ValueError: The pairs do not fill three parts, fewer than two are left to train on or fewer
            than two functions to rank, or a manifest parts those of one prepared
            language otherwise than they are ranked.
    """
    if settings.manifest is not None:
        split = apply_manifest(pairs, read_manifest(settings.manifest))
        if len(prepared) == 1:
            _check_parts(split, pairs, settings.manifest)
    else:
        split = split_by_package(pairs)
    if told := [words for each in prepared if (words := each.unlike_paper())]:
        split = replace(split, summary={**split.summary, "unlike_paper": told})
    if len(prepared) != 1:
        corpus = _of_pairs(split)._replace(prepared=bool(prepared))
    else:
        valid = RetrievalTask.of_prepared(prepared[0].retrieval("valid"))
        test = RetrievalTask.of_prepared(prepared[0].retrieval("test"), valid.base)
        corpus = Corpus(split, valid, test, PAPER_CUTOFF, prepared=True)
    _check_sizes(len(split.train), len(corpus.test.base))
    return corpus


def _prepared(settings: TrainSettings) -> list[PreparedLanguage]:
    """Return the prepared languages that the settings' data are; none where they are others."""
    if settings.data is None or settings.data.startswith(HUB):
        return []
    folder = Path(settings.data)
    if settings.language is not None and is_prepared(folder / settings.language):
        folder = folder / settings.language
    found = [PreparedLanguage(each, _form(settings)) for each in language_folders(folder)]
    for each in found:
        each.check_whole()
    return found


def _check_sizes(train: int, functions: int) -> None:
    """Refuse a pair without a negative, and a ranking of one, whose MRR is 1."""
    if train < 2 or functions < 2:
        raise ValueError(
            "data must leave at least 2 pairs to train on and 2 test functions to rank, got"
            f" {train:,} and {functions:,}"
        )


def _check_parts(split: Split, pairs: Pairs, manifest: str) -> None:
    """Refuse a split under which a query that is ranked may have been trained on."""
    for name in ("valid", "test"):
        ranked = {pair_hash(pair) for pair, part in pairs.partitions.items() if part == name}
        if differ := len(ranked ^ set(map(pair_hash, split.parts()[name]))):
            raise ValueError(
                f"manifest must leave the {name} pairs of prepared data as they are, all of which "
                f"are ranked, got {manifest}, where {differ:,} of them differ"
            )


def _form(settings: TrainSettings) -> Form:
    chosen = settings.resolved(static=settings.is_from_scratch).form
    return "tokens" if chosen == "tokens" else "source"


def _of_pairs(split: Split) -> Corpus:
    valid, test = map(RetrievalTask.of_pairs, (split.valid, split.test))
    return Corpus(split, valid, test, None)
