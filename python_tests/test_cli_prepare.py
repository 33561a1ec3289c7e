import json
import subprocess
import sys
from pathlib import Path

import pytest
from codesearchnet_dumps import COUNTS, write_folder, write_lists, write_zip

from softnce_ext.cli.main import main
from softnce_ext.data.codesearchnet_folder import TABLE_6


@pytest.fixture(autouse=True)
def small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for language in TABLE_6:
        monkeypatch.setitem(TABLE_6, language, COUNTS)


def run(*words: object) -> int:
    return main(["prepare", "csn", *map(str, words)])


def test_prepare_writes_every_language_and_says_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = tmp_path / "dump"
    dump.mkdir()
    write_zip(dump, "ruby")
    write_zip(dump, "python")
    lists, output = write_lists(tmp_path / "lists", "ruby", "python"), tmp_path / "out"
    assert run(dump, "--lists", lists, "--output", output) == 0
    out, err = capsys.readouterr()
    assert f"ruby in {output / 'ruby'}\n  train     complete: 5 rows\n" in out
    assert "codebase  complete: 7 rows\n            2 of 9 listed URLs are not of valid" in out
    assert "python: train" in err
    assert (output / "python" / "codebase.jsonl.gz").is_file()
    assert run(dump, "--lists", lists, "-o", output, "--json", "--no-progress") == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert err == "" and summary["complete"]
    assert [each["language"] for each in summary["languages"]] == ["ruby", "python"]
    assert all(each["kept"] for one in summary["languages"] for each in one["files"].values())


def test_exit_status_tells_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_folder(tmp_path, "ruby"), tmp_path / "out"
    for path in source.rglob("ruby_test_*.jsonl.gz"):
        path.unlink()
    lists = write_lists(tmp_path / "lists", "ruby")
    words = (source, "--lists", lists, "-o", output, "--no-progress", "--languages", "ruby")
    assert run(*words) == 1
    out = capsys.readouterr().out
    assert "  test      not written: 0 of 3 rows\n" in out
    assert "3 of 3 listed URLs have no record in the dump that can be used, such as\n" in out
    assert "lib/test.rb#L21-L23\n" in out
    assert "not complete; --allow-missing writes what is there" in out
    assert run(*words, "--allow-missing") == 0
    out = capsys.readouterr().out
    assert "  train     complete: 5 rows, from an earlier run\n" in out
    assert "  codebase  incomplete: 3 of 7 rows\n" in out
    assert not (output / "ruby" / "test.jsonl.gz").exists()  # without a row there is no file


def test_lists_are_asked_for_and_no_filter_is_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_zip(tmp_path, "ruby"), tmp_path / "out"
    assert run(source, "-o", output, "--no-progress") == 1
    err = capsys.readouterr().err
    assert err.startswith("softnce prepare: lists (--lists) are needed for ruby: the paper's")
    assert err.count("\n") == 1 and "--no-filter" in err
    assert run(source, "-o", output, "--no-progress", "--no-filter") == 0
    out = capsys.readouterr().out
    assert "train     unfiltered: 6 rows" in out and "no data for the paper's figures" in out


def test_wrong_words_are_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_zip(tmp_path, "ruby")
    with pytest.raises(SystemExit, match="2"):
        main(["prepare", "cosqa", str(source), "-o", str(tmp_path)])
    assert "invalid choice: 'cosqa'" in capsys.readouterr().err
    assert run(source, "-o", tmp_path / "out", "--languages", "rust", "--no-filter") == 1
    assert "language must be one of ruby, python," in capsys.readouterr().err
    (tmp_path / "x.jsonl").write_text('{"language": "rust"}\n')
    assert run(tmp_path / "x.jsonl", "-o", tmp_path / "out") == 1
    assert "no record of one of its six languages in" in capsys.readouterr().err
    source.write_bytes(source.read_bytes()[:-40])
    assert run(source, "-o", tmp_path / "out", "--no-filter") == 1
    assert "ruby.zip: not a whole zip file" in capsys.readouterr().err


def test_killed_run_is_continued(tmp_path: Path) -> None:
    """A run is killed while it writes the second file; the next one keeps the first."""
    source, output = write_zip(tmp_path, "ruby"), tmp_path / "out"
    lists = write_lists(tmp_path / "lists", "ruby")
    code = (
        "import os, signal, sys\n"
        "from softnce_ext.cli.main import main\n"
        "from softnce_ext.data import atomic\n"
        "from softnce_ext.data.codesearchnet_folder import TABLE_6\n"
        f"TABLE_6['ruby'] = {COUNTS}\n"
        "replace, seen = os.replace, []\n"
        "def kill_before(old, new):\n"
        "    if str(new).endswith('valid.jsonl.gz'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(old, new)\n"
        "os.replace = kill_before\n"
        "main(['prepare', 'csn', *sys.argv[1:]])\n"
    )
    words = [str(source), "--lists", str(lists), "-o", str(output), "--no-progress"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True)
    assert done.returncode == -9
    assert [each.name for each in sorted((output / "ruby").iterdir())][0].endswith(".part")
    assert run(*words) == 0
    names = sorted(each.name for each in (output / "ruby").iterdir())
    assert names == [
        "codebase.jsonl.gz", "prepared.json", "test.jsonl.gz", "train.jsonl.gz", "valid.jsonl.gz"
    ]  # fmt: skip
