"""Soft-InfoNCE as losses of sentence-transformers, with weights from the batch's own texts."""

from .cached import CachedSoftInfoNCELoss
from .options import PUBLISHED_RATE, expected_alpha
from .row_numbers import add_row_numbers
from .soft_info_nce import SoftInfoNCELoss

__all__ = [
    "PUBLISHED_RATE",
    "CachedSoftInfoNCELoss",
    "SoftInfoNCELoss",
    "add_row_numbers",
    "expected_alpha",
]
