"""Results on stdout: an aligned table of plain text, or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A column of a table: its heading and, for numbers, how they are written (".3f")."""

    heading: str
    number_format: str = ""


# The columns of `evaluation.figures`' rows, before and after their recalls.
METRICS = {
    "name": Column("system"),
    "mrr": Column("MRR", ".3f"),
    "interval": Column("95 % interval"),
    "package_mrr": Column("per package", ".3f"),
}
SECONDS = {"seconds": Column("seconds", ".1f")}
# Below some ten clusters a bootstrap over them is known to promise too much.
_FEW_PACKAGES = 10


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


def counted(counts: Mapping[str, int]) -> str:
    """Return "1,234 exact duplicates, 5 no code"."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def rough(packages: int) -> list[str]:
    """Return the note on intervals over so many packages, if these are few."""
    few = 1 < packages < _FEW_PACKAGES
    return [f"Intervals over {packages} packages are rough."] if few else []


def metric_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return `evaluation.figures.result_row`s as a table."""
    rows = [{"interval": _interval(result, "mrr"), **result} for result in results]
    return format_table(rows, {**METRICS, **_recalls(results), **SECONDS})


def graded_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return `evaluation.figures.graded_row`s as a table."""
    columns = {"name": METRICS["name"]}
    names = [key for key in results[0] if re.fullmatch(r"ndcg(_within)?@\d+", key)]
    for name in sorted(names, key=lambda name: int(name.split("@")[1])):
        heading = name.replace("ndcg_within", "within").replace("ndcg", "nDCG")
        columns[name] = Column(heading, ".3f")
        if not name.startswith("ndcg_within"):
            columns[f"{name} interval"] = METRICS["interval"]
    columns |= {"pairwise": Column("pairwise", ".3f"), "mrr": METRICS["mrr"]}
    rows = [
        {**{f"{name} interval": _interval(result, name) for name in names}, **result}
        for result in results
    ]
    return format_table(rows, {**columns, **_recalls(results), **SECONDS})


def _interval(result: Mapping[str, Any], name: str) -> str | None:
    if f"{name}_low" not in result:  # no query has this figure
        return None
    return f"{result[f'{name}_low']:.3f} to {result[f'{name}_high']:.3f}"


def _recalls(results: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    names = [key for key in results[0] if re.fullmatch(r"recall@\d+", key)]
    return {name: Column(name.replace("recall", "R"), ".3f") for name in names}


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
