"""Which files are source of which language, and which are no examples: tests, what builds wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class SourceFiles(NamedTuple):
    """How a language's files are told.

    Attributes:
        suffixes: What their names end in.
        left_out: What the whole name of a test, or of minified code, matches.
        left_out_folders: Folders of tests and of what a build wrote, beside those that are left
            out in every language.
    """

    suffixes: tuple[str, ...]
    left_out: re.Pattern[str]
    left_out_folders: frozenset[str] = frozenset()


SOURCE_FILES: Mapping[str, SourceFiles] = {
    "go": SourceFiles((".go",), re.compile(r".*_test\.go"), frozenset({"testdata"})),
    "java": SourceFiles(
        (".java",),
        re.compile(r"(?:Test[A-Z0-9_].*|.*(?:Tests?|TestCase)|.*[a-z0-9]IT)\.java"),
        frozenset({"androidTest", "target"}),
    ),
    "javascript": SourceFiles(
        (".js", ".mjs", ".cjs", ".jsx"),
        re.compile(r"(?:(?:.*[._-])?(?:tests?|specs?)|.*[.-]min)\.\w+"),
        frozenset({"__tests__", "__mocks__", "spec", "specs", "bower_components"}),
    ),
    "php": SourceFiles(
        (".php",), re.compile(r".*(?:Tests?|TestCase)\.php"), frozenset({"Test", "Tests"})
    ),
    "python": SourceFiles((".py",), re.compile(r"(?:test_.*|.*_tests?|tests?|conftest)\.py")),
    "ruby": SourceFiles(
        (".rb",),
        re.compile(r"(?:test_.*|(?:.*_)?(?:test|spec)|spec_helper)\.rb"),
        frozenset({"spec", "specs"}),
    ),
}
SUFFIXES = tuple(suffix for each in SOURCE_FILES.values() for suffix in each.suffixes)
# What data files call the six beside their names, versions aside.
_ALIASES = {
    "golang": "go",
    "js": "javascript",
    "jsx": "javascript",
    "node": "javascript",
    "nodejs": "javascript",
    "py": "python",
    "rb": "ruby",
}
_VERSION = re.compile(r"[\s_-]*v?[\d.]+(?:x|\+)?$")
_LANGUAGE_OF = {suffix: name for name, each in SOURCE_FILES.items() for suffix in each.suffixes}


def language_of(path: str) -> str | None:
    """Return the language of a source file by its name, None where it is none of ours."""
    return _LANGUAGE_OF.get(os.path.splitext(path)[1])


def known_language(name: str) -> str:
    """Return the name of a language as we write it: "python" for "Python3" or "py"; others as is,
    in lower case."""
    name = name.strip().lower()
    bare = _VERSION.sub("", name)
    bare = _ALIASES.get(bare, bare)
    return bare if bare in SOURCE_FILES else name


def is_example(language: str, folders: Iterable[str], name: str) -> bool:
    """Say whether a source file is one to learn from: neither a test nor made by a build."""
    rule = SOURCE_FILES[language]
    return not rule.left_out.fullmatch(name) and rule.left_out_folders.isdisjoint(folders)
