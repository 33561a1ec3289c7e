"""What a docstring says a function does: its first paragraph, as one line of text."""

from __future__ import annotations

import re

# Bounds of CodeSearchNet and of GraphCodeBERT's cleaned version of it (Guo et al. 2021).
MIN_WORDS = 3
MAX_WORDS = 256

_WORDS = re.compile(r"\w+")
_LETTERS = re.compile(r"[^\W\d_]")
# Lines that end a paragraph although no blank line stands before them.
_SECTION = re.compile(
    r"(?:args?|arguments?|parameters?|params?|returns?|yields?|raises|examples?|notes?|attributes?|"
    r"keyword arguments|inputs?|outputs?|usage|references|see also)\s*:{1,2}(?P<text>\s.*)?$",
    re.IGNORECASE,
)
_FIELD = re.compile(
    r"[:@\\](?:param|parameter|arg|type|returns?|rtype|raises?|yields?|throws)\b|>>>"
)
# An argument's description where the text should be: "input_ids (`Tensor` of shape ...): ...".
_ARGUMENT = re.compile(r"\*{0,2}\w+ (?:\(`|: \w)")
_UNDERLINE = re.compile(r"[-=~^*#]{3,}$")
# Paragraphs that say nothing: a signature ("where(x, y) -> Tensor"), a reST directive, a pointer.
_NO_TEXT = re.compile(
    r"(?:def\s+)?[\w.]+\(.*\)\s*(?:(?:->|=>|:).*)?|\.\. .*|(?:see|refer to)\b.*", re.IGNORECASE
)
# ":class:`~torch.nn.Module`" reads `torch.nn.Module`.
_ROLE = re.compile(r":(?:[a-z]+:){1,2}`[~!]?([^`<]*)[^`]*`")


def first_paragraph(documentation: str) -> str:
    """Return the first paragraph that is a sentence, as one line; "" where there is none.

    A paragraph ends at a blank line, at a section ("Args:", a heading with its underline), at a
    field (":param", "@return") and at an interpreter prompt. A signature, a directive
    (".. deprecated::") or a pointer ("See also ...") in front of the text is passed over.
    "Returns: the sum" as the first line is text.
    """
    paragraph: list[str] = []
    for line in [*map(str.strip, documentation.strip().splitlines()), ""]:
        section = _SECTION.match(line)
        opens_section = section is not None and bool(paragraph or not section["text"])
        ends_all = opens_section or bool(_FIELD.match(line) or _ARGUMENT.match(line))
        if _UNDERLINE.match(line):
            # In "Text.\nParameters\n-----" the heading is no part of the text.
            paragraph = paragraph[:-1] if len(paragraph) > 1 else paragraph
            ends_all = True
        if line and not ends_all:
            paragraph.append(line)
            continue
        text = _ROLE.sub(r"`\1`", " ".join(" ".join(paragraph).split())).removesuffix("::").strip()
        if text and not _NO_TEXT.fullmatch(text):
            return text
        if ends_all:
            return ""
        paragraph = []
    return ""


def fault_of(query: str) -> str:
    """Return why a line of documentation is no use as a query, "" where nothing is wrong.

    The rules of CodeSearchNet: 3 to 256 words, mostly English letters.
    """
    if not query:
        return "no documentation"
    words = len(_WORDS.findall(query))
    if words < MIN_WORDS:
        return "short documentation"
    if words > MAX_WORDS:
        return "long documentation"
    letters = _LETTERS.findall(query)
    ascii_letters = len(letters) if query.isascii() else sum(map(str.isascii, letters))
    characters = len(query) - query.count(" ")
    # Text with more signs than letters is a formula or a table.
    if ascii_letters < 0.9 * len(letters) or 2 * ascii_letters < characters:
        return "not English"
    return ""
