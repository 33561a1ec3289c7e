"""Types of command-line arguments, each with a sentence for what does not fit."""

from __future__ import annotations

import argparse


def positive_int(text: str) -> int:
    """Return a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return value


def sentence(text: str) -> str:
    """Return text that holds more than blanks."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must hold at least one word, got none")
    return text
