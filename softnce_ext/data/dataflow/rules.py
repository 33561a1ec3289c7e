"""The data-flow rules: one engine for all languages, told by their tables what to do where.

A state maps a variable's name to the tokens its value may come from. Visiting a node adds edges
and gives the state after it. Rules: GraphCodeBERT (Guo et al. 2021), whose published analysis
this follows edge by edge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .languages import (
    Assignment,
    Branch,
    Counted,
    Definition,
    Each,
    Increment,
    Part,
    Style,
    Twice,
)
from .tree import Node, Tree

# Nested loops double the work at each level, and each branch merges all that has a value; beyond
# this (a second or two) the code is generated.
MAX_STEPS = 1_000_000
# Rules inside rules. Fixed, so that what is found does not depend on how deep the caller's stack
# is; up to three Python frames a level leave room below the interpreter's 1000.
MAX_DEPTH = 200

State = dict[str, tuple[int, ...]]


class Edge(NamedTuple):
    """A token that gets a value: from which tokens, and whether it is computed or passed on."""

    ordinal: int
    computed: bool
    sources: tuple[int, ...]


class RuleError(Exception):
    """The rules do not fit this code; the published analysis fails on it too."""


class TooDeepError(Exception):
    """The code is nested too deep to be followed."""


def find_edges(tree: Tree) -> list[Edge]:
    """Return the edges of a tree, sorted by token; those of one token in the order found.

    Raises:
        RuleError: The code has a form that the rules fail on.
        TooDeepError: It is nested beyond `MAX_DEPTH`, or its loops beyond `MAX_STEPS`.
    """
    engine = _Engine(tree.tokens)
    engine.visit(tree.root, {})
    return sorted(engine.edges, key=lambda edge: edge.ordinal)


class _Engine:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.edges: list[Edge] = []
        self.steps = 0
        self.depth = 0

    def visit(self, top: Node, state: State) -> State:
        """Visit a subtree; nodes without a rule are taken apart here, so they nest for free."""
        todo = [top]
        while todo:
            node = todo.pop()
            self.steps += 1
            if node.ordinal >= 0:
                state = self.leaf(node, state)
            elif node.is_lost:
                raise RuleError("a part of a string stands alone in an assignment")
            elif node.rule is None:
                todo.extend(reversed(node.visited))
            else:
                if self.depth >= MAX_DEPTH or self.steps > MAX_STEPS:
                    raise TooDeepError
                self.depth += 1
                state = _METHODS[type(node.rule)](self, node.rule, node, state)
                self.depth -= 1
        return state

    def leaf(self, node: Node, state: State) -> State:
        if node.is_variable:
            text = self.tokens[node.ordinal]
            known = state.get(text)
            self.edges.append(Edge(node.ordinal, False, known or ()))
            if known is None and node.kind == "identifier":
                state[text] = (node.ordinal,)
        return state

    def define(self, rule: Definition, node: Node, state: State) -> State:
        names, value = self.variables(self.needed(node, rule.name)), node.part(rule.value)
        if value is None:
            self.edges.extend(Edge(name, False, ()) for name in names)
        else:
            state = self.visit(value, state)
            values = self.variables(value)
            self.edges.extend(Edge(name, False, (each,)) for name in names for each in values)
        for name in names:
            state[self.tokens[name]] = (name,)
        return state

    def assign(self, rule: Assignment, node: Node, state: State) -> State:
        right = node.part(rule.right)
        if right is None:  # a bare annotation
            return state
        return self.move(rule.style, self.needed(node, rule.left), right, state)

    def increment(self, rule: Increment, node: Node, state: State) -> State:
        for ordinal in self.variables(node):
            for source in self.variables(node):
                self.edges.append(Edge(ordinal, True, (source,)))
            state[self.tokens[ordinal]] = (ordinal,)
        return state

    def move(self, style: Style, left: Node, right: Node, state: State) -> State:
        pairs = [(left, right)]
        if style == "list":
            lefts = [child for child in left.children if child.kind != ","]
            rights = [child for child in right.children if child.kind != ","]
            if lefts and len(lefts) == len(rights):
                pairs = list(zip(lefts, rights, strict=True))
        for _, value in pairs:
            state = self.visit(value, state)
        for name, value in pairs:
            sources = self.variables(value)
            for ordinal in self.variables(name):
                self.steps += len(sources)
                if style == "pair":
                    self.edges.extend(Edge(ordinal, True, (source,)) for source in sources)
                else:
                    self.edges.append(Edge(ordinal, True, tuple(sources)))
                state[self.tokens[ordinal]] = (ordinal,)
        return state

    def branch(self, rule: Branch, node: Node, state: State) -> State:
        through = dict(state)
        ends: list[State] = []
        is_apart = False
        has_else = "else" in node.kind
        for child in node.children:
            has_else = has_else or "else" in child.kind
            is_apart = child.kind in rule.apart or (is_apart and rule.rest)
            if is_apart:
                ends.append(self.visit(child, dict(state)))
            else:
                through = self.visit(child, through)
        ends.append(through)
        if rule.always_merge or not has_else:
            ends.append(state)
        self.steps += sum(len(ordinals) for end in ends for ordinals in end.values())
        merged: dict[str, set[int]] = {}
        for end in ends:
            for name, ordinals in end.items():
                merged.setdefault(name, set()).update(ordinals)
        return {name: tuple(sorted(ordinals)) for name, ordinals in merged.items()}

    def each(self, rule: Each, node: Node, state: State) -> State:
        start = len(self.edges)
        name, value = self.needed(node, rule.name), self.needed(node, rule.value)
        body = node.part(rule.body)
        for _ in range(2):
            state = self.move(rule.style, name, value, state)
            if body is not None:
                state = self.visit(body, state)
        self.merge(start)
        return state

    def repeat(self, rule: Twice | Counted, node: Node, state: State) -> State:
        start = len(self.edges)
        again = node.children if isinstance(rule, Twice) else self.counted_again(rule, node)
        for child in [*node.children, *again]:
            state = self.visit(child, state)
        self.merge(start)
        return state

    def counted_again(self, rule: Counted, node: Node) -> list[Node]:
        """Return what of a counted loop runs again."""
        for place, child in enumerate(node.children):
            if child.kind == rule.declaration:
                update = child.part(rule.update) if rule.update else None
                return [*([update] if update else []), *node.children[place + 1 :]]
        return []

    def merge(self, start: int) -> None:
        """Merge what a loop added: one edge for every token and way of getting a value."""
        merged: dict[tuple[int, bool], set[int]] = {}
        for ordinal, computed, sources in self.edges[start:]:
            merged.setdefault((ordinal, computed), set()).update(sources)
        self.edges[start:] = [
            Edge(ordinal, computed, tuple(sorted(sources)))
            for (ordinal, computed), sources in merged.items()
        ]

    def needed(self, node: Node, part: Part) -> Node:
        found = node.part(part)
        if found is None:
            raise RuleError(f"{node.kind} has no {part}")
        return found

    def variables(self, node: Node) -> list[int]:
        """Return the variables of a subtree, left to right."""
        if node.variables is None:
            found: list[int] = []
            todo = [node]
            while todo:
                each = todo.pop()
                self.steps += 1
                if each.ordinal >= 0:
                    if each.is_variable:
                        found.append(each.ordinal)
                elif each.is_lost:
                    raise RuleError("a part of a string stands alone in an assignment")
                else:
                    todo.extend(each.children)
            node.variables = sorted(found)
        return node.variables


_METHODS: dict[type[Any], Callable[[_Engine, Any, Node, State], State]] = {
    Definition: _Engine.define,
    Assignment: _Engine.assign,
    Increment: _Engine.increment,
    Branch: _Engine.branch,
    Each: _Engine.each,
    Twice: _Engine.repeat,
    Counted: _Engine.repeat,
}
