"""Comments in front of a function, cut out of Go, Java, JavaScript, PHP and Ruby code.

By tokens up to the first function's body and no further, so that the same rows give the same code
whether the grammars are installed or not. Mining finds the same comments by the syntax tree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_STRING = r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`"""
_SLASHES = r"/\*.*?(?:\*/|\Z)|//[^\n]*"  # or to the end, where never closed
_TOKENS = r"|(?P<tag><\?(?:php\b|=)?)|(?P<word>\w+)|(?P<mark>[^\s\w])"


def _tokens(comment: str) -> re.Pattern[str]:
    return re.compile(rf"(?P<string>{_STRING})|(?P<comment>{comment}){_TOKENS}", re.DOTALL)


# "#[" opens one of PHP's attributes.
_BRACES: Mapping[str, re.Pattern[str]] = {
    "go": _tokens(_SLASHES),
    "java": _tokens(_SLASHES),
    "javascript": _tokens(_SLASHES),
    "php": _tokens(rf"{_SLASHES}|\#(?!\[)[^\n]*"),
}
# Braces behind these words hold functions, other braces are a function's body.
_HOLDERS = frozenset({"class", "interface", "trait", "enum", "record", "namespace", "struct"})
# Where a line's end may end a statement.
_BY_LINES = frozenset({"go", "javascript"})
_RUBY = re.compile(r"^(?:[ \t]*#[^\n]*|=begin\b.*?^=end\b[^\n]*)", re.MULTILINE | re.DOTALL)
_RUBY_DEF = re.compile(r"^[ \t]*(?:\w+[ \t(]+)*def\b", re.MULTILINE)
_RUBY_LEAD = re.compile(r"(?:\s|#[^\n]*(?:\n|\Z)|^=begin\b.*?^=end\b[^\n]*)*", re.M | re.DOTALL)


def cut_front_comments(code: str, language: str) -> str:
    """Return code without the comments in front of its first function; the same where none are.

    Comments inside a header or a body stay. Without a function, those that open the text go.
    """
    if language == "ruby":
        spans = _ruby_spans(code) if "#" in code or "=begin" in code else []
    elif language in _BRACES:
        has_mark = "//" in code or "/*" in code or (language == "php" and "#" in code)
        spans = _brace_spans(code, language) if has_mark else []
    else:
        return code
    if not spans:
        return code
    for start, end in reversed(spans):
        line = code.rfind("\n", 0, start) + 1
        behind = code.find("\n", end)
        behind = len(code) if behind < 0 else behind
        if not code[line:start].strip() and not code[end:behind].strip():
            start, end = line, behind + 1  # the comment's alone
        elif not code[line:start].strip():
            end += len(code[end:]) - len(code[end:].lstrip(" \t"))
        code = code[:start] + code[end:]
    return re.sub(r"\A(?:[ \t\f\r]*\n)+", "", code)


def _brace_spans(code: str, language: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    opening = 0  # comments before the first token that is none
    depth = 0
    header: set[str] = set()
    begun = False  # a statement, since the last ";", "{" or "}"
    has_code = False
    for token in _BRACES[language].finditer(code):
        kind, text = token.lastgroup, token[0]
        if kind == "comment":
            line = code[code.rfind("\n", 0, token.start()) + 1 : token.start()]
            is_own_line = language in _BY_LINES and not line.strip()
            if depth == 0 and (not begun or is_own_line):
                found.append(token.span())
                opening += not has_code
        elif kind == "tag":
            begun = False
        elif kind == "mark" and text in "([":
            depth, begun, has_code = depth + 1, True, True
        elif kind == "mark" and text in ")]":
            depth -= 1
        elif depth:
            continue
        elif kind == "mark" and text in ";{}":
            if text == "{" and header.isdisjoint(_HOLDERS):
                return found
            header, begun, has_code = set(), False, True
        else:
            begun = has_code = True
            if kind == "word":
                header.add(text)
    return found[:opening]


def _ruby_spans(code: str) -> list[tuple[int, int]]:
    """Only comments that have their lines alone; in Ruby the others stand behind code."""
    first = _RUBY_DEF.search(code)
    lead = _RUBY_LEAD.match(code)
    end = first.start() if first else lead.end() if lead else 0
    return [each.span() for each in _RUBY.finditer(code, 0, end)]
