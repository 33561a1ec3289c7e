"""Soft-InfoNCE as losses of sentence-transformers, with weights from the batch's own texts."""

from .cached import CachedSoftInfoNCELoss
from .options import PUBLISHED_RATE, expected_alpha
from .soft_info_nce import SoftInfoNCELoss

__all__ = ["PUBLISHED_RATE", "CachedSoftInfoNCELoss", "SoftInfoNCELoss", "expected_alpha"]
