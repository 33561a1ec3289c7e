"""The text of documentation comments: javadoc, JSDoc, phpdoc, godoc, RDoc, YARD."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

_STAR = re.compile(r"^[ \t]*\*+ ?", re.MULTILINE)
_LINE_MARK = re.compile(r"(?://+|#+)[ \t]?")
# For tools, not for readers: Go's directives, Ruby's magic comments, linters' switches.
_DIRECTIVE = re.compile(
    r"//(?:[a-z0-9]+:\S|nolint|export |extern |line )|//\s*\+build\b|#!"
    r"|#\s*(?:-\*-|(?:frozen_string_literal|encoding|coding|warn_indent|typed|rubocop)\s*:)"
    r"|#\s*:\w+:\s*(?:$|\W)|#(?:--|\+\+)$"
)
_BLOCK_TAG = re.compile(r"^[ \t]*@\w", re.MULTILINE)
_DESCRIPTION = re.compile(
    r"^[ \t]*@(?:desc|description|summary|brief)\b(.*?)(?=^[ \t]*@\w|\Z)",
    re.MULTILINE | re.DOTALL,
)
_CALLS = re.compile(r"^\s*:?call-seq:.*?(?:\n[ \t]*\n|\Z)", re.DOTALL)  # RDoc's signatures
_HEADING = re.compile(r"^[ \t]*=+[ \t].*$|^[ \t]*\(see [^()]*\)$", re.MULTILINE)  # or a pointer
_YARD_LINK = re.compile(r"\{(#?[A-Z_a-z][\w:#.?!=]*)(?:[ \t]+([^{}\n]+))?\}")
_RDOC_CODE = re.compile(r"(?<!\w)\+([\w.:?!]+)\+(?!\w)")
_BREAK = re.compile(
    r"</?(?:p|div|pre|ul|ol|li|dl|dt|dd|table|tr|td|th|h[1-6]|blockquote|hr)(?:\s[^<>]*)?/?>", re.I
)
_INLINE = re.compile(
    r"</?(?:a|abbr|b|big|br|cite|code|del|em|font|i|img|ins|kbd|q|s|samp|small|span|strike|strong"
    r"|sub|sup|tt|u|var)(?:\s[^<>]*)?/?>",
    re.I,
)
_LABELLED = re.compile(r"\[([^\]\n]+)\]\{@link\w*\s[^{}]*\}")
_LINK = re.compile(r"\{@(?:link\w*|see|tutorial)\s+#?([^\s|{}(]+(?:\([^(){}]*\))?)[\s|]*([^{}]*)\}")
_INHERITED = re.compile(r"\{?@inheritdoc\}?", re.I)
_OTHER_TAG = re.compile(r"\{@\w+\s*((?:[^{}]|\{[^{}]*\})*)\}")


def block_text(comment: str) -> str:
    """Return the text of `/** */`, `/* */` or `=begin`, without marks and up to the first tag."""
    if comment.startswith("=begin"):
        return _ruby(re.sub(r"\A=begin.*|^=end.*", "", comment, flags=re.MULTILINE))
    return _prose(_STAR.sub("", re.sub(r"\A/\*+|\*+/\Z", "", comment)))


def line_text(comments: Sequence[str]) -> str:
    """Return the text of lines of `//` or `#`, without marks and up to the first tag."""
    lines = (
        "" if _DIRECTIVE.match(comment) else _LINE_MARK.sub("", comment, count=1)
        for comment in comments
    )
    text = "\n".join(lines)
    return _ruby(text) if comments[0].startswith("#") else _prose(text)


def _ruby(text: str) -> str:
    text = _HEADING.sub("", _CALLS.sub("", text))
    text = _YARD_LINK.sub(lambda link: link[2] or link[1], _RDOC_CODE.sub(r"\1", text))
    return _prose(text)


def _prose(text: str) -> str:
    """Return what is written for readers: no block tags, inline tags as their text, no HTML."""
    text = _INHERITED.sub("", text)
    tag = _BLOCK_TAG.search(text)
    if tag:
        described = _DESCRIPTION.search(text)
        before = text[: tag.start()]
        text = described[1] if described and not before.strip() else before
    text = _INLINE.sub("", _BREAK.sub("\n\n", text))
    text = _LINK.sub(lambda link: link[2].strip() or link[1], _LABELLED.sub(r"\1", text))
    return html.unescape(_OTHER_TAG.sub(r"\1", text))
