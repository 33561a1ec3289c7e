"""Pairs from a Hugging Face dataset: a hub name, or a folder or file of parquet or JSON lines."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .gather import Gathered
from .pairs import Pairs
from .rows import BESIDE_THE_TEXTS, PARTITION_OF_WORD, BadRow, read_row

if TYPE_CHECKING:
    from datasets import Dataset

# A column order means nothing: CodeSearchNet on the hub has its code first. Of several known
# names the first wins.
QUERY_COLUMNS = (
    "query",
    "func_documentation_string",
    "docstring",
    "documentation",
    "question",
    "anchor",
    "nl",
    "doc",
    "intent",
    "description",
    "comment",
    "summary",
)
CODE_COLUMNS = (
    "code",
    "func_code_string",
    "original_string",
    "whole_func_string",
    "function",
    "positive",
    "snippet",
    "answer",
)
_FILES = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".gz": "json", ".csv": "csv"}
# The columns that a row of CodeSearchNet is told by, on the hub and in its own files.
_CODESEARCHNET = ({"func_code_string", "func_documentation_string"}, {"docstring_tokens", "code"})
_SAVED = ("state.json", "dataset_dict.json")  # what `save_to_disk` leaves
_BATCH = 1000


def read_hub(
    name: str,
    split: str | None = None,
    *,
    config: str | None = None,
    query_column: str | None = None,
    code_column: str | None = None,
    progress: bool = True,
) -> Pairs:
    """Read the pairs of a Hugging Face dataset.

    Without network it reads what lies on the disk: a folder of parquet or JSON lines files, one
    such file, a folder that `save_to_disk` made, or a hub dataset that was cached before. Datasets
    that are a script are refused: no code comes from data.

    Args:
        name: A path, or a hub name such as "owner/name"; "owner/name:config" names the config too.
        split: "train", "validation", ...; None for all, each giving its rows their partition; of
            one alone the rows' own goes first. Where some are named so, those of other names are
            left out with a warning.
        config: The dataset's configuration, where it has several.
        query_column: The column with the documentation; None to find it by its name.
        code_column: The column with the code; None to find it by its name.
        progress: Show a progress bar on stderr.

    Returns:
        The pairs with their partitions. Rows of CodeSearchNet are read as from its own files: a
        Python docstring is cut out of the code.

    Raises:
        FileNotFoundError: There is no such dataset here, nor can one be fetched.
        ValueError: The columns cannot be told (it names those found), or a row is bad.
        ImportError: `datasets` is not installed.
    """
    from tqdm import tqdm

    if config is None and ":" in name and not Path(name).exists():
        name, _, config = name.rpartition(":")
    parts = _partitions_alone(name, _load(name, split, config))
    gathered = Gathered()
    with tqdm(
        total=sum(map(len, parts.values())), desc="reading", mininterval=0.3, disable=not progress
    ) as bar:
        for part, dataset in parts.items():
            columns = _columns(name, dataset, query_column, code_column)
            held = _partition(part)
            for batch in dataset.select_columns(list(columns)).iter(_BATCH):
                keys = list(batch)
                for values in zip(*batch.values(), strict=True):
                    row = {columns[key]: value for key, value in zip(keys, values, strict=True)}
                    try:
                        read = read_row(row)
                    except BadRow as error:
                        raise ValueError(
                            f"{name}, {part}, row {gathered.rows + 1}: {error}"
                        ) from None
                    bar.update()
                    # A file that stands alone is called "train" whatever its rows say.
                    own = read.partition if len(parts) == 1 else ""
                    gathered.add(read, own or held or read.partition)
    read_rows = {"files": len(parts), "lines": gathered.rows, "bad_lines": 0, "bad_examples": []}
    return gathered.finished(name, read_rows)


def _load(name: str, split: str | None, config: str | None) -> dict[str, Dataset]:
    """Return the splits by name."""
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"{name}: reading a Hugging Face dataset needs datasets: pip install datasets"
        ) from None
    path = Path(name)
    try:
        if path.is_file():
            kind = _FILES.get(path.suffix)
            if kind is None:
                raise ValueError(f"{name}: must be .parquet, .jsonl, .json or .csv")
            words = re.split(r"[^a-z]+", path.stem.lower())
            named = [word for word in words if word in PARTITION_OF_WORD] or ["train"]
            loaded: Any = datasets.load_dataset(kind, data_files={named[-1]: name}, split=split)
        elif any((path / each).is_file() for each in _SAVED):
            loaded = datasets.load_from_disk(name)
            if split is not None and not isinstance(loaded, datasets.Dataset):
                if split not in loaded:
                    raise ValueError(f"split must be one of {', '.join(loaded)}, got {split!r}")
                loaded = loaded[split]
        else:
            loaded = datasets.load_dataset(name, config, split=split)
    except ConnectionError as error:  # no network, or told not to use it
        raise FileNotFoundError(
            f"{name}: no such folder here, and the hub cannot be reached: {error}"
        ) from None
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: no such dataset: {error}") from None
    except (RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{name}: cannot be read: {error}") from None
    if isinstance(loaded, datasets.Dataset):
        return {split or str(loaded.split or ""): loaded}
    return {str(each): loaded[each] for each in loaded}


def _partitions_alone(name: str, parts: dict[str, Dataset]) -> dict[str, Dataset]:
    """Return the splits that are a partition, or all where none is.

    What another split beside them holds is not known: a second test would end up in training.
    """
    known = {part: dataset for part, dataset in parts.items() if _partition(part)}
    if not known or len(known) == len(parts):
        return parts
    others = [part for part in parts if part not in known]
    warnings.warn(
        f"{name}: left out {', '.join(others)}, of {len(parts)} splits those whose names are not of"
        f" {', '.join(PARTITION_OF_WORD)}",
        stacklevel=3,
    )
    return known


def _partition(split: str) -> str:
    """Return the partition that a split's name says, "" for none."""
    return PARTITION_OF_WORD.get(split.split("[")[0].lower(), "")


def _columns(
    name: str, dataset: Dataset, query_column: str | None, code_column: str | None
) -> Mapping[str, str]:
    """Return the columns to read, each with the name that `read_row` knows it by."""
    there = dataset.column_names
    chosen = {}
    is_codesearchnet = any(each <= set(there) for each in _CODESEARCHNET)
    if query_column is None and code_column is None and is_codesearchnet:
        return {each: each for each in there}
    for key, given, known in (
        ("query", query_column, QUERY_COLUMNS),
        ("code", code_column, CODE_COLUMNS),
    ):
        column = given or next((each for each in known if each in there), None)
        if column is None or column not in there:
            raise ValueError(
                f"{name}: which column is the {key}? {key}_column must name one of"
                f" {', '.join(there)}" + (f", got {given!r}" if given else "")
            )
        chosen[column] = key
    if len(chosen) < 2:
        raise ValueError(f"{name}: query_column and code_column must differ, got {query_column!r}")
    beside = [each for each in BESIDE_THE_TEXTS if each in there and each not in chosen]
    return {**chosen, **{each: each for each in beside}}
