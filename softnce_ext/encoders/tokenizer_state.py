"""What a tokenizer makes of a text, as JSON: of the hashes that prepared texts are found by."""

from __future__ import annotations

import json
from typing import Any


def tokenizer_state(tokenizer: Any) -> Any:
    """Return all that decides the pieces of a text, without what each call sets anew.

    Args:
        tokenizer: Of transformers or of tokenizers.
    """
    if hasattr(tokenizer, "to_str"):  # of tokenizers: its truncation stays as it is
        return tokenizer.to_str()
    sides = [getattr(tokenizer, f"{name}_side", None) for name in ("truncation", "padding")]
    return [pieces_state(tokenizer), sides]


def pieces_state(tokenizer: Any) -> Any:
    """Return what decides the pieces of a text that is short enough."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):
        return tokenizer.get_vocab()
    state = json.loads(backend.to_str())
    return {name: part for name, part in state.items() if name not in ("truncation", "padding")}
