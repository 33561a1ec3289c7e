"""Data flow of functions: the rules language by language, and that no code makes them fail."""

from __future__ import annotations

import sys
import time

import pytest
from dataflow_cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ext.data.dataflow.extract import DataFlow, extract
from softnce_ext.data.dataflow.languages import LANGUAGES


def shown(flow: DataFlow) -> str:
    def name(ordinal: int) -> str:
        return f"{flow.tokens[ordinal]}@{ordinal}"

    nodes = []
    for node, sources in zip(flow.nodes, flow.sources, strict=True):
        nodes.append(name(node) + ("<-" + ",".join(map(name, sources)) if sources else ""))
    return " | ".join(nodes)


@pytest.mark.parametrize(
    ("language", "code", "nodes"),
    [(language, code, nodes) for language, _, code, nodes in CASES],
    ids=[f"{language}: {what}" for language, what, _, _ in CASES],
)
def test_nodes_and_their_sources_are_those_found_by_hand(language, code, nodes):
    assert shown(extract(code, language)) == nodes


def test_every_rule_of_every_language_is_met_by_a_case(monkeypatch):
    met = set()

    class Watched(dict):
        def get(self, kind):
            met.add((self.language, kind))
            return super().get(kind)

    for name, table in LANGUAGES.items():
        rules = Watched(table.rules)
        rules.language = name
        monkeypatch.setitem(LANGUAGES, name, table._replace(rules=rules))
    for language, _, code, _ in CASES:
        extract(code, language)
    there = {(name, kind) for name, table in LANGUAGES.items() for kind in table.rules}
    assert there - met == set()


@pytest.mark.parametrize(
    ("language", "code", "stable", "reference"),
    [
        ("java", 's = "a b";', ["s", "=", '"a b"', ";"], ["s", "=", '"', "a b", '"', ";"]),
        ("go", 'a = "b"', ["a", "=", '"b"'], ["a", "=", '"', "b", '"', ""]),
        ("go", "a = `b`", ["a", "=", "`b`"], ["a", "=", "`", "b", "`", ""]),
        ("javascript", "`a b`", ["`a b`"], ["`", "a b", "`"]),
        ("javascript", "`${a}`", ["`", "${", "a", "}", "`"], ["`", "${", "a", "}", "`"]),
        ("php", '"a $b";', ["<?php", '"a $b"', ";", "?>"], None),
        ("python", "s = 'é'; t", ["s", "=", "'é'", ";", "t"], ["s", "=", "'é';", " ", ""]),
    ],
)
def test_strings_are_one_token_and_text_is_cut_by_bytes_unless_as_published(
    language, code, stable, reference
):
    assert extract(code, language).tokens == stable
    if reference is not None:
        assert extract(code, language, compat="reference").tokens == reference


def test_a_token_over_several_lines_loses_its_line_ends():
    assert extract('f("""a\n  b""")', "python").tokens == ["f", "(", '"""a  b"""', ")"]


def test_php_is_parsed_as_code():
    assert extract("f();", "php").tokens == ["<?php", "f", "(", ")", ";", "?>"]


def test_the_published_analysis_loses_itself_in_a_string_that_stands_against_three_parts():
    code = 'x = y\na.b = "c"'
    assert extract(code, "python", compat="reference").fault == "rules"
    assert extract(code, "python").fault == ""


def nested(language: str, depth: int) -> str:
    opening, closing = {
        "python": ("(", ")"),
        "java": ("if (a) {", "}"),
        "javascript": ("while (a) {", "}"),
        "php": ("while ($a) {", "}"),
        "ruby": ("x = [", "]"),
        "go": ("if a {", "}"),
    }[language]
    return opening * depth + " b " + closing * depth


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("depth", [30, 400, 3000])
def test_deeply_nested_code_ends_in_time(language, depth):
    flow = extract(nested(language, depth), language)
    assert "b" in flow.tokens
    assert flow.fault in ("", "deep")


@pytest.mark.parametrize(
    "code",
    [
        "\n".join(f"if x{i}:\n    x = y{i}\nv{i} = x" for i in range(2000)),
        ", ".join(f"a{i}" for i in range(2000))
        + f" = f({', '.join(f'b{i}' for i in range(2000))})",
    ],
    ids=["branches", "assignment"],
)
def test_code_of_very_many_edges_ends_in_time(code):
    begin = time.process_time()
    flow = extract(code, "python")
    assert time.process_time() - begin < 15  # the branches took 22 s
    assert flow.fault in ("", "deep")


def test_what_is_too_deep_does_not_depend_on_the_callers_stack():
    code = nested("java", 190)
    shallow = extract(code, "java")

    def deeper(levels: int) -> DataFlow:
        return deeper(levels - 1) if levels else extract(code, "java")

    assert shallow.fault == ""
    assert deeper(200) == shallow


def test_parentheses_nest_for_free():
    flow = extract("a = " + "(" * 5000 + "b" + ")" * 5000, "python")
    assert shown(flow) == "a@0<-b@5002 | b@5002"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(LANGUAGES)),
    st.sampled_from(["stable", "reference"]),
    st.text(max_size=200)
    | st.lists(
        st.sampled_from([*"a={}():,+\"'#`\n\x00é", "if", "else", "for", "//", "/*", "*/", "$x"])
    ).map(" ".join),
)
def test_no_text_makes_it_fail(language, compat, code):
    flow = extract(code, language, compat=compat)
    assert flow.nodes == sorted(flow.nodes)
    used = {ordinal for sources in flow.sources for ordinal in sources} | set(flow.nodes)
    assert all(0 <= ordinal < len(flow.tokens) for ordinal in used)
    assert used <= set(flow.nodes)  # a source is a node too
    if compat == "stable":
        assert all(flow.tokens)


@pytest.mark.parametrize("code", ["", "\n", "\ud800", "def f(:", "\x00", "a = 'b"])
def test_code_that_is_none_has_tokens_and_no_fault(code):
    for language in LANGUAGES:
        assert extract(code, language).fault == ""


def test_language_and_compat_are_refused_by_name():
    with pytest.raises(ValueError, match="language must be one of python, java, .*got 'c'"):
        extract("", "c")
    with pytest.raises(ValueError, match="compat must be one of stable, reference, got 'old'"):
        extract("", "go", compat="old")


def test_a_missing_grammar_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tree_sitter_go", None)
    with pytest.raises(ImportError, match=r"tree_sitter_go is missing: pip install 'softnce-ext\["):
        extract("", "go")
