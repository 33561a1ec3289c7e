"""Go, Java, JavaScript, PHP and Ruby as tables: what is a function, and what documents it.

Special names are those that CodeSearchNet drops as it drops Python's dunder methods.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

# "block": `/** */`. "slashes": lines of `//`, or `/* */`. "hash": lines of `#`, or `=begin`.
Form = Literal["block", "slashes", "hash"]


class FunctionGrammar(NamedTuple):
    """What the miner knows of a language.

    Attributes:
        functions: Types of the nodes that are functions with a name of their own.
        documentation: The form of what documents a function, directly in front of it.
        special: What the whole name of a method matches that is there for the language.
        needle: What stands in every file with a documented function.
        constructors: Types among `functions` that are constructors.
        values: Types of functions that are listed where `names` gives them a name.
        names: Node type to its fields for a name and for the value that bears it.
        fronts: Types of nodes that may stand around a function with its documentation in front
            of them, and the field that holds the function ("": the first named child).
        blank_lines: How many may stand between documentation and function.
        closing_words: Lines that are no more than a closing brace.
        no_code: How lines begin that are comments; a "*" alone could be Go's `*p = 1`.
    """

    functions: frozenset[str]
    documentation: Form
    special: re.Pattern[str]
    needle: bytes
    constructors: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    names: Mapping[str, tuple[str, str]] = {}
    fronts: Mapping[str, str] = {}
    blank_lines: int = 0
    closing_words: frozenset[str] = frozenset()
    no_code: tuple[str, ...] = ("//", "/*", "* ", "*/")


_JAVA_CONSTRUCTORS = frozenset({"constructor_declaration", "compact_constructor_declaration"})

GRAMMARS: Mapping[str, FunctionGrammar] = {
    "go": FunctionGrammar(
        functions=frozenset({"function_declaration", "method_declaration"}),
        documentation="slashes",
        special=re.compile("init"),
        needle=b"func",
    ),
    "java": FunctionGrammar(
        functions=_JAVA_CONSTRUCTORS | {"method_declaration"},
        documentation="block",
        special=re.compile("toString|hashCode|equals|finalize|clone"),
        needle=b"/**",
        constructors=_JAVA_CONSTRUCTORS,
    ),
    "javascript": FunctionGrammar(
        functions=frozenset(
            {"function_declaration", "generator_function_declaration", "method_definition"}
        ),
        documentation="block",
        special=re.compile("constructor|toString|toLocaleString|valueOf"),
        needle=b"/**",
        values=frozenset({"function_expression", "generator_function", "arrow_function"}),
        names={
            "variable_declarator": ("name", "value"),
            "assignment_expression": ("left", "right"),
            "pair": ("key", "value"),
            "field_definition": ("property", "value"),
        },
        fronts=dict.fromkeys(
            ("export_statement", "lexical_declaration", "variable_declaration"), ""
        )
        | {"expression_statement": ""},
        blank_lines=1,  # as the authors of Node's early packages write it
    ),
    "php": FunctionGrammar(
        functions=frozenset({"function_definition", "method_declaration"}),
        documentation="block",
        special=re.compile(r"__\w+"),
        needle=b"/**",
    ),
    "ruby": FunctionGrammar(
        functions=frozenset({"method", "singleton_method"}),
        documentation="hash",
        special=re.compile(
            r"initialize(?:_copy|_dup|_clone)?|to_s|to_text|inspect|display|dup|clone|hash|equal\?"
            r"|eql\?|between\?|method_missing|respond_to_missing\?|\W+"
        ),
        needle=b"def",
        fronts={"call": "arguments", "argument_list": ""},  # `private def x`
        closing_words=frozenset({"end"}),
        no_code=("#",),
    ),
}
