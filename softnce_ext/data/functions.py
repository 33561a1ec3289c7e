"""Functions and their documentation from the text of one Python file, by the standard `ast`."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from .documentation import fault_of, first_paragraph

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

MIN_BODY_LINES = 3  # CodeSearchNet drops functions whose implementation is shorter.
# A longer function is generated or a table; one such would outweigh a hundred others in time.
MAX_CODE_CHARACTERS = 30_000
# All that `ast.parse` raises on text that is not this interpreter's Python: bad syntax, a NUL or
# a wrong encoding, nesting too deep for the parser (it runs out of its own stack, not of memory).
UNPARSABLE = (SyntaxError, ValueError, LookupError, RecursionError, MemoryError)

_STUB_DECORATORS = {"overload", "abstractmethod", "abstractproperty", "abstractclassmethod"}
TEST_CLASS = re.compile(r"_?Tests?(?:[A-Z_]|$)|.*(?:Tests?|TestCase|TestMixin)$")
_TEST_NAME = re.compile(r"_*test(?:_|s$|[A-Z0-9]|$)")


class Function(NamedTuple):
    """One function of a file: `code` is its source without documentation, `line` counts from 1."""

    name: str
    query: str
    code: str
    line: int


def decode_source(data: bytes) -> str:
    """Return a Python file's text, by its byte order mark or coding line, with "\\n" line ends.

    Raises:
        SyntaxError, ValueError, LookupError: The bytes are not text in the encoding they claim.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    text = data.decode(encoding)
    text.encode()  # some codecs let lone surrogates through, which no file can hold
    # The parser counts lines by these ends alone; str.splitlines would also split at form feeds.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse(text: str) -> ast.Module:
    """Parse, without the warnings that old code prints ("invalid escape sequence")."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def functions_in(text: str, *, keep_all: bool = False) -> tuple[list[Function], Counter[str]]:
    """Return the functions of a file that pass CodeSearchNet's filters, and what was counted.

    Functions inside functions are part of the outer one and not listed.

    Args:
        text: The file's text, from `decode_source`.
        keep_all: Return every function, the undocumented ones too (their query is "").

    Returns:
        The functions in file order, and counts: "functions" seen, and one per reason to drop.

    Raises:
        SyntaxError, ValueError, LookupError, RecursionError, MemoryError: The text does not parse.
    """
    lines = text.split("\n")
    found: list[Function] = []
    counts: Counter[str] = Counter()
    for node, in_test in _function_nodes(parse(text).body):
        counts["functions"] += 1
        docstring = docstring_of(node)
        query = first_paragraph(docstring) if docstring else ""
        fault = "" if keep_all else _fault(node, lines, query, in_test)
        if not fault:
            code = without_docstring(lines, node)
            if keep_all or len(code) <= MAX_CODE_CHARACTERS:
                found.append(Function(node.name, query, code, node.lineno))
                continue
            fault = "long code"
        counts[fault] += 1
    return found, counts


def docstring_of(node: FunctionNode) -> str:
    """Return the text of a function's docstring, "" where it has none."""
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        value = first.value.value
        return value if isinstance(value, str) else ""
    return ""


def without_docstring(lines: Sequence[str], node: FunctionNode) -> str:
    """Return a function's source from its `def`, docstring cut out, dedented; it still parses.

    The cut is by line and column, so a docstring may share its line with other statements. Where
    nothing else is in the body, `pass` takes the docstring's place.
    """
    first, last = node.lineno, node.end_lineno or node.lineno
    source = list(lines[first - 1 : last])
    if docstring_of(node):
        cut_first_statement(source, node.body, first)
    indent = _bytes_before(source[0], node.col_offset)
    # Lines of a multi-line string may be indented less than the function; they stay as they are.
    return "\n".join(line.removeprefix(indent) for line in source).rstrip()


def cut_first_statement(source: list[str], body: Sequence[ast.stmt], first: int = 1) -> None:
    """Cut the first statement of a body out of lines, in place; `first` is their first's number."""
    statement = body[0]
    start, end = statement.lineno - first, (statement.end_lineno or 0) - first
    before = _bytes_before(source[start], statement.col_offset)
    after = _bytes_after(source[end], statement.end_col_offset or 0)
    shares_start = bool(before.strip())
    shares_end = bool(after.strip()) and not after.lstrip().startswith("#")
    if len(body) == 1:
        source[start : end + 1] = [before + "pass" + after]
    elif not shares_start and not shares_end:
        del source[start : end + 1]
    elif body[1].lineno - first == end:
        rest = _bytes_after(source[end], body[1].col_offset)
        source[start : end + 1] = [before + rest]
    else:  # a ";" in front of the line's end or of a continuation
        source[start : end + 1] = [before + "pass" + after]


def dedented_lines(source: str) -> list[str]:
    """Return a text's lines without the indentation of the first that is not blank."""
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = next((line for line in lines if line.strip()), "")
    indent = first[: len(first) - len(first.lstrip(" \t"))]
    return [line.removeprefix(indent) for line in lines]


def remove_docstring(source: str) -> str:
    """Return the source of one Python function without its docstring.

    Text that holds no function at its top level comes back as it is.

    Raises:
        SyntaxError, ValueError, LookupError, RecursionError, MemoryError: It does not parse.
    """
    lines = dedented_lines(source)
    for node in parse("\n".join(lines)).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return without_docstring(lines, node)
    return source


def _function_nodes(
    body: Sequence[ast.stmt], in_test: bool = False
) -> Iterator[tuple[FunctionNode, bool]]:
    """Yield the functions of a module and of its classes, and whether a test class holds them."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node, in_test
        elif isinstance(node, ast.ClassDef):
            yield from _function_nodes(node.body, in_test or bool(TEST_CLASS.match(node.name)))
        else:  # if, try, with, ...: definitions under a condition
            for field in ("body", "orelse", "finalbody"):
                yield from _function_nodes(getattr(node, field, ()), in_test)
            for handler in getattr(node, "handlers", ()):
                yield from _function_nodes(handler.body, in_test)


def _fault(node: FunctionNode, lines: Sequence[str], query: str, in_test: bool) -> str:
    """Return why a function is left out, "" where it is kept."""
    if node.name.startswith("__") and node.name.endswith("__"):
        return "dunder method"
    if in_test or _TEST_NAME.match(node.name):
        return "test"
    if any(_decorator_name(each) in _STUB_DECORATORS for each in node.decorator_list):
        return "stub"
    fault = fault_of(query)
    if fault:
        return fault
    body = node.body[1:]  # a query comes from a docstring, so body[0] is one
    if all(map(_is_stub, body)):
        return "stub"
    code_lines = (line.lstrip() for line in lines[node.body[0].end_lineno : node.end_lineno])
    if sum(1 for line in code_lines if line and not line.startswith("#")) < MIN_BODY_LINES:
        return "short body"
    return ""


def _decorator_name(node: ast.expr) -> str:
    """Return the last part of a decorator's name: "overload" of `@typing.overload`."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_stub(node: ast.stmt) -> bool:
    """Say whether a statement only marks a place: pass, a constant, raise NotImplementedError."""
    if isinstance(node, ast.Raise):
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Pass)


def _bytes_before(line: str, column: int) -> str:
    """Return the part of a line before a column, which `ast` counts in UTF-8 bytes."""
    return line[:column] if line.isascii() else line.encode()[:column].decode()


def _bytes_after(line: str, column: int) -> str:
    """Return the part of a line from a column on, which `ast` counts in UTF-8 bytes."""
    return line[column:] if line.isascii() else line.encode()[column:].decode()
