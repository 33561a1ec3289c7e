"""What a run trains on, and what it is chosen and measured on: pairs, split, code bases."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..data.codesearchnet_files import MANIFEST
from ..data.codesearchnet_language import PreparedLanguage
from ..data.codesearchnet_read import Form, is_prepared, read_prepared
from ..data.formats import read_pairs
from ..data.hub import read_hub
from ..data.manifest import apply_manifest, read_manifest
from ..data.mining import mine_interpreter
from ..data.pairs import Pairs, of_language
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
) -> tuple[Pairs, PreparedLanguage | None]:
    """Read the pairs the settings name.

    Returns:
        The pairs, and what `softnce prepare csn` wrote of one language, if it is that.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: The data cannot be read, or holds nothing of the language.
    """
    form = _form(settings)
    prepared: PreparedLanguage | None = None
    if settings.data is None:
        pairs = mine_interpreter(progress=progress)
    elif settings.data.startswith(HUB):
        pairs = read_hub(settings.data.removeprefix(HUB), progress=progress)
    else:
        folder = Path(settings.data)
        if settings.language is not None and is_prepared(folder / settings.language):
            folder = folder / settings.language
        if is_prepared(folder):
            inner = [each.parent for each in folder.glob(f"*/{MANIFEST}")]
            folder = inner[0] if len(inner) == 1 else folder
            if (folder / MANIFEST).is_file():
                prepared = PreparedLanguage(folder, form)
                pairs = prepared.pairs()
            else:
                pairs = read_prepared(folder, form=form)
        else:
            pairs = read_pairs(folder, language=settings.language, progress=progress)
    return of_language(pairs, settings.language), prepared


def split_corpus(
    pairs: Pairs, prepared: PreparedLanguage | None, settings: TrainSettings
) -> Corpus:
    """Split pairs, and say what valid and test are ranked against.

    Prepared queries are ranked against the whole code base, as in the paper; others against the
    codes of their own part.

    Raises:
        ValueError: The pairs do not fill three parts.
    """
    if settings.manifest is not None:
        split = apply_manifest(pairs, read_manifest(settings.manifest))
    else:
        split = split_by_package(pairs)
    held_out = {"valid", "test"} & set(pairs.partitions.values())
    if prepared is None or held_out != {"valid", "test"}:
        return _of_pairs(split)._replace(prepared=prepared is not None)
    valid = RetrievalTask.of_prepared(prepared.retrieval("valid"))
    test = RetrievalTask.of_prepared(prepared.retrieval("test"), valid.base)
    return Corpus(split, valid, test, PAPER_CUTOFF, prepared=True)


def _form(settings: TrainSettings) -> Form:
    chosen = settings.resolved(static=settings.is_from_scratch).form
    return "tokens" if chosen == "tokens" else "source"


def _of_pairs(split: Split) -> Corpus:
    valid, test = map(RetrievalTask.of_pairs, (split.valid, split.test))
    return Corpus(split, valid, test, None)
