import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from softnce_ext.data.formats import read_pairs, write_pairs
from softnce_ext.data.pairs import Pair

OURS = {"query": "Read  all\nlines.", "code": "def read(p):\n    return 1", "package": "io"}
CODESEARCHNET = {
    "repo": "owner/name",
    "path": "src/io.py",
    "func_name": "File.read",
    "language": "python",
    "code": 'def read(self):\n        """Read the lines.\n\n  More.\n  """\n        return 1',
    "code_tokens": ["def", "read", "(", "self", ")", ":", "return", "1"],
    "docstring": "Read the lines.\n\n        More.",
    "docstring_tokens": ["Read", "the", "lines", "."],
    "url": "https://example.org/owner/name/blob/abc/src/io.py#L12-L17",
    "partition": "test",
}
HUGGING_FACE = {
    "repository_name": "owner/name",
    "func_path_in_repository": "lib/io.rb",
    "func_name": "Io::File.read",
    "whole_func_string": "def read\n  1\nend",
    "language": "ruby",
    "func_code_string": "def read\n  1\nend",
    "func_code_tokens": ["def", "read", "1", "end"],
    "func_documentation_string": "Read the lines.",
    "func_documentation_tokens": ["Read", "the", "lines", "."],
    "split_name": "validation",
    "func_code_url": "https://example.org/x#L3-L5",
}


def write(path: Path, *rows: object) -> Path:
    """Write rows; text stands as it is, anything else as JSON."""
    lines = [row if isinstance(row, (str, bytes)) else json.dumps(row) for row in rows]
    data = b"".join((each if isinstance(each, bytes) else each.encode()) + b"\n" for each in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path, **options: Any) -> list[Pair]:
    return read_pairs(path, progress=False, **options)


def test_own_rows_are_read_and_their_name_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", OURS, "", {**OURS, "id": 7, "name": "n", "line": 3})
    first, second = read(path)
    assert first == Pair("Read all lines.", OURS["code"], "read", "io", "", 0, "python")
    assert second == Pair("Read all lines.", OURS["code"], "n", "io", "7", 3, "python")


def test_codesearchnet_row_loses_the_docstring_in_its_code(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path / "x.jsonl.gz", CODESEARCHNET), progress=False)
    code = "def read(self):\n        return 1"
    assert pairs == [Pair("Read the lines.", code, "read", "owner/name", "src/io.py", 12, "python")]
    assert pairs.partitions == {pairs[0]: "test"}


def test_python_2_falls_back_to_the_tokens(tmp_path: Path) -> None:
    old = {**CODESEARCHNET, "code": 'def read():\n    """Read the lines."""\n    print 1'}
    old["code_tokens"] = ["def", "read", '"""Read the lines."""', "print", "1"]
    rows = write(tmp_path / "x.jsonl", old, {**old, "code_tokens": []})
    pairs = read_pairs(rows, progress=False)
    assert [each.code for each in pairs] == ["def read print 1"]
    assert pairs.report["dropped"] == {"no code": 1}


def test_hugging_face_names_are_known(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path / "x.jsonl", HUGGING_FACE), progress=False)
    code = HUGGING_FACE["whole_func_string"]
    assert pairs == [Pair("Read the lines.", code, "read", "owner/name", "lib/io.rb", 3, "ruby")]
    assert list(pairs.partitions.values()) == ["valid"]


def test_query_is_the_joined_tokens_where_there_is_no_docstring(tmp_path: Path) -> None:
    blank = {**CODESEARCHNET, "docstring": "", "docstring_tokens": []}
    path = write(tmp_path / "x.jsonl", {**CODESEARCHNET, "docstring": ""}, blank)
    pairs = read_pairs(path, progress=False)
    assert [each.query for each in pairs] == ["Read the lines ."]
    assert pairs.report["dropped"] == {"no documentation": 1}


def test_own_python_row_never_holds_its_query_as_docstring(tmp_path: Path) -> None:
    code = 'def f():\n    """Read the lines."""\n    return 1'
    (pair,) = read(write(tmp_path / "x.jsonl", {"query": "Read the lines.", "code": code}))
    assert pair.code == "def f():\n    return 1"


def test_folder_of_files_gives_partitions_by_name(tmp_path: Path) -> None:
    for name in ("train/ruby_train_0.jsonl.gz", "dev.jsonl", "final/test/part_1.jsonl.gz"):
        write(tmp_path / name, {**OURS, "query": f"Read {name} whole."})
    write(tmp_path / "codebase.jsonl", {**OURS, "query": "never read this"})
    pairs = read_pairs(tmp_path, progress=False)
    assert sorted(pairs.partitions.values()) == ["test", "train", "valid"]
    assert len(pairs) == 3


def test_folder_of_source_is_mined_even_with_data_below_it(tmp_path: Path) -> None:
    function = 'def f(x):\n    """Return the sum of it."""\n    y = 1\n    y += x\n    return y\n'
    (tmp_path / "m.py").write_text(function)
    write(tmp_path / "fixtures" / "a.jsonl", OURS)
    assert [each.name for each in read(tmp_path)] == ["f"]
    assert [each.name for each in read(tmp_path / "m.py")] == ["f"]
    (tmp_path / "m.py").rename(tmp_path / "m.rb")
    assert read(tmp_path) == []  # still no folder of data
    assert read(tmp_path, language="ruby") == []
    with pytest.raises(ValueError, match="there are no java, .jsonl or .jsonl.gz files"):
        read(tmp_path, language="java")


def test_language_chooses_among_the_rows_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {**OURS, "partition": "train"}, {**OURS, "language": "go"})
    assert [each.language for each in read(path)] == ["python", "go"]
    pairs = read_pairs(path, language="python", progress=False)
    assert [each.language for each in pairs] == ["python"]
    assert list(pairs.partitions.values()) == ["train"]
    with pytest.raises(ValueError, match=r"the data's, python \(1\), go \(1\), got php"):
        read(path, language="php")


BAD = [
    ('{"query": "Read it all", "code": "x"', ":1:37: not JSON: Expecting ',' delimiter"),
    (b'{"query": "Read \xff all", "code": "x"}', ":1:17: byte 0xff is not UTF-8"),
    (["query", "code"], ":1: must be a JSON object, got a list"),
    ({"query": "Read it all"}, ":1: must have 'code', got 'query'"),
    ({}, ":1: must have 'query', got no key at all"),
    ({"query": 7, "code": "x"}, ":1: 'query' must be a string, got a number"),
    ({"query": "Read it all", "code": None}, ":1: 'code' must be a string, got null"),
    ({"query": "Read it all", "code": " "}, ":1: 'code' must not be empty"),
    ({"query": "Read it all", "code": "x" * 1_000_001}, "at most 1,000,000 characters"),
    ({"query": "Read it all", "code": "a\0b"}, ":1: 'code' must be text, got a NUL"),
    ({"query": "Read \ud800 all", "code": "x"}, ":1: 'query' must be text, got half a surrogate"),
    ({**OURS, "line": "3"}, ":1: 'line' must be an integer of at least 0, got '3'"),
    ({**CODESEARCHNET, "docstring": 3}, ":1: 'docstring' must be a string, got a number"),
    ({**CODESEARCHNET, "docstring_tokens": "a"}, ":1: 'docstring_tokens' must be a list of str"),
    ({**CODESEARCHNET, "code_tokens": [1]}, ":1: 'code_tokens' must be a list of strings"),
    ("[" * 100_000, ":1: not JSON"),
    ("7" * 10_000, ":1: "),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_line_is_named_by_file_and_line(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path / "bad.jsonl", row)
    with pytest.raises(ValueError) as raised:
        read(path)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{path}:1")


def test_bad_lines_are_skipped_and_counted_up_to_one_percent(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", *[OURS] * 150, "{", *[OURS] * 49)
    pairs = read_pairs(path, on_bad_line="skip", progress=False)
    assert (len(pairs), pairs.report["lines"], pairs.report["bad_lines"]) == (199, 200, 1)
    assert pairs.report["bad_examples"][0].startswith(f"{path}:151:")
    with pytest.raises(ValueError, match=":151:2: not JSON"):
        read(path)
    write(path, *[OURS] * 150, "{", *[OURS] * 47, "{", "{")
    with pytest.raises(
        ValueError, match=r"3 of 200 lines are bad, more than 1%; the first: .*:151"
    ):
        read(path, on_bad_line="skip")


def test_giant_line_is_one_bad_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softnce_ext.data.formats.MAX_LINE_BYTES", 1000)
    path = write(tmp_path / "x.jsonl", *[OURS] * 150, "x" * 5000, *[OURS] * 10)
    pairs = read_pairs(path, on_bad_line="skip", progress=False)
    assert (len(pairs), pairs.report["bad_lines"]) == (160, 1)
    assert "less than 1,000 bytes" in pairs.report["bad_examples"][0]


def test_cut_broken_and_empty_files_are_told_in_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl.gz", *[{**OURS, "query": f"row {n} of it"} for n in range(99)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"x.jsonl.gz: the gzip file is cut off after line \d+"):
        read(path)
    path.write_bytes(whole[:40] + b"\0\0\0\0" + whole[44:])
    with pytest.raises(ValueError, match=r"x.jsonl.gz"):
        read(path)
    for data in (b"", gzip.compress(b""), b"\n \n"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="the file is empty"):
            read(path)
    path.write_bytes(gzip.decompress(whole))  # told by its content, not its name
    assert len(read(path)) == 99


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="there are no source, .jsonl or .jsonl.gz files"):
        read(tmp_path)
    (tmp_path / "a.csv").touch()
    with pytest.raises(
        ValueError, match=r"must end in .jsonl or .jsonl.gz, source in .go, .java, "
    ):
        read(tmp_path / "a.csv")
    with pytest.raises(ValueError, match='on_bad_line must be "error" or "skip", got \'no\''):
        read(tmp_path, on_bad_line="no")


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_written_pairs_come_back_and_bytes_repeat(tmp_path: Path, name: str) -> None:
    pairs = [
        Pair("Read älle lines.", 'def f():\n    return "ü\u2028"', "f", "p", "p/a.py", 3),
        Pair("Close it all", "end", "close", "q", "b.rb", 1, "ruby"),
    ]
    path = tmp_path / name
    write_pairs(path, pairs)
    first = path.read_bytes()
    assert read(path) == pairs
    write_pairs(path, pairs)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("old")
    with pytest.raises(AttributeError):
        write_pairs(path, [Pair("Read all lines.", "x"), None])  # type: ignore[list-item]
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_pairs(tmp_path / "no" / "pairs.jsonl", [])
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write_pairs(tmp_path, [])
