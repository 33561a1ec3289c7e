"""A hit as text for a terminal: where it stands, what it says it does, its first lines."""

from __future__ import annotations

import re

from ..encoders.text import split_identifiers
from .query import Hit

SHOWN_LINES = 4
_BOLD, _DIM, _WORD, _END = "\x1b[1m", "\x1b[2m", "\x1b[1;33m", "\x1b[0m"
# Words of a sentence that say little about code; in code they are keywords or chance.
_PLAIN_WORDS = {"and", "for", "from", "into", "not", "that", "the", "this", "with", "all", "are"}


def show(hit: Hit, rank: int, query: str, path: str, *, color: bool) -> str:
    """Return a hit as lines of text: a heading, the documentation, the first lines of code.

    Args:
        hit: The hit.
        rank: Its place, from 1.
        query: The sentence searched for; its words are highlighted.
        path: The function's file as the user would open it.
        color: Use ANSI colours.
    """
    function = hit.function
    place = _printable(f"{path}:{function.line}")
    heading = f"{rank}. {place}  {_printable(function.name)}  {hit.score:.3f}"
    lines = function.code.split("\n")
    shown = [_printable(line) for line in lines[:SHOWN_LINES]]
    left = len(lines) - len(shown)
    documentation = _printable(function.query)
    if color:
        heading = f"{_BOLD}{heading}{_END}"
        shown, documentation = (
            [highlight(line, query) for line in shown],
            highlight(documentation, query),
        )
    mark = "#" if function.language in ("python", "ruby") else "//"
    body = [f"{mark} {documentation}"] * bool(documentation) + shown
    if left > 0:
        more = f"... {left} more line{'s' * (left > 1)}"
        body.append(f"{_DIM}{more}{_END}" if color else more)
    return "\n".join([heading, *(f"    {line}" for line in body)])


def highlight(line: str, query: str) -> str:
    """Return a line with the query's words in colour, also inside `read_lines` or `readLines`."""
    words = {word for word in split_identifiers(query) if len(word) > 2} - _PLAIN_WORDS
    if not words:
        return line
    # The plural of a word in the query also marks its singular in the code.
    words |= {word[:-1] for word in words if word.endswith("s") and len(word) > 3}
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
    return pattern.sub(lambda match: f"{_WORD}{match.group()}{_END}", line)


def _printable(text: str) -> str:
    """Replace control characters: source code must not drive the terminal that shows it."""
    text = text.expandtabs(4)
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
