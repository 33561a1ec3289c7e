"""Results on stdout: an aligned table of plain text, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A column of a table: its heading and, for numbers, how they are written (".3f")."""

    heading: str
    number_format: str = ""


# The columns of `evaluation.evaluate.result_row`s.
METRICS = {
    "name": Column("system"),
    "mrr": Column("MRR", ".3f"),
    "interval": Column("95 % interval"),
    "package_mrr": Column("per package", ".3f"),
    "recall@1": Column("R@1", ".3f"),
    "recall@5": Column("R@5", ".3f"),
    "recall@10": Column("R@10", ".3f"),
    "seconds": Column("seconds", ".1f"),
}


def format_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column]) -> str:
    """Return rows as an aligned table, numbers to the right, text to the left.

    Args:
        rows: One mapping per line. A missing value, or None, is written "-".
        columns: Key of a row -> its column, in order.
    """
    cells = [[_cell(row.get(key), column) for key, column in columns.items()] for row in rows]
    headings = [column.heading for column in columns.values()]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    lines = [headings, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.number_format else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns.values(), strict=True)
        ).rstrip()
        for line in lines
    )


def metric_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return `evaluation.evaluate.result_row`s as a table."""
    rows = [
        {"interval": f"{result['mrr_low']:.3f} to {result['mrr_high']:.3f}", **result}
        for result in results
    ]
    return format_table(rows, METRICS)


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout.

    Raises:
        ValueError: A number is NaN or infinite, which JSON does not know.
    """
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def _cell(value: Any, column: Column) -> str:
    if value is None:
        return "-"
    return format(value, column.number_format) if column.number_format else str(value)
