"""Small CodeSearchNet dumps and URL lists, of text made up here, as users have them."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Rows of each partition in the dump; the lists leave the last one of each out.
SIZES = {"train": 6, "valid": 4, "test": 4}
# What is left after the lists: train, valid, test, codebase.
COUNTS = (5, 3, 3, 7)
COLUMNS = {
    "repo": "repository_name",
    "path": "func_path_in_repository",
    "func_name": "func_name",
    "original_string": "whole_func_string",
    "language": "language",
    "code": "func_code_string",
    "code_tokens": "func_code_tokens",
    "docstring": "func_documentation_string",
    "docstring_tokens": "func_documentation_tokens",
    "partition": "split_name",
    "url": "func_code_url",
}
SUFFIX = {"python": "py", "ruby": "rb", "go": "go"}


def record(language: str, partition: str, i: int) -> dict[str, Any]:
    """Return one record with CodeSearchNet's fields."""
    doc = f"Return the {partition} sum number {i} of ä list."
    if language == "python":
        docstring = f'    """{doc}\n\n    More.\n    """\n'
        source = f"def add_{i}(a):\n{docstring}    return sum(a) + {i}  # fast"
        tokens = f"def add_{i} ( a ) : return sum ( a ) + {i}".split()
    else:
        source = f"def add_{i}(a)\n  a.sum + {i} # fast\nend"
        tokens = [*f"def add_{i} ( a ) a . sum + {i}".split(), "# fast", "end"]
    path = f"lib/{partition}.{SUFFIX[language]}"
    return {
        "repo": "owner/name",
        "path": path,
        "func_name": f"Sums.add_{i}",
        "original_string": source,
        "language": language,
        "code": source,
        "code_tokens": tokens,
        "docstring": f"{doc}\n\nMore.",
        "docstring_tokens": doc.rstrip(".").split() + ["."],
        "sha": "abc",
        "url": f"https://example.org/owner/name/blob/abc/{path}#L{10 * i + 1}-L{10 * i + 3}",
        "partition": partition,
    }


def records(language: str, partition: str) -> list[dict[str, Any]]:
    return [record(language, partition, i) for i in range(SIZES[partition])]


def json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def members(language: str) -> dict[str, bytes]:
    """Return the files of a language's archive; train in two files, as the real ones."""
    files = {}
    for partition in SIZES:
        rows = records(language, partition)
        for number, part in enumerate((rows[:2], rows[2:])):
            name = f"{language}/final/jsonl/{partition}/{language}_{partition}_{number}.jsonl.gz"
            files[name] = json_lines(part)
    files[f"{language}_licenses.pkl"] = b"not read"
    return files


def write_zip(folder: Path, language: str) -> Path:
    path = folder / f"{language}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members(language).items():
            archive.writestr(name, data)
    return path


def write_folder(folder: Path, language: str) -> Path:
    for name, data in members(language).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / language


def write_parquet(folder: Path, language: str) -> Path:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    target = folder / language
    target.mkdir(parents=True)
    for partition, split in (("train", "train"), ("valid", "validation"), ("test", "test")):
        rows = [
            {COLUMNS[key]: value for key, value in row.items() if key in COLUMNS}
            for row in records(language, partition)
        ]
        path = target / f"{split}-00000-of-00001.parquet"
        parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=2)
    return target


def urls(language: str) -> dict[str, list[str]]:
    """Return the lists, in an order that is not the dump's; codebase names URLs of train too."""
    kept = {
        partition: [row["url"] for row in reversed(records(language, partition)[:-1])]
        for partition in SIZES
    }
    kept["codebase"] = [
        kept["test"][1],
        *kept["valid"],
        kept["train"][0],
        kept["test"][0],
        kept["test"][2],
        records(language, "test")[-1]["url"],  # in the dump, not in the test list
        "https://example.org/elsewhere#L1-L2",
    ]
    return kept


def write_lists(folder: Path, *languages: str) -> Path:
    for language in languages:
        (folder / language).mkdir(parents=True, exist_ok=True)
        for name, each in urls(language).items():
            (folder / language / f"{name}.txt").write_text("".join(f"{url}\n" for url in each))
    return folder
