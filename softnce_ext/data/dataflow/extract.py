"""The data flow of one function: its tokens, and which of them get their values from which."""

from __future__ import annotations

from typing import NamedTuple

from .comments import strip_comments
from .languages import language_named
from .rules import RuleError, TooDeepError, find_edges
from .tree import Compat, check_compat, read_tree


class DataFlow(NamedTuple):
    """Tokens of a function and the nodes of its data flow.

    Attributes:
        tokens: Texts of the tokens; a token's ordinal is its place here.
        nodes: Each node's token ordinal, ascending; a token may have several nodes.
        sources: Each node's source ordinals, where its value comes from.
        fault: Why the data flow is empty: "rules" (a form the rules fail on), "deep" (nested too
            deep); "" where nothing failed.
    """

    tokens: list[str]
    nodes: list[int]
    sources: list[list[int]]
    fault: str = ""


def extract(code: str, language: str, *, compat: Compat = "stable") -> DataFlow:
    """Return tokens and data flow of a function; no code makes it fail.

    Nodes that neither have a source nor are one are left out. Source: GraphCodeBERT (Guo et al.
    2021), section 3.

    Args:
        code: The function's text, comments included.
        language: "python", "java", "javascript", "php", "ruby" or "go".
        compat: "stable" reads string literals as one token whatever the grammar's version, drops
            tokens without text and cuts text by bytes; "reference" takes the grammar's leaves as
            the published code does, and its wrong text on lines that are not ASCII.

    Raises:
        ValueError: `language` or `compat` is unknown.
        ImportError: The grammars are not installed.
    """
    table = language_named(language)
    check_compat(compat)
    # A lone surrogate, which UTF-8 cannot hold, becomes "?".
    text = code if code.isascii() else code.encode(errors="replace").decode()
    text = table.before + strip_comments(text, table.comments) + table.after
    tree = read_tree(text, table, compat)
    try:
        edges = find_edges(tree)
    except RuleError:
        return DataFlow(tree.tokens, [], [], "rules")
    except (TooDeepError, RecursionError):
        return DataFlow(tree.tokens, [], [], "deep")
    linked = {ordinal for edge in edges for ordinal in edge.sources}
    linked |= {edge.ordinal for edge in edges if edge.sources}
    kept = [edge for edge in edges if edge.ordinal in linked]
    return DataFlow(
        tree.tokens, [edge.ordinal for edge in kept], [list(edge.sources) for edge in kept]
    )
