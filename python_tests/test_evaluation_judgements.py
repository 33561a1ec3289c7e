from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from softnce_ext.evaluation.judgements import (
    Judgement,
    Judgements,
    judgements_of,
    read_judgements,
)

URLS = ["u/a", "u/b", "u/c"]


def test_codesearchnets_csv_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "annotations.csv"
    file.write_text(
        "Language,Query,GitHubUrl,Relevance,Notes\n"
        'Python,"sort  a, list",u/a,3,"several ""words"" and\na second line"\n'
        "Go,sort a list,g/a,1,\n"
    )
    assert read_judgements(file) == [
        Judgement("sort a, list", "u/a", 3.0, "Python"),
        Judgement("sort a list", "g/a", 1.0, "Go"),
    ]


def test_json_lines_hold_the_same(tmp_path: Path) -> None:
    file = tmp_path / "judged.jsonl"
    rows = [{"query": "q", "url": "u/a", "grade": 2}, {"query": "q", "url": "u/b", "relevance": 0}]
    file.write_text("\n\n".join(map(json.dumps, rows)))
    assert read_judgements(file) == [Judgement("q", "u/a", 2.0), Judgement("q", "u/b", 0.0)]


def test_grades_of_one_code_are_averaged_and_queries_keep_their_order() -> None:
    rows = [
        Judgement("second", "u/c", 1),
        Judgement("first", "u/b", 3),
        Judgement("second", "u/a", 3),
        Judgement("second", "u/c", 2),
    ]
    found = judgements_of(rows, URLS)
    assert found.queries == ["second", "first"]
    judged = zip(found.query.tolist(), found.code.tolist(), found.grade.tolist(), strict=True)
    assert list(judged) == [(0, 2, 1.5), (0, 0, 3.0), (1, 1, 3.0)]
    assert found.left_out == 0


def test_judgements_of_other_languages_are_for_other_code_bases() -> None:
    rows = [
        Judgement("q", "u/a", 1, "Python"),
        Judgement("q", "g/a", 3, "Go"),
        Judgement("only go", "g/b", 3, "go"),
    ]
    found = judgements_of(rows, URLS)
    assert (found.queries, found.code.tolist(), found.left_out) == (["q"], [0], 0)


def test_unknown_urls_are_refused_or_left_out_and_counted() -> None:
    rows = [Judgement("q", "u/a", 1), Judgement("q", "x", 2), Judgement("p", "y", 2)]
    with pytest.raises(ValueError, match="must be in the code base, got x and 1 more that are not"):
        judgements_of(rows, URLS)
    found = judgements_of(rows, URLS, unknown="skip")
    assert (found.queries, found.grade.tolist(), found.left_out) == (["q"], [1.0], 2)
    with pytest.raises(ValueError, match="the code base holds no url that is judged"):
        judgements_of(rows[1:], URLS, unknown="skip")


@pytest.mark.parametrize(
    ("rows", "urls", "options", "message"),
    [
        ([Judgement("q", "u/a", 4)], URLS, {}, "grade must be from 0 to 3, got 4 for u/a"),
        ([Judgement("q", "u/a", -1)], URLS, {}, "grade must be from 0 to 3, got -1 for u/a"),
        ([Judgement("q", "u/a", 4)], URLS, {"max_grade": 2}, "grade must be from 0 to 2, got 4"),
        ([Judgement("q", "u/a", 1)], ["u/a", "u/a"], {}, "urls must be distinct, got 'u/a' twice"),
        ([Judgement("q", "u/a", 1)], [], {}, "urls must hold one url per code, got none"),
        ([Judgement("q", "u/a", 1)], URLS, {"unknown": "ask"}, 'must be "error" or "skip"'),
        ([], URLS, {}, "holds no url that is judged"),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(rows, urls, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        judgements_of(rows, urls, **options)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "query,url,grade\n", "there is no judgement in this file"),
        ("a.csv", "query,url\nq,u\n", r"a.csv:2: must have 'relevance', got query, url"),
        ("a.csv", "query,url,grade\nq,u,good\n", "a.csv:2: the grade must be a number, got 'good'"),
        ("a.csv", "query,url,grade\n ,u,1\n", "a.csv:2: query and url must not be empty"),
        ("a.csv", "query,url,grade\nq,u,nan\n", "the grade must be a number, got 'nan'"),
        ("a.jsonl", '{"query": "q"\n', "a.jsonl:1: not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: must be a JSON object, got list"),
        ("a.jsonl", '{"query": "q", "grade": 1}', "a.jsonl:1: must have 'githuburl'"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, name, text, message) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_judgements(tmp_path / name)


def test_a_missing_file_is_told() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.csv: there is no such file"):
        read_judgements("nowhere.csv")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"query": np.array([1, 0])}, "query must be ascending"),
        ({"query": np.array([0, 2])}, r"query must be in \[0, 2\), got 0 to 2"),
        ({"query": np.array([0, 0]), "code": np.array([1, 1])}, "distinct, got one judged twice"),
        ({"code": np.array([0, -1])}, "code must be >= 0, got -1"),
        ({"code": np.array([0])}, r"code must have one entry per judgement, got \[1\] for 2"),
        ({"grade": np.array([1.0, np.nan])}, "grade must be finite and >= 0"),
        ({"grade": np.array([1.0, -1.0])}, "grade must be finite and >= 0"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changed, message) -> None:
    good = {"query": np.array([0, 1]), "code": np.array([0, 0]), "grade": np.array([1.0, 2.0])}
    Judgements(["a", "b"], **good)
    with pytest.raises(ValueError, match=message):
        Judgements(["a", "b"], **{**good, **changed})


def test_indices_must_be_integers() -> None:
    with pytest.raises(TypeError, match="code must hold integers, got float64"):
        Judgements(["a"], np.array([0]), np.array([0.0]), np.array([1.0]))
