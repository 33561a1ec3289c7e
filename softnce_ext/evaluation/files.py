"""A code base to rank, from a folder of source or JSON lines, with the urls of its functions."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..data.formats import JSON_LINES, decode_line, stream_lines
from ..data.mining import mine_folder
from ..data.pairs import Pair
from ..data.rows import BadRow, read_row

# A row is read as a pair, which needs a query: a private character, which stands in no code.
_NO_QUERY = "\ue000"


class Functions(NamedTuple):
    """The functions of a code base, and what judgements call each."""

    functions: list[Pair]
    urls: list[str]


def read_functions(path: Path, *, progress: bool = True) -> Functions:
    """Read all functions of a folder of Python source, or of a JSON lines file (".gz" too).

    A row needs "code"; documentation is cut out of it, as in `read_pairs`. What it is called by
    is its "url", else its "id", else its path and line ("a/b.py#L12").

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: A line is bad (named by file and line), or there is no function.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if path.is_file() and path.name.endswith(JSON_LINES):
        found = _read_rows(path)
    else:
        functions = mine_folder(path, keep_all=True, progress=progress)
        found = Functions(functions, [_place(each) for each in functions])
    if not found.functions:
        raise ValueError(f"{path}: there is no function in this code base")
    return found


def _read_rows(path: Path) -> Functions:
    found = Functions([], [])
    with open(path, "rb") as raw:
        for number, line in stream_lines(raw, str(path), lambda _: None):
            try:
                row = decode_line(line)
                fields = row if isinstance(row, dict) else {}
                query = fields.get("query") or _NO_QUERY
                pair = read_row({**fields, "query": query} if fields else row).pair
            except BadRow as error:
                raise ValueError(f"{path}:{number}: {error}") from None
            if pair is not None:
                url = fields.get("url") or fields.get("func_code_url") or fields.get("id")
                found.functions.append(pair)
                found.urls.append(str(url or _place(pair)))
    return found


def _place(function: Pair) -> str:
    return f"{function.path}#L{function.line}"
