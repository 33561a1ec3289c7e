"""What to rank, read from files: pairs, prepared CodeSearchNet, a code base beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..data.codesearchnet_read import Form, is_prepared, read_retrieval
from ..data.formats import JSON_LINES, decode_line, read_pairs, stream_lines
from ..data.mining import mine_folder
from ..data.pairs import Pair, Pairs
from ..data.rows import BadRow, read_row
from .ranking import PAPER_CUTOFF
from .retrieval import CodeBase, RetrievalTask

# A row is read as a pair, which needs a query: a private character, which stands in no code.
_NO_QUERY = "\ue000"


class Read(NamedTuple):
    """A code base and, where pairs were asked for, their task.

    Attributes:
        base: The functions that are ranked.
        task: The queries with their gold codes; None without pairs.
        pairs: The pairs behind the task [N].
        partition: The partition they are of, or "all".
        languages: Of all functions.
        cutoff: Ranks beyond it count as 0 in the MRR: the paper's for what `softnce prepare csn`
            wrote, as in training; None for all.
        repeated: How many rows of the data were left out because another held their pair, by why.
    """

    base: CodeBase
    task: RetrievalTask | None
    pairs: list[Pair]
    partition: str
    languages: frozenset[str]
    cutoff: int | None = None
    repeated: Mapping[str, int] = {}


def read_task(
    data: Path | None,
    codebase: Path | None = None,
    *,
    partition: str | None = None,
    form: Form = "source",
    progress: bool = True,
) -> Read:
    """Read queries with their gold codes, and the code base to find them in.

    Args:
        data: What `read_pairs` reads, or a language's folder that `softnce prepare csn` wrote;
            None for a code base alone.
        codebase: More functions, as `read_functions` reads them, to rank the pairs' codes among.
        partition: "train", "valid", "test" or "all"; None for test where the data names it.
        form: Of a prepared folder, as in `read_retrieval`.
        progress: Show progress on stderr.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: There is no pair, there are fewer than two functions to rank, a line is bad, or
            `codebase` is given beside a prepared folder.
    """
    if data is not None and is_prepared(data):
        if codebase is not None:
            raise ValueError(f"codebase must not be given: {data} holds its own")
        partition = partition or "test"
        read = read_retrieval(data, partition, form=form)
        task = RetrievalTask.of_prepared(read)
        gold = (read.codes[i] for i in read.target)
        pairs = [Pair(query, code) for query, code in zip(read.queries, gold, strict=True)]
        return Read(task.base, task, pairs, partition, frozenset([read.language]), PAPER_CUTOFF)
    found = Functions([], []) if codebase is None else read_functions(codebase, progress=progress)
    if data is None:
        names = [each.name for each in found.functions]
        base = CodeBase([each.code for each in found.functions], names, found.urls)
        _check_size(base, codebase)
        return Read(base, None, [], "all", _languages(found.functions))
    everything = read_pairs(data, progress=progress)
    partition, pairs = _choose(everything, partition)
    if not pairs:
        raise ValueError(f"{data} holds no (documentation, function) pair to evaluate on")
    task = RetrievalTask.of_pairs(pairs, found.functions, found.urls)
    _check_size(task.base, data)
    languages = _languages([*pairs, *found.functions])
    repeated = everything.report.get("repeated", {})
    return Read(task.base, task, pairs, partition, languages, repeated=repeated)


def _check_size(base: CodeBase, path: Path | None) -> None:
    if len(base) < 2:  # whose MRR is 1, whatever the model
        raise ValueError(f"{path} must hold at least 2 functions to rank, got {len(base)}")


class Functions(NamedTuple):
    """The functions of a code base, and what judgements call each."""

    functions: list[Pair]
    urls: list[str]


def read_functions(path: Path, *, progress: bool = True) -> Functions:
    """Read all functions of a folder of source, or of a JSON lines file (".gz" too).

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
                # Whichever partition it is of, it is searched.
                pair = read_row({**fields, "query": query, "partition": ""} if fields else row).pair
            except BadRow as error:
                raise ValueError(f"{path}:{number}: {error}") from None
            if pair is not None:
                url = fields.get("url") or fields.get("func_code_url") or fields.get("id")
                found.functions.append(pair)
                found.urls.append(str(url or _place(pair)))
    return found


def _languages(functions: list[Pair]) -> frozenset[str]:
    return frozenset(each.language for each in functions)


def _place(function: Pair) -> str:
    return f"{function.path}#L{function.line}"


def _choose(pairs: Pairs, partition: str | None) -> tuple[str, list[Pair]]:
    """Return the name of the partition and its pairs."""
    if partition is None:
        partition = "test" if "test" in pairs.partitions.values() else "all"
    if partition == "all":
        return partition, list(pairs)
    return partition, [pair for pair in pairs if pairs.partitions.get(pair) == partition]
