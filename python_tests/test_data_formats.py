import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from softnce_ext.data.formats import read_pairs, write_pairs
from softnce_ext.data.pairs import Pair
from softnce_ext.data.split import split_by_package

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
    other = {**OURS, "query": "Read one.", "id": 7, "name": "n", "line": 3}
    path = write(tmp_path / "a.jsonl", OURS, "", other)
    first, second = read(path)
    assert first == Pair("Read all lines.", OURS["code"], "read", "io", "", 0, "python")
    assert second == Pair("Read one.", OURS["code"], "n", "io", "7", 3, "python")


def test_codesearchnet_row_loses_the_docstring_in_its_code(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path / "x.jsonl.gz", CODESEARCHNET), progress=False)
    code = "def read(self):\n        return 1"
    assert pairs == [Pair("Read the lines.", code, "read", "owner/name", "src/io.py", 12, "python")]
    assert pairs.partitions == {pairs[0]: "test"}


@pytest.mark.parametrize("doc", ['"""Read the lines."""', "'Read the lines.'", 'r"Other words."'])
def test_python_2_loses_its_docstring_too(tmp_path: Path, doc: str) -> None:
    old = {**CODESEARCHNET, "code": f"def read():\n    {doc}\n    print 1"}
    old["code_tokens"] = ["def", "read", doc, "print", "1"]
    pairs = read(write(tmp_path / "x.jsonl", old))
    assert [each.code for each in pairs] == ["def read():\n    print 1"]


@pytest.mark.parametrize(
    ("language", "code", "bare"),
    [
        ("python", 'class A:\n    "Read the lines."\n    x = 1', "class A:\n    x = 1"),
        ("java", "/** Read the lines. */\nint f() { return 1; }", "int f() { return 1; }"),
    ],
)
def test_a_row_of_a_docstring_is_cut_like_our_own(
    tmp_path: Path, language: str, code: str, bare: str
) -> None:
    row = {"docstring": "Read the lines.", "code": code, "language": language}
    assert [each.code for each in read(write(tmp_path / "x.jsonl", row))] == [bare]


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


BARE = "def f():\n    return 1"
# A query with its code; none of them says the docstring as it stands there.
DOCUMENTED = [
    ("Read the lines.", 'def f():\n    """Read the lines."""\n    return 1'),
    ("Read the lines.", "def f():\n    'Read the lines.'\n    return 1"),
    ("Read the lines .", 'def f():\n    r"""Read the lines."""\n    return 1'),
    ("read the lines", 'def f():\n    u"Read the `lines`."\n    return 1'),
    ('Read the "lines".', 'def f():\n    "Read the \\"lines\\"."\n    return 1'),
    ("Something else entirely.", "# Read\n# the lines.\ndef f():\n    return 1"),
]


@pytest.mark.parametrize("language", [None, "python", "Python3", "py", "python 2.7"])
@pytest.mark.parametrize(("query", "code"), DOCUMENTED)
def test_own_python_row_loses_its_documentation_whatever_the_query(
    tmp_path: Path, query: str, code: str, language: str | None
) -> None:
    row = {"query": query, "code": code, "language": language}
    (pair,) = read(write(tmp_path / "x.jsonl", row))
    assert (pair.code, pair.language) == (BARE, "python")


def test_own_row_of_python_2_or_a_class_loses_its_docstrings(tmp_path: Path) -> None:
    old = {"query": "Print it.", "code": "def f():\n    'Print it now.'\n    print 1"}
    held = {"query": "A thing.", "code": 'class A:\n    "A thing."\n    x = 1'}
    codes = [each.code for each in read(write(tmp_path / "x.jsonl", old, held))]
    assert codes == ["def f():\n    print 1", "class A:\n    x = 1"]


@pytest.mark.parametrize(
    ("language", "front", "code"),
    [
        ("golang", "// Read reads.\n", "func Read() int { return 1 }"),
        ("Java", "/** Reads. */\n", "int read() { return 1; }"),
        ("js", "/* Reads. */ ", "function read() { return 1; }"),
        ("php", "# Reads.\n", "function read() { return 1; }"),
        ("rb", "# Reads.\n", "def read\n  1\nend"),
    ],
)
def test_own_row_of_another_language_loses_the_comment_in_front(
    tmp_path: Path, language: str, front: str, code: str
) -> None:
    row = {"query": "Reads all the lines.", "code": front + code, "language": language}
    assert [each.code for each in read(write(tmp_path / "x.jsonl", row))] == [code]


def test_a_query_that_still_stands_in_the_code_is_counted_and_told_once(tmp_path: Path) -> None:
    leak = {"query": "Read the `lines`.", "code": "x = 1  # read the lines"}
    path = write(tmp_path / "x.jsonl", leak, {**leak, "code": "read the lines now"}, OURS)
    with pytest.warns(UserWarning, match="word for word in the code of 2 of 3 rows") as told:
        pairs = read_pairs(path, progress=False)
    assert len(told) == 1
    assert (len(pairs), pairs.report["query_in_code"]) == (3, 2)


def test_a_language_that_is_not_read_is_kept_and_told(tmp_path: Path) -> None:
    row = {**OURS, "code": "/// Reads.\nfn read() {}", "language": "Rust"}
    with pytest.warns(UserWarning, match=r"not cut out of the code of rows in rust \(1\)"):
        (pair,) = read(write(tmp_path / "x.jsonl", row))
    assert (pair.language, pair.code) == ("rust", row["code"])


def test_rows_read_as_python_for_want_of_a_language_are_counted(tmp_path: Path) -> None:
    told = {**OURS, "query": "Read it so.", "language": "python"}
    by_path = {**OURS, "query": "Read it here.", "path": "a.py"}
    pairs = read_pairs(write(tmp_path / "x.jsonl", OURS, told, by_path), progress=False)
    assert pairs.report["python_by_default"] == 1


def test_comments_alone_are_no_code(tmp_path: Path) -> None:
    row = {"query": "Read the lines.", "code": "// Reads them.", "language": "java"}
    pairs = read_pairs(write(tmp_path / "x.jsonl", row), progress=False)
    assert (pairs, pairs.report["dropped"]) == ([], {"no code": 1})


def numbered(*numbers: int) -> list[dict[str, object]]:
    return [{**OURS, "query": f"Read the line {n}.", "line": n} for n in numbers]


def test_a_row_of_two_partitions_is_the_last_ones_alone(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", *numbered(1, 2, 3, 4, 5, 5))
    write(tmp_path / "dev.jsonl", *numbered(3, 4, 6))
    write(tmp_path / "test.jsonl", *numbered(4, 5, 7), {**numbered(6)[0], "path": "b.py"})
    pairs = read_pairs(tmp_path, progress=False)
    found = {name: "" for name in ("train", "valid", "test")}
    for pair, part in pairs.partitions.items():
        found[part] += pair.query[-2]
    assert {part: "".join(sorted(each)) for part, each in found.items()} == {
        "train": "12",
        "valid": "3",
        "test": "4567",
    }
    assert len(pairs) == 7
    assert pairs.report["repeated"] == {
        "rows of train that test holds too": 3,  # 4 and twice 5
        "rows of train that valid holds too": 1,
        "rows of valid that test holds too": 2,
    }
    assert pairs.report["dropped"] == pairs.report["repeated"]
    split = split_by_package(pairs)
    assert split.summary["dropped"] == pairs.report["repeated"]
    assert split.summary["pairs"] == 13
    assert not set(split.train) & {*split.valid, *split.test}


def test_a_row_repeated_in_one_partition_stands_once(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {**OURS, "package": "z"}, OURS, {**OURS, "package": "k"})
    pairs = read_pairs(path, progress=False)
    assert [each.package for each in pairs] == ["io"]  # the least, whatever the order
    assert pairs.report["dropped"] == {"exact duplicates": 2}


def test_folder_of_files_gives_partitions_by_name(tmp_path: Path) -> None:
    for name in ("train/ruby_train_0.jsonl.gz", "dev.jsonl", "final/test/part_1.jsonl.gz"):
        write(tmp_path / name, {**OURS, "query": f"Read {name} whole."})
    write(tmp_path / "codebase.jsonl", {**OURS, "query": "never read this"})
    pairs = read_pairs(tmp_path, progress=False)
    assert sorted(pairs.partitions.values()) == ["test", "train", "valid"]
    assert len(pairs) == 3


@pytest.mark.parametrize("name", ["eval", "evaluation", "my_eval.1", "val", "validation", "dev"])
def test_validation_has_many_names(tmp_path: Path, name: str) -> None:
    (pair,) = pairs = read_pairs(write(tmp_path / f"{name}.jsonl", OURS), progress=False)
    assert pairs.partitions == {pair: "valid"}
    row = {**OURS, "partition": "Evaluation"}
    (pair,) = pairs = read_pairs(write(tmp_path / f"{name}.jsonl", row), progress=False)
    assert pairs.partitions == {pair: "valid"}


@pytest.mark.parametrize("name", ["extra.jsonl", "zoo.jsonl"])
def test_a_file_of_no_partition_beside_others_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "train.jsonl", *numbered(1))
    write(tmp_path / name, *numbered(2))
    message = rf"{name}: its name or its rows must say .* train.jsonl do, by one of train, .*test"
    with pytest.raises(ValueError, match=message):
        read(tmp_path)
    write(tmp_path / name, *({**row, "partition": "test"} for row in numbered(2)))
    assert len(read(tmp_path)) == 2
    (tmp_path / "train.jsonl").rename(tmp_path / "other.jsonl")
    write(tmp_path / name, *numbered(2))
    assert len(read(tmp_path)) == 2  # none says one


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


def test_data_files_of_a_folder_of_source_count_if_they_hold_pairs(tmp_path: Path) -> None:
    function = 'def f(x):\n    """Return the sum of it."""\n    y = 1\n    y += x\n    return y\n'
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "m.py").write_text(function)
    write(tmp_path / "events.jsonl", {"event": 1}, [OURS])
    write(tmp_path / "broken.jsonl.gz", OURS).write_bytes(b"\x1f\x8b broken")
    write(tmp_path / "src" / "fixture.jsonl", OURS)
    assert [each.name for each in read(tmp_path)] == ["f"]
    for rows in ([OURS], ["{", CODESEARCHNET], [HUGGING_FACE]):
        write(tmp_path / "train.jsonl", *rows)
        write(tmp_path / "src" / "fixture.jsonl", {"event": 1})
        if rows[0] == "{":
            with pytest.raises(ValueError, match=r"train\.jsonl:1:"):
                read(tmp_path)
        else:
            assert [each.name for each in read(tmp_path)] == ["read"]
    (tmp_path / "src" / "m.py").unlink()
    with pytest.raises(ValueError, match=r"broken\.jsonl\.gz"):
        read(tmp_path)
    (tmp_path / "broken.jsonl.gz").unlink()
    with pytest.raises(ValueError, match=r"events\.jsonl:1: must have 'query', got 'event'"):
        read(tmp_path)


def test_language_chooses_among_the_rows_of_a_file(tmp_path: Path) -> None:
    go = {**OURS, "query": "Read one.", "language": "go"}
    path = write(tmp_path / "x.jsonl", {**OURS, "partition": "train"}, go)
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
    (
        {**CODESEARCHNET, "docstring_tokens": ["a", 3]},
        ":1: 'docstring_tokens' must be a list of strings, got a number at place 2 of it",
    ),
    ({**CODESEARCHNET, "url": 5}, ":1: 'url' must be a string, got a number"),
    ({**OURS, "partition": "tset"}, ":1: 'partition' must be one of train, training, valid, "),
    ({**HUGGING_FACE, "split_name": "Tset"}, "dev, eval, evaluation, test, got 'tset'"),
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
    rows = numbered(*range(200))
    path = write(tmp_path / "bad.jsonl", *rows[:150], "{", *rows[150:199])
    pairs = read_pairs(path, on_bad_line="skip", progress=False)
    assert (len(pairs), pairs.report["lines"], pairs.report["bad_lines"]) == (199, 200, 1)
    assert pairs.report["bad_examples"][0].startswith(f"{path}:151:")
    with pytest.raises(ValueError, match=":151:2: not JSON"):
        read(path)
    write(path, *rows[:150], "{", *rows[150:197], "{", "{")
    with pytest.raises(
        ValueError, match=r"3 of 200 lines are bad, more than 1%; the first: .*:151"
    ):
        read(path, on_bad_line="skip")


def test_giant_line_is_one_bad_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softnce_ext.data.formats.MAX_LINE_BYTES", 1000)
    rows = numbered(*range(160))
    path = write(tmp_path / "x.jsonl", *rows[:150], "x" * 5000, *rows[150:])
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
