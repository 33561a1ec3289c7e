import argparse
import ast
import subprocess
import sys

import pytest

from softnce_ext.data.functions import (
    decode_source,
    docstring_of,
    functions_in,
    remove_docstring,
)

BODY = "    first = 1\n    second = 2\n    return first + second\n"


def only(text: str, **options: bool) -> str:
    functions, _ = functions_in(text, **options)
    assert len(functions) == 1
    return functions[0].code


CUTS = {
    "own line": ('def f():\n    """Doc of it."""\n    return 1', "def f():\n    return 1"),
    "several lines": (
        'def f():\n    """Doc\n\n    of it.\n    """\n    return 1',
        "def f():\n    return 1",
    ),
    "comment after": ('def f():\n    "Doc of it."  # noqa\n    return 1', "def f():\n    return 1"),
    "shared, one line": ('def f(): "Doc of it."; return 1', "def f(): return 1"),
    "shared, own line": (
        'def f():\n    """Doc\n    of it."""; x = 1\n    return x',
        "def f():\n    x = 1\n    return x",
    ),
    "semicolon at the end": (
        'def f():\n    "Doc of it.";\n    return 1',
        "def f():\n    pass;\n    return 1",
    ),
    "nothing else": ('def f():\n    """Doc of it."""', "def f():\n    pass"),
    "nothing else, one line": ('def f(): "Doc of it."', "def f(): pass"),
    "parentheses": (
        'def f():\n    ("Doc "\n     "of it.")\n    return 1',
        "def f():\n    return 1",
    ),
    "wide characters": ('def f(ä="ö"): "Döc of it."; return "ü"', 'def f(ä="ö"): return "ü"'),
    "decorated next": (
        'def f():\n    "Doc of it."\n    @g\n    def h(): pass\n    return h',
        "def f():\n    @g\n    def h(): pass\n    return h",
    ),
    "async": ('async def f():\n    "Doc of it."\n    await g()', "async def f():\n    await g()"),
    "continuation": ('def f():\n    "Doc of it."; \\\n    x = 1\n    return x', None),
    "no docstring": ("def f():\n    return 1", "def f():\n    return 1"),
    "bytes are none": ('def f():\n    b"Doc"\n    return 1', 'def f():\n    b"Doc"\n    return 1'),
    "line ends": ('def f():\r\n    "Doc of it."\r\n    return 1', "def f():\n    return 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", CUTS)
def test_cut_removes_the_docstring_and_nothing_else(case: str) -> None:
    source, expected = CUTS[case]
    code = remove_docstring(source)
    if expected is not None:
        assert code == expected
    (node,) = ast.parse(code).body
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    assert docstring_of(node) == ""
    assert "Doc of it" not in code


def test_methods_are_dedented_and_strings_of_less_indent_survive() -> None:
    text = (
        "class A:\n    class B:\n        def f(self):\n"
        '            """Doc of f here."""\n            text = """\nflush left\n"""\n'
        "            other = text\n            return other\n"
    )
    assert only(text) == (
        'def f(self):\n    text = """\nflush left\n"""\n    other = text\n    return other'
    )


def test_functions_under_conditions_are_found_and_inner_ones_are_not() -> None:
    text = (
        'try:\n    import x\nexcept ImportError:\n    def a():\n        """Doc of a one."""\n'
        "        x = 1\n        y = 2\n        return x + y\n"
        'if x:\n    pass\nelse:\n    def b():\n        """Doc of b one."""\n'
        '        def inner():\n            """Doc of inner one."""\n            return 1\n'
        "        return inner\n"
    )
    functions, counts = functions_in(text)
    assert [(each.name, each.line) for each in functions] == [("a", 4), ("b", 12)]
    assert counts["functions"] == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('def __call__():\n    """Doc of it here."""\n' + BODY, "dunder method"),
        ('def test_it():\n    """Doc of it here."""\n' + BODY, "test"),
        ('class TestIt:\n  def f():\n    """Doc of it here."""\n' + BODY, "test"),
        ('@typing.overload\ndef f():\n    """Doc of it here."""\n' + BODY, "stub"),
        ('@abstractmethod\ndef f():\n    """Doc of it here."""\n' + BODY, "stub"),
        ('def f():\n    """Doc of it here."""', "stub"),
        ('def f():\n    """Doc of it here."""\n    raise NotImplementedError(\n1\n)', "stub"),
        ('def f():\n    """Doc of it here."""\n    pass\n    ...', "stub"),
        ("def f():\n" + BODY, "no documentation"),
        ('def f():\n    """Do it."""\n' + BODY, "short documentation"),
        ('def f():\n    """Doc of it here."""\n    x = 1\n\n    # why\n    return x', "short body"),
        ('def f():\n    """Doc of it here."""\n    return 1', "short body"),
        ('def f():\n    """Doc of it here."""\n' + "    x = 1\n" * 4000, "long code"),
    ],
)  # fmt: skip
def test_filters_drop_and_name_the_reason(text: str, reason: str) -> None:
    functions, counts = functions_in(text)
    assert functions == []
    assert counts == {"functions": 1, reason: 1}
    assert len(functions_in(text, keep_all=True)[0]) == 1


@pytest.mark.parametrize("name", ["testament", "latest_of", "attest"])
def test_names_that_only_contain_test_are_kept(name: str) -> None:
    assert only(f'def {name}():\n    """Doc of it here."""\n' + BODY)


def test_source_is_decoded_by_its_coding_line_and_byte_order_mark() -> None:
    assert decode_source("# coding: latin-1\nx = 'ä'\r\n".encode("latin-1")).endswith("'ä'\n")
    assert decode_source(b"\xef\xbb\xbfx = 1\rdef") == "x = 1\ndef"
    surrogate = b"# coding: raw_unicode_escape\nx = '\\ud800'"
    codings = (b"# coding: klingon\n", b"# coding: rot13\n", b"# coding: hex\n")
    for bad in (b"x = '\xff'", surrogate, *codings):
        with pytest.raises((SyntaxError, ValueError, LookupError)):
            decode_source(bad)


def test_old_code_prints_no_warning() -> None:
    code = "from softnce_ext.data.functions import functions_in; functions_in(r'x = \"\\d\" is 1')"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_functions_of_the_standard_library_still_parse_without_documentation() -> None:
    for module in (argparse, ast, subprocess):
        with open(module.__file__, "rb") as file:
            functions, _ = functions_in(decode_source(file.read()), keep_all=True)
        assert len(functions) > 50
        for function in functions:
            (node,) = ast.parse(function.code).body
            assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            assert (node.name, docstring_of(node)) == (function.name, "")
