"""tree-sitter and its grammars, which the extra `mine` brings; nothing is loaded before its use."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .dataflow.languages import LANGUAGES, Language

CURE = "pip install 'softnce-ext[mine]'"
_LIBRARY = "tree_sitter"


def parse(data: bytes, table: Language, what: str) -> Any:
    """Return the root node of a text; faulty text gives a tree too.

    Args:
        data: The text, as UTF-8.
        table: Of its language.
        what: Names the work in the error.

    Raises:
        ImportError: The grammars are not installed.
    """
    try:
        library = import_module(_LIBRARY)
        package = import_module(table.package)
    except ImportError as error:
        raise ImportError(
            f"{what} needs tree-sitter and its grammars, and {error.name} is missing: {CURE}"
        ) from error
    # One parser per call: parsers are not safe to share between threads, and cost microseconds.
    grammar = library.Language(getattr(package, table.grammar)())
    return library.Parser(grammar).parse(data).root_node


def has_grammar(language: str) -> bool:
    """Say whether a language's grammar is installed, without loading it."""
    return all(find_spec(name) for name in (_LIBRARY, LANGUAGES[language].package))


def grammar_folders(*languages: str) -> list[str]:
    """Return the folders grammars are imported from, which a worker process does not know."""
    packages = [_LIBRARY, *(LANGUAGES[language].package for language in languages)]
    specs = [find_spec(package) for package in packages]
    return sorted({str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin})
