"""Soft-InfoNCE for code search: a fused loss, in-batch BM25 and the trainer around them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module that holds it. Looked up on first use, so that `import softnce_ext` costs
# nothing beyond this file and `softnce --help` never imports torch.
_HOME = {
    "soft_info_nce": "functional",
    "info_nce": "functional",
    "bce": "functional",
    "weighted_info_nce": "functional",
    "kl_regularized_info_nce": "functional",
    "top_k_cancellation": "functional",
    "threshold_cancellation": "functional",
    "soft_weights": "functional",
    "SoftInfoNCE": "losses",
    "InfoNCE": "losses",
    "BCE": "losses",
    "WeightedInfoNCE": "losses",
    "KLRegularizedInfoNCE": "losses",
    "TopKCancellation": "losses",
    "ThresholdCancellation": "losses",
    "BM25": "bm25",
    "BM25Factors": "factors",
    "TokenIds": "bm25",
    "PRESETS": "presets",
    "mean_reciprocal_rank": "evaluation.ranking",
}
_MODULES = ("reference", "sentence_transformers")

__all__ = ["__version__", *_HOME, *_MODULES]

if TYPE_CHECKING:
    from . import reference as reference
    from . import sentence_transformers as sentence_transformers
    from .bm25 import BM25 as BM25
    from .bm25 import TokenIds as TokenIds
    from .evaluation.ranking import mean_reciprocal_rank as mean_reciprocal_rank
    from .factors import BM25Factors as BM25Factors
    from .functional import bce as bce
    from .functional import info_nce as info_nce
    from .functional import kl_regularized_info_nce as kl_regularized_info_nce
    from .functional import soft_info_nce as soft_info_nce
    from .functional import soft_weights as soft_weights
    from .functional import threshold_cancellation as threshold_cancellation
    from .functional import top_k_cancellation as top_k_cancellation
    from .functional import weighted_info_nce as weighted_info_nce
    from .losses import BCE as BCE
    from .losses import InfoNCE as InfoNCE
    from .losses import KLRegularizedInfoNCE as KLRegularizedInfoNCE
    from .losses import SoftInfoNCE as SoftInfoNCE
    from .losses import ThresholdCancellation as ThresholdCancellation
    from .losses import TopKCancellation as TopKCancellation
    from .losses import WeightedInfoNCE as WeightedInfoNCE
    from .presets import PRESETS as PRESETS


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
