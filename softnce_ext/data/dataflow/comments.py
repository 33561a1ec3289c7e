"""Code without comments, as GraphCodeBERT's preparation strips them."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator

# Strings are matched only so that what looks like a comment in them stays. Template strings and
# raw strings in backquotes are not known here, as in the published preparation.
_SLASHES = re.compile(
    r"""//.*?$|/\*.*?\*/|'(?:\\.|[^\\'])*'|"(?:\\.|[^\\"])*\"""", re.DOTALL | re.MULTILINE
)
# Python 3.12 cuts formatted strings into pieces, 3.14 template strings too.
_OPEN = tuple(getattr(tokenize, name, -1) for name in ("FSTRING_START", "TSTRING_START"))
_CLOSE = tuple(getattr(tokenize, name, -1) for name in ("FSTRING_END", "TSTRING_END"))


def strip_comments(code: str, how: str) -> str:
    """Return code without comments and empty lines; Python's docstrings are gone too.

    Args:
        code: The code of a function.
        how: `Language.comments`.

    Returns:
        The stripped code, or the code itself where it cannot be read.
    """
    if not how:
        return code
    try:
        stripped = _without_python_comments(code) if how == "tokenize" else _without_slashes(code)
    # `tokenize` raises SyntaxError kinds and, on odd text, others; such code is parsed as it is.
    except Exception:
        return code
    return "\n".join(line for line in stripped.split("\n") if line.strip())


def _without_slashes(code: str) -> str:
    def kept(match: re.Match[str]) -> str:
        return " " if match.group().startswith("/") else match.group()

    return _SLASHES.sub(kept, code)


def _without_python_comments(code: str) -> str:
    """Join the tokens again, each at its column; a string that starts a statement is left out."""
    parts: list[str] = []
    before = tokenize.INDENT
    row = column = 0
    for kind, text, (start_row, start_column), (end_row, end_column) in _python_tokens(code):
        parts.append(" " * (start_column - (column if start_row == row else 0)))
        is_docstring = kind == tokenize.STRING and (
            before in (tokenize.INDENT, tokenize.NEWLINE) or start_column == 0
        )
        if kind != tokenize.COMMENT and not is_docstring:
            parts.append(text)
        before, row, column = kind, end_row, end_column
    return "".join(parts)


_Place = tuple[int, int]


def _python_tokens(code: str) -> Iterator[tuple[int, str, _Place, _Place]]:
    """Yield (type, text, start, end); a formatted string is one token in every Python."""
    lines = code.split("\n")
    depth = 0
    opened: _Place = (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type in _OPEN:
            opened = opened if depth else token.start
            depth += 1
        elif token.type in _CLOSE:
            depth -= 1
            if not depth:
                (first, left), (last, right) = opened, token.end
                inside = lines[first - 1 : last]
                inside[-1] = inside[-1][:right]
                inside[0] = inside[0][left:]
                yield tokenize.STRING, "\n".join(inside), opened, token.end
        elif not depth:
            yield token.type, token.string, token.start, token.end
