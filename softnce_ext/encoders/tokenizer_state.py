"""What a tokenizer makes of a text, as JSON: of the hashes that prepared texts are found by."""

from __future__ import annotations

import json
from typing import Any


def tokenizer_state(tokenizer: Any) -> Any:
    """Return all that decides the pieces of a text, without what each call sets anew.

    Args:
        tokenizer: Of transformers or of tokenizers.
    """
    if hasattr(tokenizer, "to_str"):  # of tokenizers
        return tokenizer.to_str()
    sides = [getattr(tokenizer, f"{name}_side", None) for name in ("truncation", "padding")]
    if hasattr(tokenizer, "backend_tokenizer"):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        kept = {name: v for name, v in state.items() if name not in ("truncation", "padding")}
        return [kept, sides]
    return [tokenizer.get_vocab(), sides]
