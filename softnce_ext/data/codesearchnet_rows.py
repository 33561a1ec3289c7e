"""One record of CodeSearchNet to the rows that prepared files hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .docstrings import cut_docstring
from .rows import BadRow, check_strings, kind_of

_CODE = ("original_string", "whole_func_string", "code", "func_code_string")
_URL_LINE = re.compile(r"#L(\d+)")
_WORDS = re.compile(r"\w+")
_QUOTE = re.compile(r"""[rRbBuUfF]{0,2}(\"{3}|'{3}|["'])""")


# Fields of the rows of each prepared file.
#   query     docstring_tokens joined by blanks: what the published models read
#   code      original_string, of Python without its docstring; GraphCodeBERT strips comments itself
#   tokens    code_tokens joined by blanks: what CodeBERT and UniXcoder read
#   name      the bare function name        package   the repository        path   the file in it
#   line      the function's first line there, 0 where the URL does not say
#   language  lower case                    url       what a query's gold code is found by
_PLACE = ("name", "package", "path", "line", "language", "url")
FIELDS = {
    "train": ("query", "code", "tokens", *_PLACE),
    "valid": ("query", *_PLACE),
    "test": ("query", *_PLACE),
    "codebase": ("code", "tokens", *_PLACE),
}


def prepared_row(record: Mapping[str, Any], language: str, name: str) -> dict[str, Any]:
    """Return a record's row of a prepared file, from CodeSearchNet's names or Hugging Face's.

    Args:
        record: The record.
        language: Its language.
        name: The file: "train", "valid", "test" or "codebase".

    Raises:
        BadRow: A field that this file needs is missing, or one is of a wrong type.
    """
    fields = FIELDS[name]
    query = _tokens(record, ("docstring_tokens", "func_documentation_tokens"), "query" in fields)
    row: dict[str, Any] = {"query": " ".join(query)} if "query" in fields else {}
    if "code" in fields:
        code = _string(record, _CODE, required=True)
        tokens = _tokens(record, ("code_tokens", "func_code_tokens"), required=True)
        if language == "python":
            code = cut_docstring(code)
            words = _WORDS.findall(" ".join(query))
            tokens = [token for token in tokens if not _is_docstring(token, words)]
        row.update(code=code, tokens=" ".join(tokens))
    url = _string(record, ("url", "func_code_url"), required=True)
    match = _URL_LINE.search(url)
    row.update(
        name=re.split(r"[.:#]+", _string(record, ("func_name",)))[-1],
        package=_string(record, ("repo", "repository_name")),
        path=_string(record, ("path", "func_path_in_repository")),
        line=int(match[1][:9]) if match else 0,
        language=language,
        url=url,
    )
    return row


def empty_field(row: Mapping[str, Any]) -> str:
    """Return the name of a row's text that is blank, "query" or "code"; "" where there is none."""
    return next((key for key in ("query", "code") if key in row and not row[key].strip()), "")


def _is_docstring(token: str, words: list[str]) -> bool:
    """Say whether a token is a string literal that begins with the documentation's words."""
    if not token.endswith(("'", '"')) or len(token) <= 2:  # most tokens need no closer look
        return False
    quote = _QUOTE.match(token)
    # "name" is a string like any other.
    if not quote or not words or (len(words) < 3 and len(quote[1]) == 1):
        return False
    return "".join(_WORDS.findall(token[quote.end() :])).startswith("".join(words))


def _string(record: Mapping[str, Any], keys: tuple[str, ...], *, required: bool = False) -> str:
    """Return the first of the fields that is there, as text that a file can hold."""
    for key in keys:
        value = record.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise BadRow(f"{key!r} must be a string, got {kind_of(value)}")
        return _clean(value)
    if required:
        raise _missing(record, keys, "a string")
    return ""


def _tokens(record: Mapping[str, Any], keys: tuple[str, ...], required: bool) -> list[str]:
    """Return the first of the token lists that is there; a blanked one ("") is empty."""
    for key in keys:
        value = record.get(key)
        if value is None:
            continue
        if value == "":
            return []
        strings = check_strings(key, value)
        text = "".join(strings)
        return strings if _clean(text) == text else [_clean(each) for each in strings]
    if required:
        raise _missing(record, keys, "a list of strings")
    return []


def _clean(text: str) -> str:
    """Return text with U+FFFD for a NUL and for half a surrogate pair, which no file can hold."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _missing(record: Mapping[str, Any], keys: tuple[str, ...], wanted: str) -> BadRow:
    """Return the error of a record that has none of the fields, or holds null in them."""
    if empty := [key for key in keys if key in record]:
        return BadRow(f"{empty[0]!r} must be {wanted}, got null")
    there = ", ".join(map(repr, sorted(map(str, record))[:12])) or "no key at all"
    return BadRow(f"must have {keys[0]!r}, got {there}")
