"""How SimCSE is trained: as the published code does, and as its own authors do.

Sources: Gao et al., "SimCSE: Simple Contrastive Learning of Sentence Embeddings" (EMNLP 2021);
"Rethinking Negative Pairs in Code Search" (EMNLP 2023), whose published code has other settings.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple


class SimCSESettings(NamedTuple):
    """How SimCSE is trained; AdamW without weight decay, linear decay, no warm-up, clip at 1.

    Attributes:
        temperature: Of the cosines.
        learning_rate: Highest learning rate.
        batch_size: Queries per step.
        epochs: Passes over the queries.
        length: Tokens a query is cut off at.
        first_token: Vectors are the first token's, under a layer that is there in training alone;
            else the mean of all tokens.
        seed: Of order and dropout.
        max_steps: Stop after so many; None for all.
        precision: "fp32", "bf16" or "tf32".
    """

    temperature: float
    learning_rate: float
    batch_size: int
    epochs: int
    length: int
    first_token: bool
    seed: int = 42
    max_steps: int | None = None
    precision: str = "fp32"


SIMCSE_SETTINGS = MappingProxyType(
    {
        # The published code, but for the mask: it lets the encoder attend to the padding.
        "published": SimCSESettings(0.07, 5e-4, 256, 10, 128, first_token=False),
        # The SimCSE paper's unsupervised BERT-base.
        "original": SimCSESettings(0.05, 3e-5, 64, 1, 32, first_token=True),
    }
)
