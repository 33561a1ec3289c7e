"""Beside a column's token ids: its row numbers, for tables, and its texts, for other tokenizers.

A feature of a column is what the batch holds under ``<column>_<feature>``; the trainer hands it to
the loss, and the loss to the estimator. `softnce_ext.sentence_transformers.SoftInfoNCELoss` keeps
both features from the model it trains. Row numbers need no collator of ours: in the data set's
column `label` they reach the loss as its labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ROW = "row"  # int64 [N]: the row numbers in the data set, and in a table made of it
TEXT = "text"  # list of N texts


def add_rows(
    batch: dict[str, Any], rows: Sequence[int], columns: Iterable[str] = ("query", "code")
) -> dict[str, Any]:
    """Add the row numbers of a batch to columns of it, in place, and return it.

    Args:
        batch: A collator's batch.
        rows: Row number of each of the N rows.
        columns: Columns whose texts are those of these rows.
    """
    import torch

    numbers = torch.tensor(rows, dtype=torch.int64)
    for column in columns:
        batch[f"{column}_{ROW}"] = numbers
    return batch


def model_features(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return a column's features without those that are for estimators alone, its mask a copy.

    Pooling of sentence-transformers 5.4 to 5.6 takes prompts out of the mask itself, which would
    reach a second pass, or another model.
    """
    found = {name: value for name, value in features.items() if name not in (ROW, TEXT)}
    mask = found.get("attention_mask")
    return found if mask is None else {**found, "attention_mask": mask.clone()}


def add_labels(
    columns: Sequence[dict[str, Any]], labels: Tensor | None
) -> Sequence[dict[str, Any]]:
    """Return a batch's columns with the row numbers that came as the data set's column `label`.

    Args:
        columns: Features of the queries, of their codes and of further codes.
        labels: int [N], the number of each row, or [N, 1 + k], that and those of the rows the k
            further codes are of. Anything else, and labels beside row numbers that are there
            already, is left alone (`check_labels` refuses it where it is needed).
    """
    if not hasattr(labels, "is_floating_point"):  # None, or no tensor
        return columns
    assert labels is not None
    if labels.is_floating_point() or any(ROW in column for column in columns):
        return columns
    numbers = labels[:, None] if labels.dim() == 1 else labels
    if numbers.shape[1:] == (1,):
        given = [numbers[:, 0]] * 2
    elif numbers.shape[1:] == (len(columns) - 1,):
        given = [numbers[:, 0], *numbers.unbind(1)]
    else:
        return columns
    named = [{**column, ROW: each} for column, each in zip(columns, given, strict=False)]
    return [*named, *columns[len(named) :]]


def are_classes(labels: Any) -> bool:
    """Tell whether labels are of right and wrong pairs, as no rows are numbered: 0 and 1, or 0."""
    if not hasattr(labels, "tolist") or labels.dim() != 1 or len(labels) < 3:
        return False
    return 0 in (found := set(labels.tolist())) and found <= {0, 1}


def check_labels(columns: Sequence[Mapping[str, Any]], labels: Tensor | None, sides: int) -> None:
    """Refuse labels that are no row numbers, where tables are read by them.

    Args:
        columns: Features of the queries, of their codes and of further codes.
        labels: What came as the data set's column `label`.
        sides: How many tables there are: 1 of the queries, 2 of queries and codes.

    Raises:
        TypeError, ValueError: They are missing, of another type, or of another shape.
    """
    if any(ROW in column for column in columns):
        return
    if labels is None:
        raise ValueError(
            'the data set must have an int column "label" of row numbers for the teacher\'s table '
            "(softnce_ext.sentence_transformers.add_row_numbers adds it; a column of another name "
            f"is read as a text), got {len(columns)} columns of texts and no label"
        )
    import torch

    if not isinstance(labels, torch.Tensor):
        raise TypeError(
            "label must be an int Tensor of row numbers for the teacher's table, got "
            f"{type(labels).__name__}"
        )
    # Of bool a table would take rows as by a mask.
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            "label must hold int row numbers for the teacher's table (the trainer takes labels, "
            f"score and scores for it too), got {labels.dtype}"
        )
    further = len(columns) - 2 if sides > 1 else 0
    numbers = list(labels.shape[1:])
    if numbers in ([1 + further], [len(columns) - 1]) or (not numbers and not further):
        return
    wanted = "int [N], the row of the pair"
    if further:
        wanted = (
            f"int [N, {1 + further}], the row of the pair, then that of the pair each negative is "
            "the code of,"
        )
    raise ValueError(
        f"label must be {wanted} with {len(columns) - 2} columns of negatives, got shape "
        f"{list(labels.shape)}"
    )


class RowCollator:
    """Takes the column `row` (a number) of a data set of texts out of the rows, and carries it on.

    Example:
        >>> collator = RowCollator(SentenceTransformerDataCollator(model.preprocess))
        >>> SentenceTransformerTrainer(model, data_collator=collator, loss=loss, ...)

    Args:
        collator: Makes a batch of the other columns.
        texts: Carry the texts as well; needed where an estimator without a table reads them with
            a tokenizer of its own.
    """

    def __init__(
        self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]], *, texts: bool = False
    ) -> None:
        self.collator = collator
        self.texts = texts
        # What the trainer asks of a collator.
        self.valid_label_columns: Sequence[str] = getattr(collator, "valid_label_columns", ())

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of rows: row numbers in the first two columns, on wish texts in each.

        Further columns of codes have no row numbers: they are other rows' codes.

        Raises:
            ValueError: A row has no number.
        """
        if any(ROW not in row for row in rows):
            raise ValueError(f'rows must hold a column "{ROW}", got {sorted(rows[0])}')
        numbers = [int(row[ROW]) for row in rows]
        others = [{name: value for name, value in row.items() if name != ROW} for row in rows]
        batch = self.collator(others)
        columns = [name for name in others[0] if name not in self.valid_label_columns]
        add_rows(batch, numbers, columns[:2])
        if self.texts:
            for column in columns:
                batch[f"{column}_{TEXT}"] = [row[column] for row in others]
        return batch
