"""Each script of examples/ runs as it is, offline, and says what it says it does."""

from __future__ import annotations

import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_every_example_is_run_here() -> None:
    run = {"hard_negatives.py", "cached_batches.py", "teacher_table.py", "two_ranks.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == run


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hard_negatives.py", r"(\d+) triples; per step: \{'duplicates': \d"),
        ("cached_batches.py", r"(\d+) pairs, batches of 128 in mini-batches of 16"),
        ("teacher_table.py", r"tables of (\d+) rows; training loss \d"),
    ],
)
def test_an_example_trains(
    name: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # where the trainer writes
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    told = capsys.readouterr().out
    match = re.search(said, told)
    assert match is not None, told
    assert int(match.group(1)) > 100
    if name == "cached_batches.py":
        first, last = map(float, re.findall(r"(\d+\.\d+) to (\d+\.\d+)", told)[0])
        assert 0.7 * math.log(128) < first and last < 0.7 * first


def test_two_ranks_train_one_model(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        + [str(EXAMPLES / "two_ranks.py")],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = re.findall(r"rank (\d): loss ([\d.]+), weights sum to (-?[\d.]+)", done.stdout)
    assert sorted(rank for rank, _, _ in told) == ["0", "1"]
    assert len({checksum for _, _, checksum in told}) == 1
