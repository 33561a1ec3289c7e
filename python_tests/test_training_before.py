"""What is refused before the long work: a full disk, models that are not there."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import tiny_rows, transformer_model, write_rows
from tiny_distilbert import distilbert

from softnce_ext.cli.main import main
from softnce_ext.encoders.saved import load_encoder
from softnce_ext.estimators import cache, space
from softnce_ext.estimators import table as table_module
from softnce_ext.estimators.cache import cached_table
from softnce_ext.estimators.space import Need, check_space
from softnce_ext.training import before, compare, job, simcse, simcse_job
from softnce_ext.training.corpus import read_corpus, split_corpus
from softnce_ext.training.job import TrainingJob
from softnce_ext.training.settings import TrainSettings

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rows = tmp_path_factory.mktemp("before"), tiny_rows()
    write_rows(root / "pairs.jsonl", rows)
    transformer_model([row["code"] + row["query"] for row in rows], root / "bert").save(
        str(root / "bert")
    )
    distilbert([row["query"] for row in rows], root / "words").save(str(root / "simcse"))
    return root


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    monkeypatch.setattr(compare, "installed_model", lambda: None)
    monkeypatch.setattr(simcse, "SIMCSE_MODEL", str(folder / "simcse"))
    for module in (before, cache):  # of tables alone: a compiled library may stay where it is
        monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "teachers")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give all disks so many free bytes."""

    def give(count: int) -> None:
        usage = shutil.disk_usage("/")._replace(free=count)
        monkeypatch.setattr(space.shutil, "disk_usage", lambda path: usage)

    return give


def run(folder: Path, output: Path, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"batch_size": 16, "epochs": 1, "code_length": 32, **options}
    given.setdefault("model", str(folder / "bert"))
    given.setdefault("data", str(folder / "pairs.jsonl"))
    return TrainingJob(TrainSettings(output=str(output), **given), progress=False).run()


def never(*args: Any, **options: Any) -> Any:
    raise AssertionError("it was begun")


def test_needs_on_one_disk_are_added_up_and_named(tmp_path: Path, free: Any) -> None:
    needs = [Need("the model", tmp_path / "a" / "b", 600), Need("the rest", tmp_path, 500)]
    free(1100)
    check_space(needs)
    free(1099)
    with pytest.raises(OSError, match="No space|disk") as refused:
        check_space(needs)
    assert refused.value.errno == errno.ENOSPC
    assert refused.value.strerror == (
        f"the disk must hold the model (600 bytes in {tmp_path}/a/b) and the rest (500 bytes in "
        f"{tmp_path}), but has 1,099 bytes free"
    )


def test_disks_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    usage = shutil.disk_usage("/")._replace(free=700)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: usage)
    needs = [Need("the model", tmp_path, 600), Need("the rest", tmp_path / "other", 500)]
    with pytest.raises(OSError, match="and the rest"):
        check_space(needs)
    monkeypatch.setattr(space, "_disk", lambda folder: len(folder.name))
    check_space(needs)


def test_disk_without_room_for_the_model_is_told_before_training(
    folder: Path, tmp_path: Path, free: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "train_encoder", never)
    free(MEGABYTE)
    with pytest.raises(
        OSError, match=r"must hold the model \([\d,]+ bytes in .*/m\), but has 1,04"
    ):
        run(folder, tmp_path / "m", checkpoints=False)
    free(9 * MEGABYTE)
    with pytest.raises(
        OSError, match=r"and the checkpoints \([\d,]+ bytes in .*/m-checkpoint\), b"
    ):
        run(folder, tmp_path / "m", batch_size=2, epochs=9999)
    assert list(tmp_path.iterdir()) == []


def test_room_is_that_of_the_files_written(folder: Path, tmp_path: Path) -> None:
    """What is asked for is what is written and the margin for a tokenizer, no multiple of it."""
    model, _ = load_encoder(str(folder / "bert"))
    weights = (folder / "bert" / "model.safetensors").stat().st_size
    settings = TrainSettings(batch_size=16, epochs=3).resolved(static=False)
    need = before.model_need(settings, model, 1000).bytes - before._TOKENIZER_BYTES
    assert weights * 0.9 < need - 1000 * 32 - 3 * 63 * 256 <= weights


@pytest.mark.parametrize("estimator", ["trained", "simcse"])
def test_disk_without_room_for_a_teacher_is_told_before_it_is_trained(
    folder: Path, tmp_path: Path, free: Any, monkeypatch: pytest.MonkeyPatch, estimator: str
) -> None:
    monkeypatch.setattr(job, "train_encoder", never)
    monkeypatch.setattr(simcse, "train_encoder", never)
    settings = TrainSettings(data=str(folder / "pairs.jsonl"), batch_size=16, epochs=1)
    rows = len(split_corpus(*read_corpus(settings, progress=False), settings).split.train)
    model, _ = load_encoder(str(folder / "bert"))
    free(before.model_need(settings, model, rows).bytes)  # for the model alone
    with pytest.raises(OSError, match=r"the model \(.* and the teacher's vectors \([\d,]+ bytes"):
        run(folder, tmp_path / "m", estimator=estimator, temperature=0.1, checkpoints=False)
    free(0)
    with pytest.raises(OSError, match="must hold the model"):
        run(folder, tmp_path / "m", loss="infonce")
    monkeypatch.setattr(simcse_job.simcse, "train_simcse", never)
    with pytest.raises(OSError, match="must hold the model"):
        simcse_job.run_simcse(
            TrainSettings(
                loss="simcse", data=str(folder / "pairs.jsonl"), output=str(tmp_path / "m")
            ),
            progress=False,
        )
    assert list(tmp_path.iterdir()) == []


class _Full:
    """A file on a disk that is full after so many writes."""

    def __init__(self, file: Any, left: list[int]) -> None:
        self.file, self.left = file, left

    def __enter__(self) -> _Full:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        if self.left[0] == 0:
            self.file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left[0] -= 1
        return int(self.file.write(data))


def test_disk_that_fills_while_a_table_is_cached_leaves_whole_tables_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The queries' table stands, the codes' is gone, and the next run goes on with it."""
    left = [1]

    def limited(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = open(path, mode, *args, **options)  # noqa: SIM115
        return _Full(file, left) if str(path).endswith("vectors.npy") and mode[0] != "r" else file

    words = ["train", "--data", str(folder / "pairs.jsonl"), "--model", str(folder / "bert")]
    words += ["--estimator", "trained", "--teacher", str(folder / "bert"), "--epochs", "1"]
    words += ["--temperature", "0.1", "--batch-size", "16", "--output", str(tmp_path / "m")]
    with monkeypatch.context() as patch:
        patch.setattr(table_module, "open", limited, raising=False)
        assert main(words) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.fullmatch(
        r"softnce train: the table of \d+ vectors cannot be kept in .*/teachers, no part of it is "
        r"left there: No space left on device",
        told,
    )
    tables = tmp_path / "teachers"
    assert len([each for each in tables.iterdir() if each.suffix != ".lock"]) == 1
    assert not (tmp_path / "m").exists()
    assert main([*words, "--json"]) == 0
    teacher = json.loads(capsys.readouterr().out)["teacher"]
    assert (teacher["query"]["built"], teacher["code"]["built"]) == (False, True)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"model": "no/such"}, "--model"),
        ({"model": "no/such", "preset": "codebert"}, "--model"),
        ({"preset": "unixcoder", "model": None}, "--model"),
        ({"model": None, "init": "no/such"}, "--init"),
        ({"estimator": "trained", "teacher": "no/such"}, "--teacher"),
        ({"estimator": "simcse"}, "--teacher"),
        ({"loss": "simcse", "model": None}, "--model"),
    ],
)
def test_model_that_is_not_here_is_told_before_data_are_read(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    flag: str,
) -> None:
    monkeypatch.setattr(simcse, "SIMCSE_MODEL", "no/such")
    for module in (job, simcse_job):
        monkeypatch.setattr(module, "read_corpus", never)
    options = {"model": str(folder / "bert"), **options}
    settings = TrainSettings(output=str(tmp_path / "m"), **options)
    run_it = simcse_job.run_simcse if settings.loss == "simcse" else lambda s: TrainingJob(s).run()
    with pytest.raises(FileNotFoundError) as refused:
        run_it(settings)
    assert re.fullmatch(
        r"model [\w/-]+ is not on this machine, and HF_HUB_OFFLINE forbids to ask the hub; "
        rf"{flag} PATH names one on this machine",
        str(refused.value),
    )
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_no_model_are_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds neither modules\.json nor config"):
        run(folder, tmp_path / "m", model=str(tmp_path / "empty"), data="nowhere")
    table = cached_table(_vectors, ["a"], {}, folder=tmp_path / "tables").folder
    with pytest.raises(ValueError, match="teacher must be a model, got .*, a table of one's vect"):
        run(folder, tmp_path / "m", estimator="trained", teacher=str(table), data="nowhere")


def _vectors(texts: Any) -> Any:
    import torch

    return torch.ones(len(texts), 2)
