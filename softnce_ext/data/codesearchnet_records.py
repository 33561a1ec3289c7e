"""The records of a dump's files: JSON lines and parquet, decoded as far as they are wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from .codesearchnet_files import PARQUET, Entry, Part, opened
from .formats import decode_line, stream_lines
from .rows import PARTITION_OF_WORD, BadRow, kind_of

_PARQUET_ROWS = 2000
# Inside a JSON string a quote has a backslash before it, so these find the keys alone.
_URL = re.compile(rb'"(?:func_code_)?url"\s*:\s*"([^"\\]*)"')
_LANGUAGE = re.compile(rb'"language"\s*:\s*"([^"\\]*)"')


def read_records(
    part: Part,
    language: str,
    partition: str,
    wanted: Collection[bytes] | None,
    advance: Callable[[int], object],
) -> Iterator[tuple[str, bytes, Mapping[str, Any]]]:
    """Yield (where, url, record) of a part's records of a language and partition.

    Args:
        part: The file.
        language: The language its records must have.
        partition: The partition they must have; "codebase" takes any.
        wanted: The URLs to yield; other JSON lines are not even decoded. None for all.
        advance: Called with the bytes read since the last call.

    Raises:
        ValueError: A record is no JSON object (named by file and line), is of another language or
            partition than its path says, or the file is cut off or broken.
    """
    is_parquet = part.entry.file.name.endswith(PARQUET)
    for where, row in (_parquet_rows if is_parquet else _json_rows)(part.entry, wanted, advance):
        try:
            if not isinstance(row, Mapping):
                raise BadRow(f"must be a JSON object, got {kind_of(row)}")
            if _is_of(row, part, language, partition):
                name = "url" if "url" in row else "func_code_url"
                url = row.get(name)
                if not isinstance(url, str) or not url:
                    if name not in row:
                        raise BadRow("must have 'url', a string, got none")
                    came = "an empty one" if url == "" else kind_of(url)
                    raise BadRow(f"{name!r} must be a string, got {came}")
                key = url.encode(errors="surrogatepass")
                if wanted is None or key in wanted:
                    yield where, key, row
        except BadRow as error:
            raise ValueError(f"{where}: {error}") from None


def languages_in(part: Part) -> set[str]:
    """Return the languages of a part: the one its path names, else those of all its records."""
    entry = part.entry
    if part.language:
        return {part.language}
    if entry.file.name.endswith(PARQUET):
        columns = (batch.column("language") for _, batch in _batches(entry, ["language"]))
        return {str(each).lower() for column in columns for each in column.unique().to_pylist()}
    with opened(entry) as raw:
        lines = stream_lines(raw, entry.name, lambda _: None)
        found = (_LANGUAGE.search(line) for _, line in lines)
        return {match[1].decode("utf-8", "replace").lower() for match in found if match}


def _json_rows(
    entry: Entry, wanted: Collection[bytes] | None, advance: Callable[[int], object]
) -> Iterator[tuple[str, object]]:
    with opened(entry) as raw:
        first = True
        for number, line in stream_lines(raw, entry.name, advance):
            # From the key on, found from the end: five times faster than a search. Where the key is
            # written otherwise there is no match, and the line is decoded.
            match = _URL.match(line, line.rfind(b'"', 0, line.rfind(b'url":')))
            # The first record is always decoded: it tells a file of another language.
            if not first and wanted is not None and match and match[1] not in wanted:
                continue
            first = False
            try:
                yield f"{entry.name}:{number}", decode_line(line)
            except BadRow as error:
                column = f":{error.column}" if error.column else ""
                raise ValueError(f"{entry.name}:{number}{column}: {error}") from None


def _parquet_rows(
    entry: Entry, wanted: Collection[bytes] | None, advance: Callable[[int], object]
) -> Iterator[tuple[str, object]]:
    row = done = 0
    for share, batch in _batches(entry, []):
        url = batch.column("func_code_url" if "func_code_url" in batch.schema.names else "url")
        for i, each in enumerate(url.to_pylist()):
            # As above: the first record is always read.
            if wanted is None or row + i == 0 or str(each).encode() in wanted:
                yield f"{entry.name}, row {row + i}", batch.slice(i, 1).to_pylist()[0]
        row += len(batch)
        advance(int(share * entry.size) - done)
        done = int(share * entry.size)


def _batches(entry: Entry, columns: list[str]) -> Iterator[tuple[float, Any]]:
    """Yield (share of the file read, record batch) of a parquet file; no columns for all."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            f"{entry.name}: reading parquet needs pyarrow: pip install pyarrow"
        ) from None
    if entry.member:
        raise ValueError(f"{entry.name}: parquet in a zip is not read; take it out of the zip")
    rows = 0
    try:
        with pyarrow.parquet.ParquetFile(entry.file) as file:
            names = file.schema_arrow.names
            if "language" not in names or not {"func_code_url", "url"} & set(names):
                raise ValueError(
                    f"{entry.name}: must have columns language and func_code_url, got"
                    f" {', '.join(names[:12])}"
                )
            for batch in file.iter_batches(_PARQUET_ROWS, columns=columns or None):
                rows += len(batch)
                yield rows / file.metadata.num_rows, batch
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{entry.name}: broken after row {rows}: {error}") from None


def _is_of(row: Mapping[str, Any], part: Part, language: str, partition: str) -> bool:
    """Say whether a record is of a language and partition; refuse one its path says it is not."""
    told = str(row.get("language") or "").lower()
    if not told and not part.language:
        raise BadRow("must have 'language', since no folder or file name says it")
    if part.language and told and told != part.language:
        raise BadRow(f"'language' must be {part.language!r}, as its path says, got {told!r}")
    if (told or part.language) != language:
        return False
    if partition == "codebase":
        return True
    word = str(row.get("partition") or row.get("split_name") or "").lower()
    held = PARTITION_OF_WORD.get(word, "")
    if not held and not part.partition:
        raise BadRow("must have 'partition', since no folder or file name says it")
    if part.partition and held and held != part.partition:
        raise BadRow(f"'partition' must be {part.partition!r}, as its path says, got {held!r}")
    return (held or part.partition) == partition
