import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from softnce_ext.cli import mine
from softnce_ext.data.formats import read_pairs

FUNCTION = 'def f(x):\n    """Return the sum of it."""\n    y = 1\n    y += x\n    return y\n'


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    mine.add_arguments(parser)
    return mine.run(parser.parse_args(arguments))


def test_mine_writes_pairs_and_prints_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.py").write_text(FUNCTION)
    (tmp_path / "old.py").write_text("print 'x'\ndef f(): '''x'''")
    output = tmp_path / "pairs.jsonl.gz"
    assert run(str(tmp_path), "--output", str(output)) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"1 pairs in {output}")
    assert "skipped: 1 unparsable files" in out
    assert "mining" in err
    assert [each.name for each in read_pairs(output, progress=False)] == ["f"]


def test_mine_prints_json_and_converts_data_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"query": "Read it all", "code": "x"}) + "\n")
    assert run(str(source), "-o", str(output), "--json", "--no-progress") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["pairs"] == 1
    assert err == ""
    assert run(str(source), "-o", str(output), "--no-progress") == 0
    assert "1 lines read, 0 bad ones skipped" in capsys.readouterr().out


def test_converted_files_keep_their_partitions(tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out.jsonl"
    folder.mkdir()
    for name in ("train", "dev", "test"):
        row = {"query": f"Read {name} whole", "code": f"read({name})"}
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    assert run(str(folder), "-o", str(output), "--no-progress") == 0
    pairs = read_pairs(output, progress=False)
    assert pairs.partitions == read_pairs(folder, progress=False).partitions
    assert sorted(pairs.partitions.values()) == ["test", "train", "valid"]


def test_mine_reads_every_language_or_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.py").write_text(FUNCTION)
    doc = "# Return the product of it.\ndef g(x)\n  y = 1\n  y *= x\n  y\nend\n"
    (tmp_path / "m.rb").write_text(doc)
    (tmp_path / "a.min.js").write_text("x")
    (tmp_path / "b.js").write_text("// @generated\n" + "x=1;" * 9)
    output = tmp_path / "pairs.jsonl.gz"
    assert run(str(tmp_path), "-o", str(output)) == 0
    assert "skipped: 1 generated files" in capsys.readouterr().out
    pairs = read_pairs(output, progress=False)
    assert [(each.name, each.language) for each in pairs] == [("f", "python"), ("g", "ruby")]
    assert run(str(tmp_path), "-o", str(output), "--language", "ruby", "--json") == 0
    assert json.loads(capsys.readouterr().out)["files"] == 1
    assert [each.name for each in read_pairs(output, progress=False)] == ["g"]
    with pytest.raises(ValueError, match="there are no go, .jsonl or .jsonl.gz files"):
        run(str(tmp_path / "m.py"), "-o", str(output), "--language", "go")
    with pytest.raises(ValueError, match="--language ruby needs a FOLDER"):
        run("-o", str(output), "--language", "ruby")


def test_mine_without_a_documented_function_fails_in_a_sentence(
    tmp_path: Path,
) -> None:
    (tmp_path / "m.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="no documented function in"):
        run(str(tmp_path), "-o", str(tmp_path / "out.jsonl"), "--no-progress")
    with pytest.raises(ValueError, match="--output must be in a folder that exists"):
        run(str(tmp_path), "-o", str(tmp_path / "nowhere" / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(ValueError, match="--output must end in .jsonl or .jsonl.gz"):
        run(str(tmp_path), "-o", "out.csv")


def test_command_imports_nothing_heavy() -> None:
    code = (
        "import sys, softnce_ext.cli.mine;"
        "print(sorted({'numpy', 'torch', 'tqdm'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
