from __future__ import annotations

import time

import pytest
from language_rows import LANGUAGES, language_rows

from softnce_ext.data.front_comments import cut_front_comments

BODY = {
    "go": 'func Read(x interface{}) string {\n\t// why\n\treturn "// no comment"\n}',
    "java": "@Override\n// note\npublic int read(int a /* path */) {\n  // why\n  return 1;\n}",
    "javascript": "async function read(a) {\n  // why\n  return /['\"]/.test(a);\n}",
    "php": "#[Pure]\nfunction read($a) {\n  # why\n  return '#';\n}",
    "ruby": 'def read(a)\n  # why\n  "#{a}"\nend',
}
SLASHES = (
    "// Read it.\n// More.\n",
    "/* Read it. */",
    "/**\n * Read it.\n */\n\n",
    "\n  // Read\n",
)
FRONTS = {
    "go": (*SLASHES, "//go:noinline\n"),
    "java": SLASHES,
    "javascript": SLASHES,
    "php": (*SLASHES, "# Read it.\n", "/** A. */\n// B.\n"),
    "ruby": ("# Read it.\n# More.\n\n", "=begin\nRead it.\n=end\n", "# a\n=begin\nb\n=end\n"),
}
CASES = [(language, front) for language in FRONTS for front in FRONTS[language]]


@pytest.mark.parametrize(("language", "front"), CASES)
def test_comments_in_front_of_a_function_are_cut(language: str, front: str) -> None:
    assert cut_front_comments(front + BODY[language], language) == BODY[language]


@pytest.mark.parametrize("language", BODY)
def test_a_function_without_them_comes_back_as_it_is(language: str) -> None:
    assert cut_front_comments(BODY[language], language) is BODY[language]


@pytest.mark.parametrize("language", LANGUAGES)
def test_rows_of_mined_code_stay_as_they_are(language: str) -> None:
    for row in language_rows(language):
        assert cut_front_comments(row["code"], language) == row["code"]


AROUND = [
    (
        "java",
        "package a;\n\n/** A. */\npublic class A {\n  /** Reads. */\n  int read() { return 1; }\n}",
        "package a;\n\npublic class A {\n  int read() { return 1; }\n}",
    ),
    (
        "go",
        'package a\n\nimport (\n\t"fmt" // kept\n)\n\n// Read reads it.\nfunc Read() {}',
        'package a\n\nimport (\n\t"fmt" // kept\n)\n\nfunc Read() {}',
    ),
    (
        "javascript",
        "class A extends B {\n  /** Reads it. */\n  read() { return 1; }\n}",
        "class A extends B {\n  read() { return 1; }\n}",
    ),
    (
        "javascript",  # no body: what might be a regex is not looked into
        '// Cut it.\nconst f = s => s.replace(/"/g, "//")',
        'const f = s => s.replace(/"/g, "//")',
    ),
    (
        "php",
        "<?php\nnamespace A;\n/** Reads it. */\nfunction read() { return 1; }",
        "<?php\nnamespace A;\nfunction read() { return 1; }",
    ),
    (
        "ruby",
        "class A\n  # Reads it.\n  private def self.read\n    1 # one\n  end\nend",
        "class A\n  private def self.read\n    1 # one\n  end\nend",
    ),
    ("ruby", "# Add.\nadd = ->(a) { a + 1 } # one", "add = ->(a) { a + 1 } # one"),
    ("rust", "/// Reads it.\nfn read() {}", "/// Reads it.\nfn read() {}"),
    ("java", "// nothing else", ""),
]


@pytest.mark.parametrize(("language", "code", "bare"), AROUND)
def test_what_stands_around_the_function_stays(language: str, code: str, bare: str) -> None:
    assert cut_front_comments(code, language) == bare


def test_comments_that_never_close_cost_no_more_than_their_length() -> None:
    start = time.perf_counter()
    cut_front_comments("int f(\n" + "/* " * 300_000, "java")
    assert time.perf_counter() - start < 5
