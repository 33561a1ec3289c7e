"""The paper's hyper-parameters of each estimator."""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple


class Preset(NamedTuple):
    """What Eq. 4 needs to know about an estimator's similarities."""

    alpha: float
    beta: float
    temperature: float


# "Rethinking Negative Pairs in Code Search" (EMNLP 2023), Table 7.
PRESETS = MappingProxyType(
    {
        "bm25": Preset(alpha=1.5, beta=0.5, temperature=1.0),
        "simcse": Preset(alpha=1.3, beta=0.7, temperature=0.1),
        "trained": Preset(alpha=1.3, beta=0.7, temperature=5.0),
    }
)
