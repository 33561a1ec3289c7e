from __future__ import annotations

import pytest

from softnce_ext.data.docstrings import cut_docstring, undocumented_python

BARE = "def f(a):\n    return a"
CUT = [
    ('def f(a):\n    "Return the first numbers."\n    return a', BARE),
    ("def f(a):\n    'Return the first numbers.'\n    return a", BARE),
    ('def f(a):\n    r"""Return\n\n    the `numbers`."""\n    return a', BARE),
    ("def f(a):\n    u'''It\\'s \\\"quoted\\\".'''\n    return a", BARE),
    ("def f(a):\n    b'Return it.'\n    return a", BARE),
    ('def f(a):\n    f"Return {a}."\n    return a', BARE),
    ('# Return the\n#   first numbers.\n\ndef f(a):\n    """More."""\n    return a', BARE),
    ("\n    # Return it.\n    def f(a):\n        return a", BARE),
    ('"""Return it."""\ndef f(a):\n    return a', BARE),
    (
        "@g\n# Return it.\n@h(\n    # kept\n    1\n)\ndef f(a):\n    return a",
        "@g\n@h(\n    # kept\n    1\n)\ndef f(a):\n    return a",
    ),
    (
        "import os\n\n# Return it.\nasync def f(a):\n    'Doc.'\n    return a\nx = '#'",
        "import os\n\nasync def f(a):\n    return a\nx = '#'",
    ),
    (
        'class A:\n    "A thing."\n\n    def f(self):\n        "Do it."\n        return 1',
        "class A:\n\n    def f(self):\n        return 1",
    ),
    ('class A: "A thing."; x = 1', "class A: x = 1"),
    (
        "try:\n    def f(): 'Doc.'\nexcept E:\n    pass",
        "try:\n    def f(): pass\nexcept E:\n    pass",
    ),
    ("def f(a):\r\n    'Doc.'\r\n    return a", BARE),
    (
        "def f(a):  # so\n    # why\n    ('Return it.')\n    return a",
        "def f(a):  # so\n    # why\n    return a",
    ),
    # Python 2, which does not parse
    ("# Print it.\ndef f():\n    'Print it.'\n    print 1", "def f():\n    print 1"),
    (
        'class A:\n    """A."""\n    def f(self):\n        "Do it."\n        print 1',
        "class A:\n    def f(self):\n        print 1",
    ),
]
KEPT = [
    "def f(a):\n    # why\n    return 'a'  # so",
    "def f(a):\n    def g():\n        'kept, as in mined code'\n    return g",
    "x = '#'\n# no definition",
    "'a string'",
    "def f():\n    x = '''\n# text\n'''\n    return x",
    "def f(a):\n    '%s' % a\n    return a",
    "",
]


@pytest.mark.parametrize(("source", "bare"), CUT)
def test_documentation_is_cut_whatever_its_form(source: str, bare: str) -> None:
    assert undocumented_python(source) == bare
    assert undocumented_python(bare) == bare


@pytest.mark.parametrize("source", KEPT)
def test_code_without_documentation_comes_back_as_it_is(source: str) -> None:
    assert undocumented_python(source) is source


def test_a_string_that_is_part_of_a_statement_stays() -> None:
    rest = '\n    y = """\n    foo\n    """\n    return y'
    code = f'def f(x):\n    """SELECT %s""" % x{rest}'
    assert cut_docstring(code) == code
    python_2 = f'def f(x):\n    """SELECT %s""" % x\n    print 1{rest}'
    assert undocumented_python(python_2) == python_2


@pytest.mark.parametrize("quotes", ['""', '"""a"""', "'", "'''a\ndef f(): ", '\\"', "a\\'" * 5])
def test_quotes_without_end_take_no_longer_than_their_length(quotes: str) -> None:
    """Read in two ways, 3,000 of them would never end."""
    code = "def f():\n    " + quotes * 3000 + "x\n    print 1"
    assert undocumented_python(code) == cut_docstring(code) == code
