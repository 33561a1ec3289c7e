"""Read what `softnce prepare csn` wrote: pairs to train on, and queries against a code base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .codesearchnet_files import MANIFEST
from .codesearchnet_language import PARTITIONS, PreparedLanguage, joined_pairs, language_folders
from .codesearchnet_language import Form as Form
from .codesearchnet_language import Retrieval as Retrieval
from .pairs import Pairs


def is_prepared(path: str | Path) -> bool:
    """Say whether a folder holds a prepared language, or folders of them."""
    return bool(language_folders(Path(path)))


def read_prepared(
    folder: str | Path, partitions: Sequence[str] = PARTITIONS, *, form: Form = "source"
) -> Pairs:
    """Read prepared pairs; a query of valid and test gets its code from the code base, by URL.

    Args:
        folder: A language's folder, or the folder of several: their pairs follow one another.
        partitions: Those to read, of "train", "valid" and "test". Left out where not prepared.
        form: "source" is the function's text without its docstring, "tokens" CodeSearchNet's
            tokens joined by blanks, which CodeBERT and UniXcoder were trained and measured on.

    Returns:
        The pairs in file order with their partitions.

    Raises:
        FileNotFoundError: The folder was not prepared.
        ValueError: An argument is not one of those named, or a file is not as the manifest says.
    """
    folders = language_folders(Path(folder))
    if not folders:
        raise FileNotFoundError(f"{folder}: there is no {MANIFEST}; `softnce prepare csn` makes it")
    return joined_pairs([PreparedLanguage(each, form) for each in folders], partitions)


def read_retrieval(
    folder: str | Path, partition: str = "test", *, form: Form = "source"
) -> Retrieval:
    """Read what the paper evaluates on: a partition's queries against the whole code base.

    Args:
        folder: A language's folder.
        partition: "test" or "valid"; both have the same code base.
        form: As in `read_prepared`.

    Raises:
        FileNotFoundError: The folder was not prepared, or not this partition or the code base.
        ValueError: A query has no code in the code base, two codes have one URL, or a file is not
            as the manifest says.
    """
    return PreparedLanguage(folder, form).retrieval(partition)
