"""A function's syntax tree as the rules need it, and its leaves as tokens."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from ..grammars import parse
from .languages import Language, Part, Rule

# "stable": string literals are one token in every version of a grammar, leaves without text are
# none, text is cut by bytes. "reference": as the published code does with today's grammars.
Compat = Literal["stable", "reference"]

_COMMENTS = frozenset({"comment", "line_comment", "block_comment"})
_NO_TOKEN = -1
_LOST = -2  # inside a string of the reference mode: a leaf that the published code fails to find


class Node:
    """A syntax node: a leaf has a token's ordinal, any other node has children."""

    __slots__ = (
        "children",
        "fields",
        "is_variable",
        "kind",
        "ordinal",
        "rule",
        "variables",
        "visited",
    )

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.children: list[Node] = []
        self.visited = self.children  # in the order of their visits
        self.fields: dict[str, Node] = {}  # where a rule asks for them
        self.ordinal = _NO_TOKEN
        self.rule: Rule | None = None
        self.is_variable = False  # a leaf whose text is not its type: no keyword, no sign
        self.variables: list[int] | None = None  # of the subtree, once asked for

    @property
    def is_lost(self) -> bool:
        """Whether the published code would look for this leaf in vain."""
        return self.ordinal == _LOST

    def part(self, name: Part) -> Node | None:
        """Return the part a rule names (see `languages.Part`), None where there is none."""
        place, _, kind = name.partition(":")
        if not place.lstrip("-").isdigit():
            return self.fields.get(name)
        index = int(place)
        if index < 0:  # the child must be of the type
            return self.children[index] if kind in ("", self.children[index].kind) else None
        found = [child for child in self.children if child.kind == kind]
        return found[index] if index < len(found) else None


class Tree(NamedTuple):
    """The root and the texts of the tokens."""

    root: Node
    tokens: list[str]


def check_compat(compat: str) -> None:
    """Refuse an unknown way of reading leaves."""
    if compat not in get_args(Compat):
        raise ValueError(f"compat must be one of {', '.join(get_args(Compat))}, got {compat!r}")


def read_tree(code: str, language: Language, compat: Compat) -> Tree:
    """Parse code; faulty code gives a tree too.

    Args:
        code: Text that UTF-8 can hold.
        language: Its table.
        compat: How leaves become tokens.

    Raises:
        ImportError: The grammars are not installed.
    """
    data = code.encode()
    source = parse(data, language, "data flow")
    reference = compat == "reference"
    strings = {"string": None, **({} if reference else language.strings)}
    comments = frozenset({"comment"}) if reference else _COMMENTS
    rules, first, with_fields = language.rules, language.first, language.with_fields
    lines = code.split("\n")
    isascii = len(data) == len(code)

    root = Node(source.type)
    tokens: list[str] = []
    leaves: list[tuple[Any, Node]] = []
    todo: list[tuple[Any, Node]] = [(source, root)]
    while todo:  # no recursion: code may be nested deeper than Python's stack
        read, node = todo.pop()
        kind = node.kind
        inner = read.children if read.child_count else []
        is_string = kind in strings and not (
            strings[kind] and any(child.type == strings[kind] for child in inner)
        )
        if is_string or (not inner and kind not in comments):
            if reference:
                text = _cut_by_point(lines, read.start_point, read.end_point)
                leaves.append((read, node))
                node.children = [_lost(child) for child in inner]
            else:
                start, end = read.start_byte, read.end_byte
                text = code[start:end] if isascii else data[start:end].decode(errors="replace")
                text = text.replace("\n", "")
                if not text:
                    continue
            node.ordinal = len(tokens)
            node.is_variable = kind != text
            tokens.append(text)
            continue
        children = node.children = node.visited = [Node(child.type) for child in inner]
        node.rule = rules.get(kind)
        if first and any(child.kind in first for child in children):
            # A stable sort: the others keep their order.
            node.visited = sorted(children, key=lambda child: child.kind not in first)
        if kind in with_fields:
            for place, child in enumerate(children):
                field = read.field_name_for_child(place)
                if field:
                    node.fields.setdefault(field, child)
        todo.extend(zip(reversed(inner), reversed(children), strict=True))
    # Leaves without width may share their place; the published code then takes the last for all.
    last = {(read.start_point, read.end_point): node.ordinal for read, node in leaves}
    for read, node in leaves:
        node.ordinal = last[read.start_point, read.end_point]
        node.is_variable = node.kind != tokens[node.ordinal]
    return Tree(root, tokens)


def _lost(read: Any) -> Node:
    node = Node(read.type)
    node.ordinal = _LOST
    return node


def _cut_by_point(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """Cut by line and column, without line ends; columns are bytes, here taken for characters."""
    (first, left), (last, right) = start, end
    if first == last:
        return lines[first][left:right]
    return "".join([lines[first][left:], *lines[first + 1 : last], lines[last][:right]])
