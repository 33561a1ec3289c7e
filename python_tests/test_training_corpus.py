from __future__ import annotations

from pathlib import Path

import pytest
from models import tiny_rows, write_rows

from softnce_ext.training.corpus import read_corpus, split_corpus
from softnce_ext.training.settings import TrainSettings


def corpus(path: Path, *parts: str):  # noqa: ANN202
    rows = [{**row, "partition": part} for row, part in zip(tiny_rows(), parts, strict=False)]
    settings = TrainSettings(data=str(write_rows(path / "x.jsonl", rows)))
    return split_corpus(*read_corpus(settings, progress=False), settings)


@pytest.mark.parametrize(
    ("parts", "got"),
    [
        (["train", "valid", "test"], "1 and 1"),
        (["train", "valid", "test", "test"], "1 and 2"),
        (["train", "train", "valid", "test"], "2 and 1"),
    ],
)
def test_too_few_to_learn_from_or_to_rank_are_refused(
    parts: list[str], got: str, tmp_path: Path
) -> None:
    message = "at least 2 pairs to train on and 2 test functions to rank, got " + got
    with pytest.raises(ValueError, match=message):
        corpus(tmp_path, *parts)


def test_two_of_each_are_enough(tmp_path: Path) -> None:
    found = corpus(tmp_path, "train", "train", "valid", "test", "test")
    assert [len(part) for part in found.split.parts().values()] == [2, 1, 2]
