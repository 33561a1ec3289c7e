"""One JSON object of a data file to a pair: our own fields, CodeSearchNet's, Hugging Face's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .docstrings import cut_docstring, undocumented_python
from .documentation import first_paragraph
from .front_comments import cut_front_comments
from .functions import UNPARSABLE, remove_docstring
from .pairs import Pair
from .source_files import known_language, language_of

MAX_FIELD_CHARACTERS = 1_000_000
# A query of fewer words, such as "sort list", may well be a part of the code it asks for.
MIN_VERBATIM_WORDS = 3

# The first name that a row has is read. CodeSearchNet's own files, then Hugging Face's.
_CODE = ("code", "func_code_string", "original_string", "whole_func_string")
_CODE_TOKENS = ("code_tokens", "func_code_tokens")
_DOCSTRING = ("docstring", "func_documentation_string")
_DOCSTRING_TOKENS = ("docstring_tokens", "func_documentation_tokens")
_FUNC_NAME = ("func_name",)
_LANGUAGE = ("language", "lang")
_REPO = ("repo", "repository_name")
_PATH = ("path", "func_path_in_repository")
_URL = ("url", "func_code_url")
_PARTITION = ("partition", "split_name")
# What a row may say beside its query and code.
_BESIDE = _FUNC_NAME + _REPO + _PATH + _URL + _PARTITION + _LANGUAGE
BESIDE_THE_TEXTS = ("name", "package", "line", "id", *_BESIDE)
_CODESEARCHNET = frozenset(_DOCSTRING + _DOCSTRING_TOKENS + _FUNC_NAME)

_URL_LINE = re.compile(r"#L(\d+)")
_WORDS = re.compile(r"\w+")
_DEFINED_NAME = re.compile(r"\b(?:def|func|function)\s+(?:self\.)?(\w+)")
PARTITION_OF_WORD = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "eval": "valid",
    "evaluation": "valid",
    "test": "test",
}


class BadRow(ValueError):
    """A row that does not hold what its format says; the text says what is wrong.

    Attributes:
        column: Where in its line, counted from 1; 0 where the whole row is meant.
    """

    def __init__(self, message: str, column: int = 0) -> None:
        super().__init__(message)
        self.column = column


class Row(NamedTuple):
    """A row read.

    Attributes:
        pair: Its pair, None where it cannot be one.
        partition: "train", "valid" or "test"; "" where the row says none.
        fault: Why there is no pair.
        has_query: Whether the query's words still stand in the code, one after the other.
        has_language: Whether the row or its path says its language; else it is read as Python.
    """

    pair: Pair | None
    partition: str = ""
    fault: str = ""
    has_query: bool = False
    has_language: bool = True


def read_row(row: object) -> Row:
    """Return the pair of one JSON object.

    Our own rows have "query" and "code", and may have "name", "path" or "id", "package", "line"
    and "language", Python where absent. A row with "func_name" or a docstring field is
    CodeSearchNet's. Documentation is cut out of the code whatever the query says: docstrings of
    Python, the comments in front of a function of the other five languages.

    Raises:
        BadRow: A field is missing, is of a wrong type, is empty, too long or not text.
    """
    if not isinstance(row, Mapping):
        raise BadRow(f"must be a JSON object, got {kind_of(row)}")
    if _CODESEARCHNET.isdisjoint(row):
        return _own_row(row)
    return _codesearchnet_row(row)


def has_texts(row: object) -> bool:
    """Say whether a row has the columns of a query and its code, whatever is in them."""
    if not isinstance(row, Mapping):
        return False
    if _CODESEARCHNET.isdisjoint(row):
        return {"query", "code"} <= row.keys()
    return not row.keys().isdisjoint(_CODE)


def _own_row(row: Mapping[str, Any]) -> Row:
    query, code = (_text(row, (key,), required=True) for key in ("query", "code"))
    for key, text in (("query", query), ("code", code)):
        if not text.strip():
            raise BadRow(f"{key!r} must not be empty")
    query = " ".join(query.split())
    path = _text(row, _PATH) or _text(row, ("id",))
    language = _language(row, path)
    partition = _partition(row)
    code = _undocumented(code, language or "python")
    if not code.strip():
        return Row(None, partition, "no code")
    name = _text(row, ("name",))
    if not name and (match := _DEFINED_NAME.search(code)):
        name = match[1]
    package = _text(row, ("package", *_REPO)) or (path.split("/")[0] if "/" in path else "")
    pair = Pair(query, code, name, package, path, _line(row), language or "python")
    return Row(pair, partition, "", _stands_in(query, code), bool(language))


def _codesearchnet_row(row: Mapping[str, Any]) -> Row:
    code = _text(row, _CODE, required=True)
    _tokens(row, _CODE_TOKENS)  # not used, but a broken one tells of a broken file
    docstring = _text(row, _DOCSTRING)
    tokens = _tokens(row, _DOCSTRING_TOKENS)
    query = _text(row, ("query",)) or first_paragraph(docstring) or " ".join(tokens)
    query = " ".join(query.split())
    path = _text(row, _PATH)
    url = _text(row, _URL)
    name = re.split(r"[.:#]+", _text(row, _FUNC_NAME))[-1]
    language = _language(row, path)
    line = int(match[1][:9]) if (match := _URL_LINE.search(url)) else _line(row)
    partition = _partition(row)
    if not query:
        return Row(None, partition, "no documentation")
    function = code
    if language in ("", "python"):
        try:
            function = remove_docstring(code)
        except UNPARSABLE:  # Python 2
            function = cut_docstring(code)
    if function == code:  # no function alone
        function = _undocumented(code, language or "python")
    if not function.strip():
        return Row(None, partition, "no code")
    package = _text(row, ("package", *_REPO))
    pair = Pair(query, function, name, package, path, line, language or "python")
    return Row(pair, partition, has_language=bool(language))


def _text(row: Mapping[str, Any], keys: tuple[str, ...], *, required: bool = False) -> str:
    """Return the first of the fields that the row has, as clean text; "" where it has none."""
    for key in keys:
        value = row.get(key)
        if value is None and not (required and key in row):
            continue
        if key == "id" and isinstance(value, int):
            value = str(value)
        if not isinstance(value, str):
            raise BadRow(f"{key!r} must be a string, got {kind_of(value)}")
        if len(value) > MAX_FIELD_CHARACTERS:
            raise BadRow(
                f"{key!r} must have at most {MAX_FIELD_CHARACTERS:,} characters, got {len(value):,}"
            )
        if "\0" in value:
            raise BadRow(f"{key!r} must be text, got a NUL character in it")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise BadRow(f"{key!r} must be text, got half a surrogate pair in it") from None
        return value
    if required:
        has = ", ".join(map(repr, sorted(row)[:12])) or "no key at all"
        raise BadRow(f"must have {keys[0]!r}, got {has}")
    return ""


def _tokens(row: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Return the first of the token lists that the row has."""
    for key in keys:
        value = row.get(key)
        if value is None:
            continue
        strings = check_strings(key, value)
        _text({key: " ".join(strings)}, (key,))  # its length and characters
        return strings
    return []


def check_strings(key: str, value: object) -> list[str]:
    """Return a field's value, a list of strings.

    Raises:
        BadRow: It is none; the text says what came.
    """
    if not isinstance(value, list):
        raise BadRow(f"{key!r} must be a list of strings, got {kind_of(value)}")
    for place, each in enumerate(value):
        if not isinstance(each, str):
            raise BadRow(
                f"{key!r} must be a list of strings, got {kind_of(each)} at place {place + 1} of it"
            )
    return value


def _line(row: Mapping[str, Any]) -> int:
    value = row.get("line")
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadRow(f"'line' must be an integer of at least 0, got {str(value)[:40]!r}")
    return value


def _language(row: Mapping[str, Any], path: str) -> str:
    """Return the language that a row or its path says, "" where neither does."""
    language = _text(row, _LANGUAGE)
    return known_language(language) or language_of(path) or ""


def _partition(row: Mapping[str, Any]) -> str:
    word = _text(row, _PARTITION).strip().lower()
    if word and word not in PARTITION_OF_WORD:
        key = next(key for key in _PARTITION if row.get(key))
        raise BadRow(f"{key!r} must be one of {', '.join(PARTITION_OF_WORD)}, got {word[:40]!r}")
    return PARTITION_OF_WORD.get(word, "")


def _undocumented(code: str, language: str) -> str:
    if language == "python":
        return undocumented_python(code)
    return cut_front_comments(code, language)


def _stands_in(query: str, code: str) -> bool:
    words = _WORDS.findall(query.lower())
    if len(words) < MIN_VERBATIM_WORDS:
        return False
    return f" {' '.join(words)} " in f" {' '.join(_WORDS.findall(code.lower()))} "


def kind_of(value: object) -> str:
    """Return the JSON name of a value's type."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "a list" if isinstance(value, list) else "an object")
