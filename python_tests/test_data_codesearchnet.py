import gzip
import itertools
import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from codesearchnet_dumps import (
    COLUMNS,
    COUNTS,
    json_lines,
    record,
    records,
    urls,
    write_folder,
    write_lists,
    write_parquet,
    write_zip,
)

from softnce_ext.data.codesearchnet import Dump, prepare_language
from softnce_ext.data.codesearchnet_folder import FILES, TABLE_6
from softnce_ext.data.codesearchnet_language import joined_pairs
from softnce_ext.data.codesearchnet_read import read_prepared, read_retrieval
from softnce_ext.data.codesearchnet_rows import prepared_row
from softnce_ext.data.docstrings import cut_docstring
from softnce_ext.data.formats import read_pairs
from softnce_ext.data.pairs import Pair
from softnce_ext.data.rows import BadRow

PAPER = dict(TABLE_6)
FIELDS = ["name", "package", "path", "line", "language", "url"]


@pytest.fixture(autouse=True)
def small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for language in TABLE_6:
        monkeypatch.setitem(TABLE_6, language, COUNTS)


def prepare(source: Path | list[Path], language: str, output: Path, **options: Any) -> Any:
    sources = source if isinstance(source, list) else [source]
    return prepare_language(Dump(sources), language, output, progress=False, **options)


def rows(output: Path, language: str, name: str) -> list[dict[str, Any]]:
    with gzip.open(output / language / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


WHOLE = sorted([*(f"{name}.jsonl.gz" for name in FILES), "prepared.json"])


@pytest.mark.parametrize("make", [write_zip, write_folder, write_parquet])
@pytest.mark.parametrize("language", ["python", "ruby"])
def test_four_files_hold_the_listed_records_in_list_order(
    tmp_path: Path, language: str, make: Any
) -> None:
    if make is write_parquet:
        pytest.importorskip("pyarrow")
    lists = write_lists(tmp_path / "lists", language)
    source, output = make(tmp_path, language), tmp_path / "out"
    report = prepare(source, language, output, lists=lists)
    assert report["complete"] and report["filter"] == "lists"
    assert [report["files"][name]["state"] for name in FILES] == ["complete"] * 4
    assert files_in(output / language) == WHOLE
    wanted = urls(language)
    for name in ("train", "valid", "test"):
        assert [row["url"] for row in rows(output, language, name)] == wanted[name]
    # The pool of the code base is valid and test, whole: no URL of train, none from elsewhere.
    code_base = [row["url"] for row in rows(output, language, "codebase")]
    assert code_base == [url for url in wanted["codebase"] if "train" not in url][:-1]
    assert report["files"]["codebase"]["missing"] == 2
    (first, *_) = rows(output, language, "train")
    row = record(language, "train", 4)
    assert list(first) == ["query", "code", "tokens", *FIELDS]
    assert first["query"] == "Return the train sum number 4 of ä list ."
    assert first["tokens"] == " ".join(row["code_tokens"])
    assert first["name"] == "add_4" and first["line"] == 41 and first["package"] == "owner/name"
    if language == "python":
        assert first["code"] == "def add_4(a):\n    return sum(a) + 4  # fast"
    else:
        assert first["code"] == row["original_string"]
    assert list(rows(output, language, "test")[0]) == ["query", *FIELDS]
    assert list(rows(output, language, "codebase")[0]) == ["code", "tokens", *FIELDS]


def test_no_prepared_code_holds_its_documentation(tmp_path: Path) -> None:
    output = tmp_path / "out"
    lists = write_lists(tmp_path / "lists", "python")
    prepare(write_zip(tmp_path, "python"), "python", output, lists=lists)
    for name in ("train", "codebase"):
        for row in rows(output, "python", name):
            assert "sum number" not in row["code"] + row["tokens"]


def test_every_kind_of_source_and_list_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    lists = write_lists(tmp_path / "lists", "python", "ruby")
    with zipfile.ZipFile(tmp_path / "dataset.zip", "w") as archive:
        for path in sorted(lists.rglob("*.txt")):
            archive.write(path, f"dataset/{path.relative_to(lists)}")
    flat = tmp_path / "flat"
    flat.mkdir()
    for name, each in urls("ruby").items():
        data = "\r\n".join(each).encode()
        (flat / f"ruby.{name}.txt.gz").write_bytes(gzip.compress(data))
    zips = tmp_path / "zips"
    zips.mkdir()
    write_zip(zips, "ruby")
    write_zip(zips, "python")
    mixed = tmp_path / "mixed.jsonl"  # of two languages and all partitions, told by the rows alone
    everything = [
        each
        for language in ("python", "ruby")
        for partition in ("train", "valid", "test")
        for each in records(language, partition)
    ]
    mixed.write_bytes(gzip.decompress(json_lines(everything)))
    sources = {
        "zip": (zips / "ruby.zip", lists),
        "folder of zips": (zips, tmp_path / "dataset.zip"),
        "folder": (write_folder(tmp_path / "unpacked", "ruby"), flat),
        "inner folder": (tmp_path / "unpacked" / "ruby" / "final" / "jsonl", flat),
        "parquet": (write_parquet(tmp_path / "hub", "ruby"), lists),
        "one file": (mixed, lists),
    }
    made = {}
    for name, (source, each) in sources.items():
        output = tmp_path / "out" / name.replace(" ", "_")
        assert prepare(source, "ruby", output, lists=each)["complete"], name
        made[name] = [(output / "ruby" / f"{file}.jsonl.gz").read_bytes() for file in FILES]
    assert all(each == made["zip"] for each in made.values())
    assert Dump([mixed]).languages() == ["ruby", "python"] == Dump([zips]).languages()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"/", rb"\/"),
        (b'"url": "', b'"url" :  "'),
        (b'"url": "https', b'"url":"https'),
        (b'"partition"', b'"repo_url": "https://example.org", "partition"'),
        (b'"sha": "abc"', rb'"sha": "\"url\": \"https://example.org\""'),
    ],
)
def test_records_are_found_however_their_json_is_written(
    tmp_path: Path, before: bytes, after: bytes
) -> None:
    lists, source = write_lists(tmp_path / "lists", "ruby"), write_folder(tmp_path, "ruby")
    for path in source.rglob("*.jsonl.gz"):
        lines = gzip.decompress(path.read_bytes())
        assert before in lines
        path.write_bytes(gzip.compress(lines.replace(before, after)))
    assert prepare(source, "ruby", tmp_path / "out", lists=lists)["complete"]


def test_archive_beside_its_unpacked_copy_is_read_once(tmp_path: Path) -> None:
    source = tmp_path / "both"
    write_folder(source, "ruby")
    write_zip(source, "ruby")
    lists = write_lists(tmp_path / "lists", "ruby")
    # What was prepared into the source folder before is no source.
    for _ in range(2):
        report = prepare(source, "ruby", source / "prepared", lists=lists)
        assert report["complete"]
        assert all(not each["left_out"] for each in report["files"].values())


def test_missing_urls_are_counted_and_named_and_nothing_is_written(tmp_path: Path) -> None:
    source, output = write_folder(tmp_path, "ruby"), tmp_path / "out"
    for path in source.rglob("ruby_test_0.jsonl.gz"):
        path.unlink()
    lists = write_lists(tmp_path / "lists", "ruby")
    report = prepare(source, "ruby", output, lists=lists)
    states = {name: each["state"] for name, each in report["files"].items()}
    assert states == {
        "train": "complete", "valid": "complete", "test": "not written", "codebase": "not written"
    }  # fmt: skip
    assert not report["complete"]
    test = report["files"]["test"]
    assert (test["rows"], test["expected"], test["missing"]) == (1, 3, 2)
    assert test["missing_examples"] == urls("ruby")["test"][1:]
    assert files_in(output / "ruby") == ["prepared.json", "train.jsonl.gz", "valid.jsonl.gz"]
    allowed = prepare(source, "ruby", output, lists=lists, allow_missing=True)
    assert [allowed["files"][name]["kept"] for name in FILES] == [True, True, False, False]
    assert allowed["files"]["test"]["state"] == "incomplete" and not allowed["complete"]
    assert files_in(output / "ruby") == WHOLE
    # Without the flag they are not taken for whole.
    again = prepare(source, "ruby", output, lists=lists)
    assert {name: each["state"] for name, each in again["files"].items()} == states
    assert files_in(output / "ruby") == ["prepared.json", "train.jsonl.gz", "valid.jsonl.gz"]
    prepare(source, "ruby", output, lists=lists, allow_missing=True)
    kept = prepare(source, "ruby", output, lists=lists, allow_missing=True)
    assert all(each["kept"] for each in kept["files"].values())
    # A whole dump mends it, and the incomplete files do not stay.
    mended = prepare(write_zip(tmp_path, "ruby"), "ruby", output, lists=lists)
    assert mended["complete"] and not any(each["kept"] for each in mended["files"].values())


def test_without_lists_the_filter_is_not_invented(tmp_path: Path) -> None:
    source, output = write_zip(tmp_path, "ruby"), tmp_path / "out"
    with pytest.raises(ValueError, match="cannot be derived again.*--no-filter"):
        prepare(source, "ruby", output)
    assert not output.exists()
    report = prepare(source, "ruby", output, use_filter=False)
    assert report["filter"] == "none" and report["complete"]
    assert {name: each["rows"] for name, each in report["files"].items()} == {
        "train": 6, "valid": 4, "test": 4, "codebase": 8
    }  # fmt: skip
    assert {each["state"] for each in report["files"].values()} == {"unfiltered"}
    with pytest.raises(ValueError, match="lists .* must not be given without the filter"):
        prepare(source, "ruby", output, use_filter=False, lists=tmp_path)


def test_dump_that_is_filtered_already_is_taken_as_given(tmp_path: Path) -> None:
    """The form that CoCoSoDa's script leaves: texts that are not used are blanked."""
    source, output = tmp_path / "dataset" / "ruby", tmp_path / "out"
    source.mkdir(parents=True)
    by_url = {
        row["url"]: row for name in ("train", "valid", "test") for row in records("ruby", name)
    }
    for name, each in urls("ruby").items():
        found = [dict(by_url[url]) for url in each if url in by_url]
        if name == "codebase":
            found = [row for row in found if row["partition"] != "train"]
        blank = {
            "train": {},
            "codebase": {"docstring": "", "docstring_tokens": ""},
        }.get(name, {"code": "", "original_string": "", "code_tokens": ""})
        (source / f"{name}.jsonl").write_bytes(
            gzip.decompress(json_lines([{**row, **blank} for row in found]))
        )
    report = prepare(tmp_path / "dataset", "ruby", output)
    assert report["filter"] == "given" and report["complete"]
    lists = write_lists(tmp_path / "lists", "ruby")
    prepare(write_zip(tmp_path, "ruby"), "ruby", tmp_path / "listed", lists=lists)
    for name in FILES:
        assert rows(output, "ruby", name) == rows(tmp_path / "listed", "ruby", name)


def test_rerun_keeps_what_is_whole_and_makes_what_is_not(tmp_path: Path) -> None:
    source, output = write_zip(tmp_path, "ruby"), tmp_path / "out"
    lists = write_lists(tmp_path / "lists", "ruby")
    prepare(source, "ruby", output, lists=lists)
    folder = output / "ruby"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = prepare(source, "ruby", output, lists=lists)
    assert all(each["kept"] for each in again["files"].values())
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    data = bytearray(before["test.jsonl.gz"])
    data[-9] ^= 1  # of the same size
    (folder / "test.jsonl.gz").write_bytes(data)
    (folder / "valid.jsonl.gz").unlink()
    # What a killed run leaves: its process is gone.
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    (folder / f".train.jsonl.gz.{gone}.part").write_bytes(b"half")
    mended = prepare(source, "ruby", output, lists=lists)
    assert [mended["files"][name]["kept"] for name in FILES] == [True, False, False, True]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    # Other lists make all of it anew.
    path = lists / "ruby" / "train.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    changed = prepare(source, "ruby", output, lists=lists)
    assert not any(each["kept"] for each in changed["files"].values())
    assert [row["line"] for row in rows(output, "ruby", "train")] == [1, 11, 21, 31, 41]


def test_files_that_were_not_made_here_are_not_replaced(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "lists", "ruby")
    folder = tmp_path / "out" / "ruby"
    folder.mkdir(parents=True)
    (folder / "train.jsonl.gz").write_bytes(b"mine")
    with pytest.raises(ValueError, match="holds train.jsonl.gz but no prepared.json"):
        prepare(write_zip(tmp_path, "ruby"), "ruby", tmp_path / "out", lists=lists)
    assert files_in(folder) == ["train.jsonl.gz"]


@pytest.mark.parametrize("failing", range(1, 7))
def test_full_disk_leaves_whole_files_alone_and_a_rerun_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    source, output = write_zip(tmp_path, "ruby"), tmp_path / "out"
    lists = write_lists(tmp_path / "lists", "ruby")
    real = os.fsync
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"\.jsonl\.gz: not written: No space left on device; files"):
        prepare(source, "ruby", output, lists=lists)
    left = files_in(output)
    assert not any(name.endswith(".part") for name in left)
    for name in left:
        if name.endswith(".gz"):
            assert gzip.decompress((output / name).read_bytes())
    if failing <= 2:
        assert left == []
    report = prepare(source, "ruby", output, lists=lists)
    assert report["complete"] and files_in(output / "ruby") == WHOLE
    assert report["files"]["train"]["kept"] == (failing > 3)


def test_real_full_disk(tmp_path: Path) -> None:
    """A file size limit stands for a quota: the kernel's own error on a write half done."""
    import resource
    import signal

    source, output = write_zip(tmp_path, "ruby"), tmp_path / "out"
    lists = write_lists(tmp_path / "lists", "ruby")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limit[1]))
    try:
        with pytest.raises(OSError, match="not written: File too large"):
            prepare(source, "ruby", output, lists=lists)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert files_in(output) == []
    assert prepare(source, "ruby", output, lists=lists)["complete"]


def test_cut_and_broken_archives_are_named_with_their_member(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "lists", "ruby")
    path = write_zip(tmp_path, "ruby")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"ruby\.zip: not a whole zip file, cut off perhaps"):
        Dump([path])
    with zipfile.ZipFile(tmp_path / "stored.zip", "w") as archive:
        data = json_lines(records("ruby", "train"))
        archive.writestr("ruby/final/jsonl/train/ruby_train_0.jsonl.gz", data[:-20])
        archive.writestr("ruby/final/jsonl/test/ruby_test_0.jsonl.gz", data)
    with pytest.raises(
        ValueError,
        match=r"stored\.zip:ruby/.*/ruby_train_0\.jsonl\.gz: the gzip file is cut off after line",
    ):
        prepare(tmp_path / "stored.zip", "ruby", tmp_path / "out", lists=lists)
    # A bit of the member flipped: the zip's own checksum, or gzip's, tells.
    for place in (200, 300, 400):
        data = bytearray(whole)
        data[place] ^= 0xFF
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"ruby\.zip:ruby/final/jsonl/"):
            prepare(path, "ruby", tmp_path / "out", lists=lists)
    assert not (tmp_path / "out").exists()


def broken(tmp_path: Path, line: bytes, name: str = "ruby/train.jsonl") -> Path:
    path = tmp_path / "dump" / name
    path.parent.mkdir(parents=True)
    good = gzip.decompress(json_lines(records("ruby", "train")))
    path.write_bytes(good + line + b"\n")
    return tmp_path / "dump"


def changed(**fields: Any) -> bytes:
    return json.dumps({**record("ruby", "train", 5), **fields}).encode()


BAD = [
    (b'{"repo": 7', r"train.jsonl:7:11: not JSON: Expecting ',' delimiter"),
    (b"\xff", r"train.jsonl:7:1: byte 0xff is not UTF-8"),
    (b"[1]", r"train.jsonl:7: must be a JSON object, got a list"),
    (b"{}", r"train.jsonl:7: must have 'url', a string, got none"),
    (b'{"url": 5}', r"train.jsonl:7: 'url' must be a string, got a number"),
    (
        changed(url=urls("ruby")["train"][0], language="go"),
        r"train.jsonl:7: 'language' must be 'ruby', as its path says, got 'go'",
    ),
    (
        changed(url=urls("ruby")["train"][0], partition="test"),
        r"train.jsonl:7: 'partition' must be 'train', as its path says, got 'test'",
    ),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_records_are_named_by_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    lists = write_lists(tmp_path / "lists", "ruby")
    with pytest.raises(ValueError, match=message):
        prepare(broken(tmp_path, line), "ruby", tmp_path / "out", lists=lists)
    assert not (tmp_path / "out").exists()


def test_file_of_another_language_is_told_by_its_first_record(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "lists", "go")
    path = tmp_path / "go" / "train.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(json_lines(records("ruby", "train")))
    with pytest.raises(ValueError, match=r":1: 'language' must be 'go', as its path says"):
        prepare(path.parent, "go", tmp_path / "out", lists=lists)
    with pytest.raises(ValueError, match="language java must be in the dump"):
        prepare(path.parent, "java", tmp_path / "out", lists=lists)
    with pytest.raises(ValueError, match="language must be one of ruby, .* got 'rust'"):
        prepare(path.parent, "rust", tmp_path / "out", lists=lists)


def test_of_two_records_with_one_url_the_first_is_kept_and_the_other_counted(
    tmp_path: Path,
) -> None:
    lists = write_lists(tmp_path / "lists", "ruby")
    source = write_folder(tmp_path, "ruby")
    again = {**record("ruby", "train", 1), "docstring_tokens": ["other"]}
    path = source / "final" / "jsonl" / "train" / "ruby_train_9.jsonl.gz"
    path.write_bytes(json_lines([again]))
    report = prepare(source, "ruby", tmp_path / "out", lists=lists)
    assert report["complete"]
    assert report["files"]["train"]["left_out"] == {"duplicate URL": 1}
    assert all(row["query"] != "other" for row in rows(tmp_path / "out", "ruby", "train"))
    whole = prepare(source, "ruby", tmp_path / "whole", use_filter=False)
    assert whole["files"]["train"]["left_out"] == {"duplicate URL": 1}


def test_a_byte_order_mark_is_no_part_of_a_lists_first_url(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "lists", "ruby")
    for path in (lists / "ruby").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    report = prepare(write_zip(tmp_path, "ruby"), "ruby", tmp_path / "out", lists=lists)
    assert report["complete"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.txt", "a\nb\n\na\n", r"train\.txt:4: a list .* once, got a again after line 1"),
        ("valid.txt", "\n", r"valid\.txt: the list is empty"),
        ("test.txt", None, r"there is no list ruby/test\.txt"),
        ("test.valid.txt", "a\n", r"two valid lists for ruby: .*test\.valid\.txt and .*valid\.txt"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_used_are_named(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    lists = write_lists(tmp_path / "lists", "ruby")
    path = lists / "ruby" / name
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        prepare(write_zip(tmp_path, "ruby"), "ruby", tmp_path / "out", lists=lists)


def test_sources_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such file or folder"):
        Dump([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"there is no \.jsonl, \.jsonl\.gz or \.parquet file"):
        Dump([tmp_path])
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such file or folder"):
        prepare(write_zip(tmp_path, "ruby"), "ruby", tmp_path / "out", lists=tmp_path / "nowhere")
    pytest.importorskip("pyarrow")
    folder = write_parquet(tmp_path / "hub", "ruby")
    path = folder / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    lists = write_lists(tmp_path / "lists", "ruby")
    with pytest.raises(ValueError, match=r"test-00000-of-00001\.parquet: broken after row 0"):
        prepare(folder, "ruby", tmp_path / "out", lists=lists)


DOCSTRINGS = [
    ('def f(a):\n    """Doc."""\n    return a', "def f(a):\n    return a"),
    ("def f(a):\n    'Doc.'\n    return a", "def f(a):\n    return a"),
    (
        'def f(a):\n\n    # why\n    r"""Doc\n    more ":" \\""" """\n    print a',
        "def f(a):\n\n    # why\n    print a",
    ),
    (
        'def f(a={"b": lambda: 1}) -> Dict[str, int]:\n    """Doc."""\n    return a',
        'def f(a={"b": lambda: 1}) -> Dict[str, int]:\n    return a',
    ),
    ('async def f(): "Doc."; return 1', "async def f(): return 1"),
    ('def f():\n    """Doc."""', "def f():"),
    ('def f():\n    "one" \\\n    "two"\n    pass', "def f():\n    pass"),
    ('def f():\n    "%s" % f()\n    pass', 'def f():\n    "%s" % f()\n    pass'),
    ('def f():\n    "a".join(b)', 'def f():\n    "a".join(b)'),
    ('def f():\n    x = """no docstring"""', 'def f():\n    x = """no docstring"""'),
    ('def f():\r\n    """Doc."""\r\n    return 1', "def f():\r\n    return 1"),
    (
        '@g("a:b")\ndef f():  # say: hi\n    """Doc."""# noqa\n    return 1',
        '@g("a:b")\ndef f():  # say: hi\n    # noqa\n    return 1',
    ),
    ('def f():\n    """never closed\n    return 1', 'def f():\n    """never closed\n    return 1'),
    ("", ""),
    ("x = 1", "x = 1"),
]


@pytest.mark.parametrize(("source", "cut"), DOCSTRINGS)
def test_docstring_is_cut_out_whatever_the_python(source: str, cut: str) -> None:
    assert cut_docstring(source) == cut


def test_docstring_among_the_tokens_is_left_out() -> None:
    row = record("python", "train", 1)
    doc = '"""Return the train sum number 1\n   of ä list.\n\n More."""'
    row["code_tokens"] = ["def", "f", ":", doc, "'name'", '"""SELECT 1"""', "'train sum'"]
    assert prepared_row(row, "python", "train")["tokens"] == (
        'def f : \'name\' """SELECT 1""" \'train sum\''
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"original_string": None, "code": None}, "'original_string' must be a string, got null"),
        ({"original_string": 7}, "'original_string' must be a string, got a number"),
        ({"code_tokens": "a b"}, "'code_tokens' must be a list of strings, got a string"),
        ({"docstring_tokens": ["a", 3]}, "must be a list of strings, got a number at place 2 of"),
        ({"docstring_tokens": None}, "'docstring_tokens' must be a list of strings, got null"),
    ],
)
def test_fields_that_do_not_fit_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRow, match=message):
        prepared_row({**record("ruby", "train", 1), **fields}, "ruby", "train")


def test_a_field_that_is_missing_is_named_beside_those_there() -> None:
    row = record("ruby", "train", 1)
    del row["docstring_tokens"]
    with pytest.raises(BadRow, match="must have 'docstring_tokens', got 'code', "):
        prepared_row(row, "ruby", "train")


def test_text_that_no_file_can_hold_is_replaced() -> None:
    row = {**record("ruby", "train", 1), "original_string": "a\0b \ud800 \U0001f600 ä"}
    assert prepared_row(row, "ruby", "train")["code"] == "a\ufffdb \ufffd \U0001f600 ä"


def test_prepared_files_are_read_as_pairs_and_as_queries_against_the_code_base(
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    lists = write_lists(tmp_path / "lists", "python", "ruby")
    for language in ("python", "ruby"):
        prepare(write_zip(tmp_path, language), language, output, lists=lists)
    pairs = read_pairs(output / "python", progress=False)
    assert pairs.report["partitions"] == {"train": 5, "valid": 3, "test": 3}
    assert list(pairs.partitions.values()) == ["train"] * 5 + ["valid"] * 3 + ["test"] * 3
    last = pairs[-1]
    assert last.query == "Return the test sum number 0 of ä list ."
    assert last.code == "def add_0(a):\n    return sum(a) + 0  # fast"
    place = (last.name, last.package, last.path, last.line)
    assert place == ("add_0", "owner/name", "lib/test.py", 1)
    assert len(read_pairs(output, progress=False)) == 22  # both languages
    train = read_pairs(output / "ruby" / "train.jsonl.gz", progress=False)
    assert list(train.partitions.values()) == ["train"] * 5
    tokens = read_prepared(output / "python", ["train"], form="tokens")
    assert tokens[0].code == "def add_4 ( a ) : return sum ( a ) + 4"

    asked = read_retrieval(output / "python", "test")
    assert asked.query_urls == urls("python")["test"]
    assert asked.target.dtype == np.int64 and asked.target.tolist() == [4, 0, 5]
    assert [asked.code_urls[i] for i in asked.target] == asked.query_urls
    assert len(asked.codes) == len(asked.names) == COUNTS[3]
    assert asked.packages == ["owner/name"] * 3
    assert asked.codes[0] == "def add_1(a):\n    return sum(a) + 1  # fast"
    by_tokens = read_retrieval(output / "python", "valid", form="tokens")
    assert by_tokens.codes[0] == "def add_1 ( a ) : return sum ( a ) + 1"
    assert by_tokens.target.tolist() == [1, 2, 3]


def test_what_is_ranked_is_not_trained_on_where_lists_overlap(tmp_path: Path) -> None:
    def language() -> Any:
        pairs = {word: Pair(f"Add {word} to it", f"it + {word}") for word in "abcd"}
        held = {"train": "aabc", "valid": "bd", "test": "cd"}
        return SimpleNamespace(
            each_pair=lambda parts: ((part, pairs[word]) for part in parts for word in held[part])
        )

    for order in itertools.permutations(("train", "valid", "test")):
        pairs = joined_pairs([language()], order)
        held = {(pair.code[-1], pairs.partitions[pair]) for pair in pairs}
        assert held == {("a", "train"), ("b", "valid"), ("c", "test"), ("d", "test")}
        assert len(pairs) == 5  # "a" is trained on twice, as listed
        assert pairs.report["lines"] == 8
        assert pairs.report["repeated"] == pairs.report["dropped"]
        assert pairs.report["repeated"] == {
            f"rows of {weak} that {strong} holds too": 1
            for weak, strong in (("train", "valid"), ("train", "test"), ("valid", "test"))
        }


def test_readers_refuse_what_is_not_as_prepared(tmp_path: Path) -> None:
    output = tmp_path / "out"
    lists = write_lists(tmp_path / "lists", "ruby")
    with pytest.raises(FileNotFoundError, match="there is no prepared.json; `softnce prepare csn`"):
        read_retrieval(output)
    prepare(write_zip(tmp_path, "ruby"), "ruby", output, lists=lists)
    folder = output / "ruby"
    with pytest.raises(FileNotFoundError, match="it holds ruby: name one of them"):
        read_retrieval(output)
    with pytest.raises(ValueError, match="partition must be one of valid, test, got 'train'"):
        read_retrieval(folder, "train")
    with pytest.raises(ValueError, match="form must be one of source, tokens, got 'ast'"):
        read_prepared(folder, form="ast")  # type: ignore[arg-type]
    path = folder / "codebase.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(lines[:-1])))
    with pytest.raises(ValueError, match="must have 7 rows, as prepared.json says, got 6"):
        read_retrieval(folder)
    path.write_bytes(gzip.compress(b"".join([*lines[:-1], lines[0]])))
    with pytest.raises(ValueError, match="1 URLs are in the code base twice"):
        read_retrieval(folder)
    path.write_bytes(gzip.compress(b"".join([*lines[1:], lines[1].replace(b"#L", b"#M")])))
    with pytest.raises(ValueError, match="1 of 3 test queries have no code .* first is https"):
        read_retrieval(folder)
    assert read_pairs(folder, progress=False).report["dropped"] == {"no code in the code base": 1}
    manifest = json.loads((folder / "prepared.json").read_text())
    del manifest["files"]["codebase"]
    (folder / "prepared.json").write_text(json.dumps(manifest))
    with pytest.raises(FileNotFoundError, match=r"codebase\.jsonl\.gz: was not prepared"):
        read_retrieval(folder)
    (folder / "prepared.json").write_text("{}")
    with pytest.raises(ValueError, match="not a manifest that can be read"):
        read_retrieval(folder)


def test_hugging_face_columns_name_the_same_fields() -> None:
    row = record("python", "train", 3)
    hub = {COLUMNS[key]: value for key, value in row.items() if key in COLUMNS}
    for name in FILES:
        assert prepared_row(hub, "python", name) == prepared_row(row, "python", name)


def test_table_6_is_the_papers() -> None:
    assert [sum(column) for column in zip(*PAPER.values(), strict=True)] == [
        908_224, 44_689, 52_561, 183_295
    ]  # fmt: skip
