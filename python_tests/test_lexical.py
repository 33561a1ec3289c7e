from __future__ import annotations

import math

import numpy as np
import pytest

from softnce_ext import lexical as lexical_module
from softnce_ext.bm25 import BM25
from softnce_ext.lexical import Lexical, blend

NAMES = ["read_lines", "writeJSON", "parseURL", "meanOfColumns"]
CODES = [
    "def read_lines(path):\n    with open(path) as file:\n        return file.read().splitlines()",
    "def writeJSON(path, value):\n    with open(path, 'w') as out:\n        json.dump(value, out)",
    "def parseURL(text):\n    scheme, rest = text.split('://')\n    return scheme, rest",
    "def meanOfColumns(table):\n    return [sum(column) / len(column) for column in zip(*table)]",
]
QUERIES = [
    "Read the lines of a file.",
    "Write a value as JSON into a file.",
    "Parse a URL into scheme and rest.",
    "The mean of each column of the table.",
]


@pytest.mark.parametrize("plus", [False, True])
def test_each_query_finds_its_function(plus: bool) -> None:
    lexical = Lexical(NAMES, CODES, plus=plus)
    scores = lexical.scores(QUERIES)
    assert len(lexical) == 4 and scores.dtype == np.float32
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert (scores >= 0).all()


def test_plain_is_bm25_over_the_words_of_name_and_code() -> None:
    # read lines, read file; sum: ids 0 1, 0 2; 3
    lexical = Lexical(["readLines", "sum"], ["read file", "sum"], plus=False)
    expected = BM25(variant="lucene").scores([[0], [2, 3]], [[0, 1, 0, 2], [3, 3]])
    np.testing.assert_array_equal(lexical.scores(["READ", "file_sum other"]), expected)


def test_plus_counts_names_eight_times_and_adds_grams() -> None:
    # Terms: 0 ab, 1 its gram ^ab$, 2 c (too short for a gram).
    lexical = Lexical(["ab", "c"], ["c", "ab c"], plus=True)
    documents = [[0, 1] * 8 + [2], [2] * 8 + [0, 1, 2]]
    expected = BM25(k1=4.0, b=0.95, variant="lucene").scores([[0, 1], [2]], documents)
    np.testing.assert_allclose(lexical.scores(["ab", "c d"]), expected, rtol=1e-6)


def test_plus_finds_inflections() -> None:
    assert not Lexical(["read"], ["pass"], plus=False).scores(["reading"]).any()
    assert Lexical(["read"], ["pass"], plus=True).scores(["reading"]).all()


@pytest.mark.parametrize("plus", [False, True])
def test_unknown_words_score_zero(plus: bool) -> None:
    lexical = Lexical(NAMES, CODES, plus=plus)
    scores = lexical.scores(["xyzzy qqqq", "", "  ?!", QUERIES[0], f"xyzzy {QUERIES[0]}"])
    assert not scores[:3].any()
    np.testing.assert_array_equal(scores[3], scores[4])
    np.testing.assert_array_equal(lexical.scores([QUERIES[0]])[0], scores[3])  # nothing was learned


@pytest.mark.parametrize("plus", [False, True])
def test_blocks_of_texts_change_nothing(plus: bool, monkeypatch) -> None:
    names, codes, queries = NAMES * 5, [*CODES * 4, "", "x", *CODES[2:]], [*QUERIES, "", "file"]
    expected = Lexical(names, codes, plus=plus).scores(queries)
    monkeypatch.setattr(lexical_module, "_TEXTS_AT_ONCE", 3)
    np.testing.assert_allclose(Lexical(names, codes, plus=plus).scores(queries), expected, 1e-6)


@pytest.mark.parametrize("plus", [False, True])
def test_saved_index_scores_the_same(plus: bool, tmp_path) -> None:
    lexical = Lexical(NAMES, CODES, plus=plus)
    lexical.save(tmp_path / "lexical")
    loaded = Lexical.load(tmp_path / "lexical")
    assert len(loaded) == 4 and loaded.plus is plus
    queries = [*QUERIES, "reading nothing known \ud800"]
    np.testing.assert_array_equal(loaded.scores(queries), lexical.scores(queries))
    assert {path.suffix for path in (tmp_path / "lexical").iterdir()} == {".npy", ".json"}


def test_no_functions_and_no_queries() -> None:
    for plus in (False, True):
        assert Lexical([], [], plus=plus).scores(["read"]).shape == (1, 0)
        assert Lexical(NAMES, CODES, plus=plus).scores([]).shape == (0, 4)


def test_bad_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="names must be as many as the 4 codes, got 1"):
        Lexical(["a"], CODES, plus=True)
    with pytest.raises(TypeError, match=r"codes\[1\] must be a str, got NoneType"):
        Lexical(["a", "b"], ["x", None], plus=True)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="queries must be a sequence of str, got one str"):
        Lexical(NAMES, CODES, plus=False).scores("read")


def test_blend_adds_the_share_of_the_row_maximum() -> None:
    dense = np.array([[0.5, 0.1], [0.2, 0.3], [0.0, -1.0]], np.float32)
    lexical = np.array([[0.0, 8.0], [4.0, 1.0], [0.0, 0.0]], np.float32)
    hybrid = blend(dense, lexical, 2.0)
    expected = [[0.5, 2.1], [2.2, 0.8], [0.0, -1.0]]
    np.testing.assert_allclose(hybrid, expected, rtol=1e-6)
    assert hybrid.dtype == np.float32
    np.testing.assert_array_equal(blend(dense, lexical, 0), dense)
    np.testing.assert_array_equal(lexical[:2].max(axis=1), [8, 4])  # inputs are left alone
    assert blend(np.zeros((2, 0)), np.zeros((2, 0)), 1).shape == (2, 0)


def test_bad_blends_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape \[N, M\], got \[2, 3\] and \[2, 2\]"):
        blend(np.zeros((2, 3)), np.zeros((2, 2)), 1.0)
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="weight must be finite and >= 0"):
            blend(np.zeros((2, 2)), np.zeros((2, 2)), weight)
