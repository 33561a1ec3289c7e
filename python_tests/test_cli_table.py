from __future__ import annotations

import re

import pytest

from softnce_ext.cli.table import (
    Column,
    format_table,
    graded_table,
    metric_table,
    print_json,
)


def test_numbers_stand_to_the_right_and_text_to_the_left() -> None:
    rows = [{"a": "x", "b": 1.0, "c": "u"}, {"a": "longer", "b": 10.25}, {"a": "", "b": None}]
    columns = {"a": Column("name"), "b": Column("figure", ".2f"), "c": Column("")}
    assert format_table(rows, columns).split("\n") == [
        "name    figure",
        "------  ------  -",
        "x         1.00  u",
        "longer   10.25  -",
        "             -  -",
    ]


def test_a_metric_table_has_a_line_per_system() -> None:
    row = {
        "name": "dense",
        "mrr": 0.41234,
        "mrr_low": 0.4,
        "mrr_high": 0.425,
        "package_mrr": 0.5,
        "recall@1": 0.3,
        "recall@5": 0.6,
        "recall@10": 0.7,
        "seconds": 12.34,
    }
    assert metric_table([row]).split("\n")[2].split() == (
        ["dense", "0.412", "0.400", "to", "0.425", "0.500", "0.300", "0.600", "0.700", "12.3"]
    )


def test_a_graded_table_has_what_was_asked_for() -> None:
    row = {
        "name": "dense",
        "seconds": 1.0,
        "ndcg@10": 0.5,
        "ndcg@10_low": 0.4,
        "ndcg@10_high": 0.6,
        "ndcg_within@10": 0.7,
        "ndcg_within@10_low": 0.6,
        "ndcg_within@10_high": 0.8,
        "mrr": 0.9,
        "recall@3": 0.25,
        "pairwise_queries": 0,
    }
    lines = graded_table([row]).split("\n")
    assert re.split(r"\s{2,}", lines[0]) == (
        ["system", "nDCG@10", "95 % interval", "within@10", "pairwise", "MRR", "R@3", "seconds"]
    )
    assert re.split(r"\s{2,}", lines[2]) == (
        ["dense", "0.500", "0.400 to 0.600", "0.700", "-", "0.900", "0.250", "1.0"]
    )


def test_json_never_holds_what_json_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "é"})
    assert capsys.readouterr().out == '{\n  "a": "é"\n}\n'
    with pytest.raises(ValueError):
        print_json({"a": float("nan")})
