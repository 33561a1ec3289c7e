from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import SOURCE

from softnce_ext.data.pairs import Pair
from softnce_ext.evaluation.files import read_functions
from softnce_ext.evaluation.retrieval import CodeBase, RetrievalTask

BASE = CodeBase(["c0", "c1", "c2"], urls=["u0", "u1", "u2"])


def test_gold_codes_are_found_by_url() -> None:
    found = RetrievalTask.of_urls(["a", "b"], ["u2", "u0"], BASE, ["p", "q"])
    assert found.target.tolist() == [2, 0]
    assert (len(found.base), found.packages) == (3, ["p", "q"])
    with pytest.raises(ValueError, match="must be in the code base, got 'x' and 1 more"):
        RetrievalTask.of_urls(["a", "b", "c"], ["x", "u0", "y"], BASE)
    with pytest.raises(ValueError, match="must be in the code base, got 'x'$"):
        RetrievalTask.of_urls(["a"], ["x"], BASE)
    with pytest.raises(ValueError, match="urls must hold one url per code, got none"):
        RetrievalTask.of_urls(["a"], ["x"], CodeBase(["c0"]))


def test_a_pairs_own_function_stands_once_in_the_code_base() -> None:
    placed = Pair("ask", "def f(): pass", "f", "p", "a.py", 3)
    loose = Pair("plain", "def g(): pass", "g")
    others = [
        replace(placed, code="the same place, told otherwise", query=""),
        replace(placed, line=9),  # the same text elsewhere is another function
        replace(loose, query=""),
        replace(loose, query=""),  # the second copy is another function
        Pair("", "def h(): pass", "h", "p", "a.py", 0),
    ]
    found = RetrievalTask.of_pairs([placed, loose], others, ["u0", "u1", "u2", "u3", "u4"])
    assert found.base.codes == [placed.code, loose.code, placed.code, loose.code, others[4].code]
    assert found.base.urls == ["u0", "u2", "u1", "u3", "u4"]
    assert found.base.names == ["f", "g", "f", "g", "h"]
    assert found.target.tolist() == [0, 1]
    assert found.packages == ["p", ""]


def test_functions_of_one_file_without_lines_are_different_ones() -> None:
    pair = Pair("ask", "def f(): pass", "f", "p", "a.py")
    others = [Pair("", "def g(): pass", "g", "p", "a.py"), replace(pair, query="")]
    assert RetrievalTask.of_pairs([pair], others).base.names == ["f", "g"]


def test_pairs_alone_are_their_own_code_base() -> None:
    found = RetrievalTask.of_pairs([Pair("a", "x"), Pair("b", "x")])
    assert (found.base.codes, found.target.tolist(), found.base.urls) == (["x", "x"], [0, 1], ())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CodeBase([]), "codes must hold at least one code, got none"),
        (lambda: CodeBase(["a"], ["f", "g"]), "names must be as many as the 1 codes, got 2"),
        (lambda: CodeBase(["a"], urls=["f", "g"]), "urls must be as many as the 1 codes, got 2"),
        (lambda: RetrievalTask.of_pairs([]), "at least one pair, got none"),
        (lambda: RetrievalTask([], np.array([], int), BASE), "at least one query, got none"),
        (lambda: RetrievalTask(["a"], np.array([3]), BASE), r"in \[0, 3\), got 3 for query 0"),
        (lambda: RetrievalTask(["a", "b"], np.array([0, -1]), BASE), "got -1 for query 1"),
        (
            lambda: RetrievalTask(["a"], np.array([0, 1]), BASE),
            r"target must have shape \[1\], got",
        ),
        (
            lambda: RetrievalTask(["a"], np.array([0]), BASE, ["p", "q"]),
            "packages must have 1 entries",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_targets_must_be_integers() -> None:
    with pytest.raises(TypeError, match="target must hold integers, got float64"):
        RetrievalTask(["a"], np.array([0.0]), BASE)


def test_the_words_are_indexed_once() -> None:
    base = CodeBase(["def read(): pass", "def write(): pass"], ["read", "write"])
    assert base.lexical(plus=True) is base.lexical(plus=True)
    assert base.lexical(plus=False)[0].scores(["read"]).argmax() == 0


def test_functions_of_a_folder_are_called_by_path_and_line(tmp_path: Path) -> None:
    (tmp_path / "mod.py").write_text(SOURCE)
    functions, urls = read_functions(tmp_path, progress=False)
    assert [each.name for each in functions] == ["read_lines", "send_mail", "resize_image"]
    assert urls == ["mod.py#L2", "mod.py#L9", "mod.py#L14"]


def test_rows_without_documentation_are_functions_too(tmp_path: Path) -> None:
    file = tmp_path / "code.jsonl"
    file.write_text(
        '{"code": "def f():\\n    return \'\'\'text - more\'\'\'", "url": "u0"}\n'
        '{"func_name": "A.g", "code": "func g() {}", "language": "go", "docstring": "", "id": 7}\n'
        '{"code": "def h(): pass", "path": "a.py", "line": 4, "query": "say h"}\n'
    )
    functions, urls = read_functions(file)
    assert urls == ["u0", "7", "a.py#L4"]
    assert [each.name for each in functions] == ["f", "g", "h"]
    assert functions[0].code.endswith("text - more'''")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"code": "x"}\nnot json\n', "code.jsonl:2: not JSON"),
        ('{"url": "u"}\n', "code.jsonl:1: must have 'code'"),
        ("", "there is no function in this code base"),
    ],
)
def test_a_bad_code_base_is_told_with_its_line(tmp_path: Path, text, message) -> None:
    (tmp_path / "code.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_functions(tmp_path / "code.jsonl")


def test_a_missing_code_base_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        read_functions(tmp_path / "nowhere")
