"""Train the SimCSE estimator: queries alone, each twice, told apart by dropout.

Each query goes through the encoder twice with dropout of its own; the two vectors are a pair, the
other queries of the batch its negatives. It is InfoNCE with the same text in both columns.

Sources: Gao et al., "SimCSE: Simple Contrastive Learning of Sentence Embeddings" (EMNLP 2021);
"Rethinking Negative Pairs in Code Search" (EMNLP 2023), whose published code has other settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..encoders.load import is_static, set_max_length
from ..sentence_transformers import SoftInfoNCELoss
from . import ranks
from .batches import TextPairs
from .checkpoint import Stage
from .run import TrainingInterrupted, TrainingRun
from .settings import TrainSettings
from .simcse_settings import SIMCSE_SETTINGS as SIMCSE_SETTINGS
from .simcse_settings import SimCSESettings as SimCSESettings
from .trainer import train_encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# What the published code starts from: six layers, lower-case words, the mean of the tokens.
SIMCSE_MODEL = "sentence-transformers/msmarco-distilbert-dot-v5"


def train_simcse(
    model: SentenceTransformer,
    queries: Sequence[str],
    settings: SimCSESettings = SIMCSE_SETTINGS["published"],
    *,
    mask_duplicates: bool = False,
    progress: bool = True,
    stage: Stage | None = None,
) -> tuple[SentenceTransformer, TrainingRun]:
    """Train a transformer on queries without their codes, in place, by SentenceTransformerTrainer.

    The published code keeps the weights with the best training MRR; this keeps the last ones.

    Args:
        model: A transformer with pooling, as `SIMCSE_MODEL` is.
        queries: The training queries.
        settings: One of `SIMCSE_SETTINGS`, or one's own.
        mask_duplicates: Leave equal queries out of each other's negatives; the sources do not.
        progress: Show a progress bar on stderr.
        stage: As in `train_encoder`.

    Returns:
        The encoder for `softnce_ext.estimators.encoder.SimCSEEstimator`, with the weights of
        `model`, and how the training went.

    Raises:
        ValueError: The model is static or has no dropout, or there are fewer than two queries.
        TrainingDivergedError, TrainingInterrupted: As in `train_encoder`.
    """
    if len(queries) < 2:
        raise ValueError(f"queries must hold at least 2 texts, got {len(queries)}")
    _check_dropout(model)
    set_max_length(model, settings.length)
    encoder, trained = _modules(model, settings)
    loss = SoftInfoNCELoss(
        trained,
        estimator=None,
        scale=1 / settings.temperature,
        mask_duplicates=mask_duplicates,
        gather_across_devices=ranks.count() > 1,
    )
    options = TrainSettings(
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        max_steps=settings.max_steps,
        precision=settings.precision,
        seed=settings.seed,
    ).resolved(static=False)
    pairs = TextPairs(queries, queries, sides=("query", "query"))
    try:
        run = train_encoder(
            trained,
            loss,
            pairs,
            options,
            title="training simcse",
            progress=progress,
            stage=stage,
        )
    except TrainingInterrupted as stop:
        stop.model = encoder  # without the layer that is there in training alone
        raise
    finally:
        encoder.eval()
    return encoder, run


def _modules(
    model: SentenceTransformer, settings: SimCSESettings
) -> tuple[SentenceTransformer, SentenceTransformer]:
    """Return the encoder and what is trained in its place; they share the transformer."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling

    if not settings.first_token:
        return model, model
    transformer: Any = model[0]
    width = transformer.auto_model.config.hidden_size
    encoder = SentenceTransformer(
        modules=[transformer, Pooling(width, "cls")], device=str(model.device)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # the trainer seeds only what comes after it
        dense = Dense(width, width, activation_function=torch.nn.Tanh())
    trained = SentenceTransformer(modules=[*encoder, dense], device=str(model.device))
    return encoder, trained


def _check_dropout(model: SentenceTransformer) -> None:
    import torch

    if is_static(model):
        raise ValueError("simcse needs a transformer with dropout, got a static encoder")
    rates = [part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)]
    if not any(rates):
        raise ValueError(
            "simcse tells a query's two vectors apart by dropout, got a model whose dropout is 0"
        )
