"""The unit of data: one function and the documentation written for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """One (documentation, function) pair.

    Attributes:
        query: The documentation's first paragraph, as one line of text.
        code: The function's source without its documentation, dedented.
        name: The bare function name.
        package: The unit a split keeps together: a distribution, a repository, a top folder.
        path: Where the function stands, relative to what was read.
        line: First line of the function in that file, counted from 1; 0 where unknown.
        language: The programming language, lower case.
    """

    query: str
    code: str
    name: str = ""
    package: str = ""
    path: str = ""
    line: int = 0
    language: str = "python"
