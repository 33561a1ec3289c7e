"""The six languages as tables: grammar, comments, strings, and which syntax nodes move data.

The rules are those of GraphCodeBERT (Guo et al. 2021) with their known gaps, which the published
weights were trained with: JavaScript's plain ``=`` and Go's ``:=`` move nothing, Go's range is no
loop, JavaScript's `else` goes on from the branch before it, PHP's variables are known only once
assigned, and a PHP `foreach` whose first parts are not two plain variables ends the analysis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

# How the two sides of an assignment meet. "whole": a variable of the left has one edge from all
# of the right. "list": the same, child by child (commas aside) where both sides have as many, be
# they lists or not. "pair": one edge for every two variables.
Style = Literal["list", "whole", "pair"]

# How a rule names a part of its node: a field of the grammar, or a child by place and type.
# "-1": the last child; "-1:block": the last one if it is a block; "1:variable_name": the second
# of that type.
Part = str


class Definition(NamedTuple):
    """A name that may start with a value."""

    name: Part = "name"
    value: Part = "value"


class Assignment(NamedTuple):
    """Its right side is visited first; then the variables of the left are computed from it."""

    style: Style
    left: Part = "left"
    right: Part = "right"


class Increment(NamedTuple):
    """Each of its variables is computed from all of them."""


class Branch(NamedTuple):
    """Ways through code that start alike and end merged.

    Attributes:
        apart: Types of the children that start from the state before the node.
        rest: Whether all children after the first such child do so too.
        always_merge: Merge the state before the node also where there is an `else`.
    """

    apart: frozenset[str]
    rest: bool = True
    always_merge: bool = False


class Twice(NamedTuple):
    """A loop whose children run twice, so that the second pass sees what the first assigned."""


class Counted(NamedTuple):
    """A loop whose children run once, then again from behind the one that declares its variable.

    Attributes:
        declaration: Type of that child.
        update: Part of that child that runs again too.
    """

    declaration: str
    update: Part | None = None


class Each(NamedTuple):
    """A loop over a collection: twice an assignment, then the body."""

    style: Style
    name: Part
    value: Part
    body: Part = "body"


Rule = Definition | Assignment | Increment | Branch | Twice | Counted | Each


class Language(NamedTuple):
    """What the engine knows of a language.

    Attributes:
        package: The grammar's Python package.
        grammar: The function in it that gives the grammar.
        comments: "tokenize" (Python), "slashes" (// and /* */) or "" (left to the parser).
        strings: Types of string literals, each with the child type that keeps one apart, if any.
        rules: Node type to rule.
        first: Types of children that are visited before their siblings.
        before: What a function needs in front of it to be parsed as code.
        after: What it needs behind it.
    """

    package: str
    comments: str
    strings: Mapping[str, str | None]
    rules: Mapping[str, Rule]
    grammar: str = "language"
    first: frozenset[str] = frozenset()
    before: str = ""
    after: str = ""

    @property
    def with_fields(self) -> frozenset[str]:
        """Types of the nodes whose fields a rule asks for."""
        declarations = (
            each.declaration for each in self.rules.values() if isinstance(each, Counted)
        )
        return frozenset([*self.rules, *declarations])


_IF_ELSE = frozenset({"if_statement", "else"})

PYTHON = Language(
    package="tree_sitter_python",
    comments="tokenize",
    strings={},
    first=frozenset({"for_in_clause"}),
    rules={
        "default_parameter": Definition(),
        "assignment": Assignment("list"),
        "augmented_assignment": Assignment("list"),
        "for_in_clause": Assignment("whole", right="-1"),
        "if_statement": Branch(frozenset({"elif_clause", "else_clause"}), rest=False),
        "for_statement": Each("list", "left", "right", body="-1:block"),
        "while_statement": Twice(),
    },
)

JAVA = Language(
    package="tree_sitter_java",
    comments="slashes",
    strings={"string_literal": None},
    rules={
        "variable_declarator": Definition(),
        "assignment_expression": Assignment("pair"),
        "update_expression": Increment(),
        "if_statement": Branch(_IF_ELSE),
        "for_statement": Counted("local_variable_declaration"),
        "enhanced_for_statement": Each("pair", "name", "value"),
        "while_statement": Twice(),
    },
)

JAVASCRIPT = Language(
    package="tree_sitter_javascript",
    comments="slashes",
    strings={"template_string": "template_substitution"},
    rules={
        "variable_declarator": Definition(),
        "assignment_pattern": Assignment("pair"),
        "augmented_assignment_expression": Assignment("pair"),
        "update_expression": Increment(),
        "if_statement": Branch(_IF_ELSE, always_merge=True),
        "for_statement": Counted("variable_declaration"),
        "while_statement": Twice(),
    },
)

PHP = Language(
    package="tree_sitter_php",
    grammar="language_php",
    comments="slashes",
    strings={"encapsed_string": None},
    before="<?php",
    after="?>",
    rules={
        "simple_parameter": Definition(value="default_value"),
        "assignment_expression": Assignment("pair"),
        "augmented_assignment_expression": Assignment("pair"),
        "update_expression": Increment(),
        "if_statement": Branch(frozenset({"if_statement", "else_clause"}), always_merge=True),
        "else_clause": Branch(frozenset({"if_statement", "else_clause"}), always_merge=True),
        "for_statement": Counted("assignment_expression"),
        "foreach_statement": Each("pair", "1:variable_name", "0:variable_name"),
        "while_statement": Twice(),
    },
)

_RUBY_BRANCHES = frozenset({"if", "elsif", "else", "unless", "when"})

RUBY = Language(
    package="tree_sitter_ruby",
    comments="",
    strings={},
    rules={
        "keyword_parameter": Definition(),
        "assignment": Assignment("list"),
        "operator_assignment": Assignment("whole"),
        **{kind: Branch(_RUBY_BRANCHES, rest=False) for kind in sorted(_RUBY_BRANCHES)},
        "for": Each("list", "pattern", "value"),
        "while_modifier": Twice(),
        "until": Twice(),
    },
)

GO = Language(
    package="tree_sitter_go",
    comments="slashes",
    strings={"interpreted_string_literal": None, "raw_string_literal": None},
    rules={
        "var_spec": Definition(),
        "assignment_statement": Assignment("pair"),
        "inc_statement": Increment(),
        "if_statement": Branch(_IF_ELSE, always_merge=True),
        "for_statement": Counted("for_clause", update="update"),
    },
)

LANGUAGES: Mapping[str, Language] = {
    "python": PYTHON,
    "java": JAVA,
    "javascript": JAVASCRIPT,
    "php": PHP,
    "ruby": RUBY,
    "go": GO,
}


def language_named(name: str) -> Language:
    """Return a language's table.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, got {name!r}")
    return LANGUAGES[name]
