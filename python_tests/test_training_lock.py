"""One run at a time writes a folder."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from softnce_ext.cli.main import main
from softnce_ext.training.lock import held


def test_a_second_run_is_refused_before_it_reads_or_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "runs" / "m"
    (tmp_path / "link").symlink_to(output)
    with held(str(output)):
        for name, more in ((output, []), (tmp_path / "link", ["--loss", "simcse"])):
            assert main(["train", "--data", "no data", "--output", str(name), *more]) == 1
            told = f"output must be a folder that no other run writes, got {name}, which another"
            assert told in capsys.readouterr().err
        with held(str(tmp_path / "runs" / "other")):
            pass
        assert output.parent.is_dir()
    assert main(["train", "--data", "no data", "--output", str(output)]) == 1
    assert "no data" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from softnce_ext.training.lock import held
with held(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    output = str(tmp_path / "m")
    assert subprocess.run([sys.executable, "-c", script, output], timeout=120).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(KeyboardInterrupt), held(output):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_its_holder_removed_meanwhile_is_not_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, seen = fcntl.flock, []

    def flock_late(descriptor: int, how: int) -> None:
        seen.append(descriptor)
        if len(seen) == 1:
            next(tmp_path.iterdir()).unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    with held(str(tmp_path / "m")):
        assert len(seen) == 2 and len(list(tmp_path.iterdir())) == 1
        with pytest.raises(ValueError, match="output must be"), held(str(tmp_path / "m")):
            pass


def test_where_no_lock_is_to_be_had_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / "file").write_text("")
    with held(str(tmp_path / "file" / "m")):
        pass
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with held(str(tmp_path / "a" / "m")):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
