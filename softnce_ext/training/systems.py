"""The paper's systems: how each backbone was trained, and on what.

Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), Section 4 and its released
settings, which are the same for the six languages. The paper trains 30 epochs with each of the
seeds 1234, 12345 and 123456.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, NamedTuple


class System(NamedTuple):
    """What a preset fills in where the user says nothing.

    Attributes:
        learning_rate: Highest learning rate; AdamW without weight decay, linear decay, clip at 1.
        batch_size: Pairs per step.
        query_length: Tokens of a query, special ones included.
        code_length: Tokens of a code; GraphCodeBERT's data flow comes on top.
        warmup_epochs: Epochs in which the learning rate rises.
        form: Of a prepared code: "source" or CodeSearchNet's "tokens".
    """

    learning_rate: float
    batch_size: int
    query_length: int
    code_length: int
    warmup_epochs: float
    form: str

    def defaults(self) -> dict[str, Any]:
        """Return the settings by name."""
        common = {"epochs": 30, "scoring": "dot", "name_boost": 0, "seed": 1234}
        return {**self._asdict(), **common}


SYSTEMS = MappingProxyType(
    {
        "codebert": System(1e-6, 32, 200, 200, 1.0, "tokens"),
        "graphcodebert": System(2e-5, 32, 128, 256, 0.0, "source"),
        "unixcoder": System(2e-5, 64, 128, 256, 0.0, "tokens"),
    }
)
