"""The columns of a batch through the model, as the library's own losses send them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

# What AdaptiveLayerLoss leaves in a column's features, and reads when it calls the loss again.
LAYERS = "all_layer_embeddings"
# Features that rows of zeros may be added to: they are padding where the mask is 0.
_PADDABLE = {"input_ids", "attention_mask", "token_type_ids"}


def embed_columns(model: nn.Module, columns: Sequence[dict[str, Any]]) -> list[Tensor]:
    """Return the embeddings of each column, [N, D].

    Columns of codes go through the model together where sentence-transformers (6.0 and later) does
    so: fewer and larger passes, and the same dropout as with its own losses.
    """
    tensors = {name for column in columns for name in column if isinstance(column[name], Tensor)}
    if len(columns) > 2 and tensors <= _PADDABLE and "sentence_transformers" in sys.modules:
        try:
            from sentence_transformers.base.losses.merged_forward import embed_columns as together
        except ImportError:
            pass
        else:
            return together(model, columns)
    return [model(features)["sentence_embedding"] for features in columns]


def bare(model: Any) -> Any:
    """Return the model inside what data-parallel training and torch.compile wrap it in."""
    for name in ("module", "_orig_mod", "module"):
        model = getattr(model, name, model)
    return model
