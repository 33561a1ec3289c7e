from __future__ import annotations

import pytest

from softnce_ext.cli.table import Column, format_table, metric_table, print_json


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


def test_json_never_holds_what_json_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "é"})
    assert capsys.readouterr().out == '{\n  "a": "é"\n}\n'
    with pytest.raises(ValueError):
        print_json({"a": float("nan")})
