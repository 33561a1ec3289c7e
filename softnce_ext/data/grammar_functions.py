"""Functions and their documentation from a Go, Java, JavaScript, PHP or Ruby file, by tree-sitter.

`functions.py` does the same for Python.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from typing import Any, NamedTuple

from .dataflow.languages import LANGUAGES
from .doc_comments import block_text, line_text
from .documentation import fault_of, first_paragraph
from .function_grammars import GRAMMARS, FunctionGrammar
from .functions import MAX_CODE_CHARACTERS, MIN_BODY_LINES, TEST_CLASS, Function
from .grammars import parse

# A longer line was written by a program: minified code, a table.
MAX_LINE_BYTES = 5000
_HEADER_BYTES = 2000
_GENERATED = re.compile(rb"\bgenerated\b[^\n]{0,200}\bdo not (?:edit|modify)\b|@generated\b", re.I)
_COMMENTS = frozenset({"comment", "line_comment", "block_comment"})
_TEST_NAME = re.compile(r"(?:_*test|Test)(?:_|s$|[A-Z0-9]|$)")
_WORD = re.compile(r"\w")
_IDENTIFIER = re.compile(r"[\w$]+")


class _Place(NamedTuple):
    """A node on the way down, and what was passed on that way.

    Attributes:
        node: The node.
        front: The byte that documentation must stand in front of.
        whole: The statement that a function's code is cut out as, if more than the function.
        name: The node that names a function without a name of its own.
        in_test: Whether a test class holds it.
    """

    node: Any
    front: int
    whole: Any = None
    name: Any = None
    in_test: bool = False


def why_left_out(data: bytes, language: str) -> str:
    """Return why no function of a file is one to learn from, "" where nothing says so."""
    if _GENERATED.search(data[:_HEADER_BYTES]):
        return "generated files"
    if language == "javascript" and any(len(each) > MAX_LINE_BYTES for each in data.split(b"\n")):
        return "minified files"
    return ""


def may_document(data: bytes, language: str) -> bool:
    """Tell without parsing whether a file may hold a documented function."""
    return GRAMMARS[language].needle in data


def grammar_functions(
    data: bytes, language: str, *, keep_all: bool = False
) -> tuple[list[Function], Counter[str]]:
    """Return the functions of a file that pass CodeSearchNet's filters, and what was counted.

    Functions inside functions that have a name are part of the outer one and not listed. A
    function with a syntax error inside is dropped, whatever else is wrong with the file.

    Args:
        data: The file.
        language: A key of `GRAMMARS`.
        keep_all: Return every function, the undocumented ones too (their query is "").

    Returns:
        The functions in file order, and counts: "functions" seen, and one per reason to drop.

    Raises:
        ImportError: The grammars are not installed.
    """
    reader = _Reader(_utf8(data), GRAMMARS[language], keep_all)
    reader.read(parse(reader.data, LANGUAGES[language], f"mining {language}"))
    return reader.found, reader.counts


class _Reader:
    """Walks one file's tree in the order of its text."""

    def __init__(self, data: bytes, grammar: FunctionGrammar, keep_all: bool) -> None:
        self.data, self.grammar, self.keep_all = data, grammar, keep_all
        self.found: list[Function] = []
        self.counts: Counter[str] = Counter()
        self._comments: list[tuple[int, int]] = []  # first byte and the one after the last

    def read(self, root: Any) -> None:
        """List the functions of a tree."""
        grammar = self.grammar
        todo = [_Place(root, root.start_byte)]
        while todo:  # no recursion: code may be nested deeper than Python's stack
            place = todo.pop()
            kind = place.node.type
            if kind in _COMMENTS:
                self._comments.append((place.node.start_byte, place.node.end_byte))
            elif kind in grammar.functions or (kind in grammar.values and place.name is not None):
                self._add(place)
            else:
                todo.extend(reversed(self._children(place)))

    def _children(self, place: _Place) -> list[_Place]:
        """Return the places of a node's children."""
        node, kind = place.node, place.node.type
        children = node.named_children
        in_test = place.in_test
        if not in_test and kind.startswith("class") and (name := node.child_by_field_name("name")):
            in_test = bool(TEST_CLASS.match(self._text(name)))
        places = [_Place(each, each.start_byte, in_test=in_test) for each in children]
        if kind in self.grammar.names:
            name, value = map(node.child_by_field_name, self.grammar.names[kind])
            if value in children:
                whole = place.whole or node
                places[children.index(value)] = _Place(value, place.front, whole, name, in_test)
        elif kind in self.grammar.fronts:
            field = self.grammar.fronts[kind]
            held = node.child_by_field_name(field) if field else next(iter(children), None)
            if held in children:
                # `const f = () => 1` is cut out whole, of two declarations in one each by itself.
                is_whole = len(children) == 1 and kind.endswith(("declaration", "statement"))
                whole = node if is_whole and kind != "export_statement" else None
                places[children.index(held)] = _Place(held, place.front, whole, None, in_test)
        return places

    def _add(self, place: _Place) -> None:
        """List a function, or count why it is left out."""
        node, counts = place.node, self.counts
        counts["functions"] += 1
        name = self._name(node.child_by_field_name("name") or place.name)
        query = first_paragraph(self._documentation(place.front))
        if node.has_error or not name:
            fault = "syntax error"
        else:
            fault = "" if self.keep_all else self._fault(place, name, query)
        if not fault:
            whole = place.whole or node
            code = self._dedented(whole)
            if self.keep_all or len(code) <= MAX_CODE_CHARACTERS:
                self.found.append(Function(name, query, code, whole.start_point[0] + 1))
                return
            fault = "long code"
        counts[fault] += 1

    def _name(self, node: Any) -> str:
        if node is None:
            return ""
        # Of `Foo.prototype.bar` and `exports["bar"]` the last part is the name.
        last = node.child_by_field_name("property") or node.child_by_field_name("index")
        text = self._text(last or node)
        if not self.grammar.names:  # Ruby's operators are names
            return text
        parts = _IDENTIFIER.findall(text) if text.startswith("[") else [text]
        return parts[-1].strip("\"'`#") if parts else ""

    def _documentation(self, front: int) -> str:
        """Return the text of the comment that ends in front of a byte, "" where there is none."""
        form, at = self.grammar.documentation, front
        lines: list[str] = []
        for start, end in reversed(self._comments):
            if end > at:  # inside `const f = /* here */ function () {}`
                continue
            comment = self.data[start:end].decode().rstrip()
            end = start + len(comment.encode())
            between = self.data[end:at]
            is_documentation = form == "block" and comment.startswith("/**") and comment != "/**/"
            # A file's header is no function's, though a blank line follows both.
            is_header = start == self._comments[0][0] and not self.data[:start].strip()
            blank_lines = self.grammar.blank_lines if is_documentation and not is_header else 0
            if between.strip() or between.count(b"\n") > 1 + blank_lines:
                break
            if is_documentation:
                return block_text(comment)
            if form == "block":  # a note between documentation and function
                at = start
                continue
            if not self._begins_line(start):  # it is about the code that it stands behind
                break
            if comment.startswith(("/*", "=begin")):
                return "" if lines else block_text(comment)
            lines.insert(0, comment)
            at = start
        return line_text(lines) if lines else ""

    def _fault(self, place: _Place, name: str, query: str) -> str:
        """Return why a function is left out, "" where it is kept."""
        node, grammar = place.node, self.grammar
        if grammar.special.fullmatch(name) or node.type in grammar.constructors:
            return "special method"
        if place.in_test or _TEST_NAME.match(name):
            return "test"
        body = node.child_by_field_name("body")
        if body is None:  # abstract, or of an interface
            return "stub"
        fault = fault_of(query)
        if fault:
            return fault
        lines = map(str.strip, self._text(body).split("\n"))
        code = sum(
            1
            for line in lines
            if _WORD.search(line)
            and line not in grammar.closing_words
            and not line.startswith(grammar.no_code)
        )
        return "short body" if code < MIN_BODY_LINES else ""

    def _dedented(self, node: Any) -> str:
        """Return a node's text without the indentation of its first line."""
        start = node.start_byte
        lead = self.data[self.data.rfind(b"\n", 0, start) + 1 : start].decode()
        indent = lead[: len(lead) - len(lead.lstrip())]
        first, *others = self._text(node).split("\n")
        # Lines of a here-document may be indented less than the function; they stay as they are.
        return "\n".join([first, *(line.removeprefix(indent) for line in others)]).rstrip()

    def _begins_line(self, start: int) -> bool:
        return not self.data[self.data.rfind(b"\n", 0, start) + 1 : start].strip()

    def _text(self, node: Any) -> str:
        return self.data[node.start_byte : node.end_byte].decode()


def _utf8(data: bytes) -> bytes:
    """Return text as UTF-8 with "\\n" line ends; what is no UTF-8 is read as Latin-1."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n").encode(errors="replace")
