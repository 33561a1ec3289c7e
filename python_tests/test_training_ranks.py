"""`softnce train` under torchrun: what one process does, on two."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_rows, transformer_model, write_rows
from training_on_ranks import SENTENCE, train_bert

from softnce_ext import native
from softnce_ext.training.batches import RankBatches, steps_per_epoch
from softnce_ext.training.job import TrainingJob
from softnce_ext.training.settings import TrainSettings
from softnce_ext.training.trainer import _arguments

HERE = Path(__file__).parent
# 60 pairs in batches of 17, 9 at last: the ranks have shares that differ.
OPTIONS: dict[str, Any] = {"vocab_size": 200, "dimension": 32, "batch_size": 17, "epochs": 2}
OPTIONS |= {"estimator": "trained", "temperature": 0.1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty cache, but for the library, which takes long to build."""
    folder, built = tmp_path_factory.mktemp("cache"), native.library("_C").parent
    shutil.copytree(built, folder / "native" / built.name)
    return folder


def environment(cache: Path, **more: str) -> dict[str, str]:
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    own = {"HF_HUB_OFFLINE": "1", "SOFTNCE_CACHE": str(cache), "PYTHONPATH": ":".join(paths)}
    return {**os.environ, **own, **more}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Any:
    """Two ranks as a launcher starts them, but that nobody ends the other when one has failed.

    They do a job, a teacher trained first; talk; train a transformer; then the second fails.
    """
    folder = tmp_path_factory.mktemp("ranks")
    transformer_model([row["code"] + row["query"] for row in tiny_rows()], folder / "bert")
    data = write_rows(folder / "pairs.jsonl", tiny_rows())
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    flags += ["--no-compare", f"--data={data}", f"--output={folder / 'two'}"]
    command = [sys.executable, str(HERE / "training_on_ranks.py"), str(folder), free_port(), *flags]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    started = []
    for rank in ("0", "1"):
        own = {**place, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, env=environment(cache, **own), text=True, **pipes))
    try:
        shown = [each.communicate(timeout=240) for each in started]
    finally:
        for each in started:
            each.kill()
    return folder, [(each.returncode, *told) for each, told in zip(started, shown, strict=True)]


def test_two_ranks_train_what_one_process_trains(
    ended: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher trained first, its tables, uneven shares of a batch, one report."""
    folder, ((_, printed, progress), (_, other, others_progress)) = ended
    assert printed.count("trained on ") == printed.count("saved to ") == 1
    assert "2 ranks share the 17 pairs of a step" in printed and other == ""
    assert "training soft-infonce" in progress and "training soft" not in others_progress
    assert sorted(path.name for path in folder.glob("two*")) == ["two", "two-teacher"]

    monkeypatch.setenv("SOFTNCE_CACHE", str(cache))
    data, output = str(folder / "pairs.jsonl"), str(tmp_path / "two")
    alone = TrainSettings(**OPTIONS, data=data, output=output, compare=False)
    one = TrainingJob(alone, progress=False).run()
    report = json.loads((folder / "two" / "metrics.json").read_text())
    assert report["ranks"] == 2 and one["ranks"] == 1
    assert report["teacher"]["code"]["built"]
    for mine, theirs in zip(report["results"], one["results"], strict=True):
        assert mine["name"] == theirs["name"] and mine["mrr"] == pytest.approx(theirs["mrr"])
    for name in ("infonce", "soft-infonce"):
        got, wanted = report["training"][name], one["training"][name]
        assert got["validation_mrr"] == pytest.approx(wanted["validation_mrr"])
        # Of low_weights the ranks' means are averaged, one of which has a row more.
        assert got["mean"] == pytest.approx(wanted["mean"], rel=1e-3)
    for name in ("two", "two-teacher"):
        read = [(place / name / "training.jsonl").open() for place in (folder, tmp_path)]
        got, wanted = ([json.loads(line) for line in each] for each in read)
        assert len(got) == len(wanted) == 8
        for mine, theirs in zip(got, wanted, strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
            assert mine["duplicates"] == theirs["duplicates"]


def test_ranks_do_once_what_is_done_once(ended: Any) -> None:
    both = [json.loads((ended[0] / f"talk{rank}.json").read_text()) for rank in (0, 1)]
    failures = [each.pop("failure") for each in both]
    assert failures == ["OSError('no')", "SystemExit(1)"]
    assert [each.pop("first") for each in both] == [True, False]
    for each in both:
        assert each == {
            "count": 2,
            "from_first": "rank 0 did it",
            "any": [True, False],
            "mean": {"a": 3.0, "b": 1.0},
            "note": "01",
        }


def test_a_transformer_on_two_ranks_is_one_on_one(ended: Any) -> None:
    model, run = train_bert(ended[0] / "bert")
    for rank in (0, 1):
        found = torch.load(ended[0] / f"found{rank}", weights_only=True)
        assert found["validation"] == run.validation == [0.25, 0.5] and found["epoch"] == 2
        assert len(found["steps"]) == len(run.steps) == 14
        for mine, theirs in zip(found["steps"], run.steps, strict=True):
            for name in ("loss", "grad_norm", "learning_rate", "duplicates"):
                assert mine[name] == pytest.approx(theirs[name], rel=1e-4), name
        for name, weight in model.state_dict().items():
            torch.testing.assert_close(found["weights"][name], weight, rtol=1e-3, atol=1e-4)


def test_a_rank_that_fails_ends_the_others_and_says_so_once(ended: Any) -> None:
    (code, _, told), (other_code, _, other_told) = ended[1]
    assert code == other_code == 1
    assert other_told.count(f"softnce train: {SENTENCE}") == 1
    assert "softnce train: " not in told and "Traceback" not in told + other_told


def test_what_all_ranks_refuse_is_said_once_under_torchrun(cache: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "softnce_ext", "train", "--epochs", "0"]
    done = subprocess.run(
        command, env=environment(cache), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("softnce train: epochs must be a whole number >= 1, got 0") == 1


@pytest.mark.parametrize("rows", [1, 2, 3, 6, 7, 8, 9, 15, 16])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_parts_of_a_batch_are_the_batch(rows: int, ranks: int) -> None:
    class Batches:
        batch_size, sampler, epoch = 7, None, -1

        def __iter__(self) -> Any:
            return iter([list(range(rows))[begin : begin + 7] for begin in range(0, rows, 7)])

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    whole = Batches()
    shared = [RankBatches(whole, rows, rank, ranks) for rank in range(ranks)]
    assert len({len(each) for each in shared}) == 1
    steps = list(zip(*shared, strict=True))
    assert len(steps) == len(shared[0]) == steps_per_epoch(rows, 7, ranks)
    wanted = [batch for batch in whole if len(batch) >= ranks]
    assert [[row for part in parts for row in part] for parts in steps] == wanted
    for parts in steps:
        sizes = [len(part) for part in parts]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    shared[-1].set_epoch(4)
    assert whole.epoch == 4


def test_fewer_pairs_than_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings(batch_size=2).resolved(static=True)
    monkeypatch.setattr("softnce_ext.training.ranks.count", lambda: 4)
    with pytest.raises(ValueError, match="batch_size must be >= 4, one for each rank, got 2"):
        _arguments(settings, "nowhere", 100, static=True)
    settings = TrainSettings(batch_size=8).resolved(static=True)
    with pytest.raises(ValueError, match="training pairs must be >= 4, one for each rank, got 3"):
        _arguments(settings, "nowhere", 3, static=True)
