"""The encoder that is trained, as the settings want it, and the training texts as it takes them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from ..encoders.backbones import build_backbone
from ..encoders.load import is_static, set_max_length
from ..encoders.saved import check_language, load_encoder, local_folder
from ..encoders.static import (
    build_static_encoder,
    build_tokenizer,
    init_from,
    inverse_document_frequency,
    tokenize,
)
from ..encoders.text import code_text
from ..estimators.cache import cache_folder
from ..estimators.frozen import check_raw_dot
from . import ranks
from .batches import TextPairs, TokenizedPairs, TrainingPairs
from .before import told_cure
from .settings import TrainSettings
from .systems import SYSTEMS

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.pairs import Pair


def prepare_model(
    settings: TrainSettings,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair] = (),
    *,
    progress: bool = True,
) -> tuple[SentenceTransformer, TrainingPairs]:
    """Return the untrained model and the texts of training pairs.

    Args:
        settings: Which model.
        pairs: The training pairs.
        held_out: Those that are ranked later, whose languages the model must read as well.
        progress: Show progress on stderr.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: The model does not fit the settings or the pairs.
    """
    if settings.is_from_scratch:
        return _from_scratch(settings.resolved(static=True), pairs, progress)
    languages = {pair.language for each in (pairs, held_out) for pair in each}
    with told_cure("--model"):
        if settings.preset is not None:
            model = _preset_model(settings, languages)
        else:
            model, _ = load_encoder(settings.encoder)
            check_language(model, languages, f"model {settings.encoder}")
    settings = settings.resolved(static=is_static(model))
    if settings.preset is None:
        assert settings.code_length is not None
        set_max_length(model, settings.code_length)
    queries, codes = texts_of(pairs, settings.name_boost or 0)
    if settings.scoring == "dot":
        check_raw_dot(model)
    if is_static(model):
        return model, TokenizedPairs.of(model, queries, codes)
    model.similarity_fn_name = "cosine" if settings.scoring == "cosine" else "dot"
    return model, TextPairs(queries, codes)


def texts_of(pairs: Sequence[Pair], name_boost: int) -> tuple[list[str], list[str]]:
    """Return the queries and codes of pairs as an encoder reads them."""
    queries = [pair.query for pair in pairs]
    return queries, [code_text(pair.name, pair.code, name_boost) for pair in pairs]


def remember_codes(model: Any, codes: Sequence[str], *, progress: bool = True) -> None:
    """Prepare codes once, kept in the user's cache, where the model reads more than their text."""
    remember = getattr(model[0], "remember", None)
    if remember is not None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        folder = cache_folder().with_name("dataflow")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remember(codes, folder=folder, workers=workers, progress=progress)
        except OSError as error:
            warnings.warn(
                f"prepared code cannot be kept in {folder} ({error.strerror or error}): it is "
                "prepared in memory, anew in every run; SOFTNCE_CACHE names another folder",
                RuntimeWarning,
                stacklevel=2,
            )
            # What a full disk did not take is remembered already: this then does nothing.
            remember(codes, workers=workers, progress=progress)


def _from_scratch(
    settings: TrainSettings, pairs: Sequence[Pair], progress: bool
) -> tuple[SentenceTransformer, TrainingPairs]:
    if settings.scoring == "dot":
        raise ValueError(
            "scoring must be cosine with a static encoder, whose vectors have length 1, got dot"
        )
    assert settings.name_boost is not None and settings.seed is not None
    queries, codes = texts_of(pairs, settings.name_boost)

    def pieces() -> tuple[Any, TokenizedPairs]:
        made = build_tokenizer(
            [*queries, *codes], settings.vocab_size, max_length_tokens=settings.code_length
        )
        return made, TokenizedPairs(tokenize(made, queries), tokenize(made, codes))

    tokenizer, texts = ranks.from_first(pieces)
    idf = inverse_document_frequency(texts.texts(), tokenizer.get_vocab_size())
    model = build_static_encoder(tokenizer, idf, settings.dimension, seed=settings.seed)
    if settings.init is not None:
        with told_cure("--init"):
            start, _ = load_encoder(settings.init)
        init_from(model, start, seed=settings.seed, progress=progress)
    return model, texts


def _preset_model(settings: TrainSettings, languages: Collection[str]) -> SentenceTransformer:
    """Return a preset's backbone: published or given weights, or a saved model of its kind."""
    kind = settings.preset
    assert kind is not None
    folder = None if settings.model is None else local_folder(settings.model)
    if folder is not None and (folder / "modules.json").is_file():
        model, _ = load_encoder(str(folder))
        if getattr(model[0], "kind", None) != kind:
            raise ValueError(
                f"model must be of preset {kind}, got {settings.model}, which is "
                f"{getattr(model[0], 'kind', 'another encoder')}"
            )
        module: Any = model[0]
        if kind == "graphcodebert":
            wanted = settings.language or _only_language(languages)
            if module.language != wanted:
                raise ValueError(
                    f"language must be that of the saved model {settings.model}, "
                    f"{module.language}, got {wanted}"
                )
        module.query_length = settings.query_length or module.query_length
        module.code_length = settings.code_length or module.code_length
        module.check_lengths()
        return model
    system = SYSTEMS[kind]
    options: dict[str, Any] = {
        "query_length": settings.query_length or system.query_length,
        "code_length": settings.code_length or system.code_length,
    }
    if kind == "graphcodebert":
        options["language"] = settings.language or _only_language(languages)
    return build_backbone(kind, settings.model, cosine=settings.scoring == "cosine", **options)


def _only_language(languages: Collection[str]) -> str:
    if len(languages) != 1:
        raise ValueError(
            "language must be given with preset graphcodebert, which reads one, got pairs of "
            + ", ".join(sorted(languages))
        )
    return next(iter(languages))
