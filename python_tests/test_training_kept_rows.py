from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_rows, transformer_model
from tiny_backbones import save_tiny_backbone

from softnce_ext.encoders.backbones import build_backbone
from softnce_ext.training.batches import TextPairs
from softnce_ext.training.kept_rows import KeptRows

ROWS = tiny_rows()
QUERIES = [row["query"] for row in ROWS]
CODES = [row["code"] + "\n    return state" * (number % 7) for number, row in enumerate(ROWS)]
CODES[5] = "x"
EPOCHS = ([[0, 1, 2], [3, 4, 5], [6]], [[5, 2], [6, 0, 3], [4, 1]], [[7, 5, 0]])  # of rows


def encoder(kind: str, folder: Path) -> Any:
    if kind == "bert":
        model = transformer_model(QUERIES + CODES, folder)
        model.prompts = {"query": "read ", "document": ""}
        return model
    save_tiny_backbone(folder, QUERIES + CODES)
    options = {"language": "python"} if kind == "graphcodebert" else {}
    return build_backbone(kind, folder, query_length=16, code_length=40, device="cpu", **options)


@pytest.mark.parametrize("kind", ["bert", "codebert", "graphcodebert", "unixcoder"])
def test_kept_rows_make_the_batches_that_their_texts_make(kind: str, tmp_path: Path) -> None:
    model = encoder(kind, tmp_path)
    collator = TextPairs(QUERIES, CODES).collator(model)
    for batch in (rows for epoch in EPOCHS for rows in epoch):
        found = collator([{"row": row} for row in batch])
        for column, side, texts in (("query", "query", QUERIES), ("code", "document", CODES)):
            prompt = model.prompts.get(side) or None
            wanted = model.preprocess([texts[row] for row in batch], prompt=prompt, task=side)
            wanted |= {"row": torch.tensor(batch), "task": side}
            names = {name for name in found if name.startswith(column)}
            assert names == {f"{column}_{name}" for name in wanted}
            for name, value in wanted.items():
                batched = found[f"{column}_{name}"]
                if isinstance(value, torch.Tensor):
                    assert batched.dtype == value.dtype and torch.equal(batched, value)
                else:
                    assert batched == value


@pytest.mark.parametrize("kind", ["bert", "codebert", "graphcodebert", "unixcoder"])
def test_a_text_is_tokenized_once(kind: str, tmp_path: Path) -> None:
    model = encoder(kind, tmp_path)
    collator = TextPairs(QUERIES, CODES).collator(model)
    read, seen = model.preprocess, []

    def preprocess(texts: list[str], **options: Any) -> Any:
        # GraphCodeBERT's code has pairs of positions, and a memory of its own.
        if kind != "graphcodebert" or options["task"] == "query":
            seen.extend(texts)
        return read(texts, **options)

    model.preprocess = preprocess
    for batch in EPOCHS[0]:
        collator([{"row": row} for row in batch])
    assert set(QUERIES[:7]) <= set(seen)
    seen.clear()
    for batch in EPOCHS[1]:
        collator([{"row": row} for row in batch])
    assert not seen


def padded(rows: list[list[int]], how: str) -> dict[str, Any]:
    """Features of rows of ids as encoders make them that nothing can be kept of."""
    width = max(map(len, rows)) + (how == "to a bound")
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(width - len(row), None) if how == "in front" else slice(len(row))
        ids[index, place], mask[index, place] = torch.tensor(row), 1
    if how == "by its batch":
        ids[mask == 0] = len(rows)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("how", ["in front", "to a bound", "by its batch"])
def test_rows_that_other_padding_hides_are_read_anew(how: str) -> None:
    rows = KeptRows(["a b c", "d", "e f", "g", "h i j k"])

    def read(texts: list[str]) -> dict[str, Any]:
        return padded([[ord(word) for word in text.split()] for text in texts], how)

    for batch in ([0, 1], [2, 3, 4], [0, 3], [2, 3], [1, 2, 4]):
        wanted = read([rows.texts[row] for row in batch])
        for name, value in rows.batch(batch, read).items():
            assert torch.equal(value, wanted[name])
