"""The words of queries and code: one truth for training, evaluation and search."""

from __future__ import annotations

import re

# A run of digits, an acronym that ends before a capitalised word, a (capitalised) word.
_WORD = re.compile(r"[0-9]+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")


def split_identifiers(text: str) -> list[str]:
    """Split text into lower-case words, taking camelCase and snake_case apart.

    ``"parseHTTPResponse max_len2"`` gives ``parse http response max len 2``.
    """
    return [word.lower() for word in _WORD.findall(text)]


def code_text(name: str, code: str, name_boost: int = 3) -> str:
    """Return the text a function is encoded and indexed as: the name `name_boost` times, the code.

    The name says what a function is for in the words of a query, and the code's own words
    outnumber it; repeating it is the cheapest way to give it weight in a bag of words.
    """
    if not name or name_boost <= 0:
        return code
    return f"{(name + ' ') * name_boost}\n{code}"
