"""Row numbers as the data set's column `label`, the one that reaches a loss as numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

# Of these the trainer takes the first it finds as labels, and reads the others as texts.
_LABELS = ("label", "labels", "score", "scores")
_ROWS_AT_ONCE = 10_000


def add_row_numbers(pairs: Dataset, *, start: int = 0) -> Dataset:
    """Return a data set with the column `label` that a teacher's table is read by.

    Without columns of negatives it holds int row numbers; with k of them lists of 1 + k, the row
    itself and the rows whose codes the negatives are.

    Args:
        pairs: Columns of texts: queries, their codes, and codes of other rows as negatives.
        start: The number of the first row: evaluation pairs are numbered on from training's, where
            one table is made of both.

    Raises:
        TypeError: `pairs` is no Dataset, or `start` no int.
        ValueError: `start` is negative, a column holds no texts, lacks one or is a label, there are
            fewer than two columns, or a negative is no row's code.
    """
    import datasets  # which the losses do without

    if not isinstance(pairs, datasets.Dataset):
        raise TypeError(
            "pairs must be a Dataset, whose rows can be counted (of a DatasetDict number each with "
            f"start= where the one before ends), got {type(pairs).__name__}"
        )
    if isinstance(start, bool) or not isinstance(start, int):
        raise TypeError(f"start must be an int, got {type(start).__name__}")
    if start < 0:
        raise ValueError(f"start must be >= 0, got {start}")
    names = pairs.column_names
    taken = [name for name in names if name in _LABELS]
    if taken:
        raise ValueError(
            f"pairs must not have a column {taken[0]!r}, which the trainer would take for the row "
            f"numbers or read as a text: remove or rename it, got columns {names}"
        )
    for name in names:
        kind = getattr(pairs.features[name], "dtype", None)
        if kind not in ("string", "large_string"):
            raise ValueError(
                f"column {name!r} must hold texts, since the trainer reads every column but label "
                f"as such: remove it or turn it into texts, got {kind or pairs.features[name]}"
            )
    if len(names) < 2:
        raise ValueError(f"pairs must have columns of queries and of codes, got {names}")
    for texts in pairs.with_format("arrow").iter(_ROWS_AT_ONCE):
        for name in names:
            if texts[name].null_count:
                raise ValueError(
                    f"column {name!r} must hold a text in each row, got None: remove such rows "
                    "before they are numbered"
                )
    numbers = range(start, start + len(pairs))
    if len(names) == 2:
        return pairs.add_column("label", list(numbers))
    row_of = dict(zip(reversed(list(pairs[names[1]])), reversed(numbers), strict=True))
    columns = [list(numbers)]
    for name in names[2:]:
        columns.append([])
        for row, text in enumerate(pairs[name]):
            if text not in row_of:
                raise ValueError(
                    f"a negative must be some row's code, whose vector the table has; row {row} of "
                    f"column {name!r} is none"
                )
            columns[-1].append(row_of[text])
    return pairs.add_column("label", [list(row) for row in zip(*columns, strict=True)])
