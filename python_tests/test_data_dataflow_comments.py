"""Comment stripping, golden: the same in every Python, formatted strings included."""

from __future__ import annotations

import pytest

from softnce_ext.data.dataflow.comments import strip_comments


@pytest.mark.parametrize(
    ("code", "stripped"),
    [
        ('def f(a):\n    """Doc."""\n    return a\n', "def f(a):\n    return a"),
        ("def f():\n    'doc'; return 1\n", "def f():\n    ; return 1"),
        ("a = 1  # one\n\n# two\nb = 2\n", "a = 1  \nb = 2"),
        ("a = '# no'\n", "a = '# no'"),
        ("a = (b +  # one\n     c)\n", "a = (b +  \n     c)"),
        ("a = b + \\\n    c\n", "a = b +    c"),
        # A string that starts a statement or a line is taken for documentation.
        ("a = 1\n'gone'\nf('stays')\n", "a = 1\nf('stays')"),
        ("f(\n'gone', 'stays')\n", "f(\n, 'stays')"),
        # A formatted string is one string, in Python 3.12 and later too.
        ("a = f'{b!r:>{w}} {{}} # no'  # yes\n", "a = f'{b!r:>{w}} {{}} # no'"),
        ("def f():\n    f'{a} doc'\n    return 1\n", "def f():\n    return 1"),
        ('a = f"""{b}\n # no {c}"""\n', 'a = f"""{b}\n # no {c}"""'),
        ("if x:\n  a\n b\n", "if x:\n  a\n b\n"),  # unreadable: kept as it is
    ],
)
def test_python(code, stripped):
    assert strip_comments(code, "tokenize").rstrip(" ") == stripped


@pytest.mark.parametrize(
    ("code", "stripped"),
    [
        ("a = 1; // one\nb = 2;", "a = 1;  \nb = 2;"),
        ("a /* one\n two */ = 1;", "a   = 1;"),
        ("s = \"// no\" + '/* no */';", "s = \"// no\" + '/* no */';"),
        ('s = "a\\"// no";', 's = "a\\"// no";'),
        ("/* one */\n\n  // two\na();", "a();"),
        ("a = b / c / d;", "a = b / c / d;"),
        ("a = `http://b`;", "a = `http: "),  # backquotes are not known
        ("a /* never closed", "a /* never closed"),
    ],
)
def test_slashes(code, stripped):
    assert strip_comments(code, "slashes") == stripped


def test_ruby_is_left_to_the_parser():
    assert strip_comments("a # b\n\n=begin\nc\n=end", "") == "a # b\n\n=begin\nc\n=end"
