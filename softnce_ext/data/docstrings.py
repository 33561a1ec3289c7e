"""Documentation cut out of Python code, whatever the query says and whichever the Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from .functions import UNPARSABLE, cut_first_statement, dedented_lines, parse

Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# No string can be read in two ways, or failing to match would take exponential time: three quotes
# open only what three quotes close.
_STRING = (
    r"[rRbBuUfF]{0,2}(?:"
    r'"""(?:[^"\\]|\\.|"(?!""))*"""|' + r"'''(?:[^'\\]|\\.|'(?!''))*'''|"
    r'"(?!"")(?:[^"\\\n]|\\.)*"|' + r"'(?!'')(?:[^'\\\n]|\\.)*')"
)
_PYTHON = re.compile(
    # What is never closed reaches to the end: of the line, or of the text.
    rf"(?P<string>{_STRING}|(?:\"\"\"|''').*|[\"'][^\n]*)"
    r"|(?P<comment>#[^\n]*)|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<colon>:)|(?P<word>\w+)",
    re.DOTALL,
)
# What may stand between a function's header and its docstring.
_GAP = re.compile(r"(?:[ \t\f\r\n]|\\\n|#[^\n]*\n)*")
_DOCSTRING = re.compile(rf"(?:{_STRING}(?:[ \t]|\\\r?\n)*)+(?:;[ \t]*|(?=#|\r?\n|\Z))", re.DOTALL)
# A string at the start of the text or of a block, or a value in a dictionary.
_STRING_FIRST = re.compile(
    r"""(?:\A|:)(?:[ \t\f\r\n(]|\\\r?\n|#[^\r\n]*[\r\n])*[rRbBuUfF]{0,2}["']"""
)
_LEADING_COMMENTS = re.compile(r"\A(?:[ \t\f\r]*(?:#[^\n]*)?\n)+")
_CUT = "\0"  # stands in no line of text that parses


def undocumented_python(code: str) -> str:
    """Return code without docstrings and without the comments in front of its definitions.

    Docstrings are those of the text itself, its functions, its classes and their methods; a
    function inside a function keeps its own, as in mined code. Text without a definition, or with
    nothing to cut, comes back as it is. What `ast` refuses (Python 2) is cut by its tokens.
    """
    lines = dedented_lines(code)
    if not _may_document(code, lines):
        return code
    before = "\n".join(lines)
    try:
        tree = parse(before)
    except UNPARSABLE:
        return _cut_docstrings(_LEADING_COMMENTS.sub("", code))
    definitions = list(_definitions(tree.body))
    if not definitions:
        return code
    for start, end in _gaps(tree.body):
        for number in range(start, end):
            if lines[number].startswith("#"):
                lines[number] = _CUT
    # From the last on, so that the line numbers of those before it still hold.
    holders = sorted((tree, *definitions), key=lambda each: each.body[0].lineno, reverse=True)
    for each in holders:
        if _is_text(each.body[0]):
            cut_first_statement(lines, each.body)
    after = "\n".join(line for line in lines if line != _CUT)
    return code if after == before else after.lstrip("\n").rstrip()


def cut_docstring(code: str) -> str:
    """Return a Python function without its docstring; other text comes back as it is.

    It looks at tokens alone, so that Python 2, which `ast` refuses, loses its docstring too. A
    docstring that is the whole body leaves an empty one, as in GraphCodeBERT's input.
    """
    return _cut_next(code, 0)[0]


def _cut_docstrings(code: str) -> str:
    position = 0
    while position >= 0:
        code, position = _cut_next(code, position)
    return code


def _cut_next(code: str, position: int) -> tuple[str, int]:
    """Cut the first docstring of a definition from a position on; -1 is where none follows."""
    depth, defined = 0, False
    for token in _PYTHON.finditer(code, position):
        kind = token.lastgroup
        if kind == "word":
            defined = defined or token[0] in ("def", "class")
        elif kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
        elif kind == "colon" and defined and depth == 0:
            break
    else:
        return code, -1
    gap = _GAP.match(code, token.end())
    start = gap.end() if gap else token.end()
    found = _DOCSTRING.match(code, start)
    if not found:
        return code, token.end()
    end = found.end()
    before, after = code[:start], code[end:]
    line = before[before.rfind("\n") + 1 :]
    if not line.strip() and (not after or after[:2].startswith(("\n", "\r\n"))):
        # The lines were the docstring's alone.
        before, after = before[: len(before) - len(line)], after.lstrip("\r").removeprefix("\n")
    return (before + after).rstrip(), token.end()


def _may_document(code: str, lines: Sequence[str]) -> bool:
    """Tell without parsing, which is most of the time, whether there may be something to cut."""
    return bool(_STRING_FIRST.search(code)) or any(line.startswith("#") for line in lines)


def _definitions(body: Sequence[ast.stmt]) -> Iterator[Definition]:
    """Yield functions, classes and what these hold; not what stands inside functions."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
            continue
        if isinstance(node, ast.ClassDef):
            yield node
        for field in ("body", "orelse", "finalbody"):
            yield from _definitions(getattr(node, field, ()))
        for handler in getattr(node, "handlers", ()):
            yield from _definitions(handler.body)


def _gaps(body: Sequence[ast.stmt]) -> Iterator[tuple[int, int]]:
    """Yield where the lines in front of each statement and behind each decorator begin and end."""
    last = 0
    for node in body:
        for each in (*getattr(node, "decorator_list", ()), node):
            yield last, each.lineno - 1
            last = each.end_lineno or each.lineno
        last = node.end_lineno or node.lineno


def _is_text(node: ast.stmt) -> bool:
    """Say whether a statement is a string and nothing else: also bytes and f"...", which document
    as little or as much to a reader."""
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    if isinstance(value, ast.Constant):
        return isinstance(value.value, (str, bytes))
    return isinstance(value, ast.JoinedStr)
