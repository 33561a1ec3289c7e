"""A run that was killed and goes on ends with the very weights of one that was not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from models import tiny_rows, write_rows
from test_training_ranks import environment, free_port
from tiny_backbones import save_tiny_backbone
from tiny_distilbert import distilbert
from training_killed import Killed, end_at, raise_killed

from softnce_ext import native
from softnce_ext.data import marked
from softnce_ext.data.marked import MARKER
from softnce_ext.training import checkpoint, compare, job, simcse, trainer
from softnce_ext.training.batches import TextPairs
from softnce_ext.training.before import checkpoint_folder, checkpoint_need
from softnce_ext.training.checkpoint import Checkpoints, CheckpointTrainer, Stage
from softnce_ext.training.job import JobInterrupted, TrainingJob
from softnce_ext.training.losses import make_loss
from softnce_ext.training.record import run_identity
from softnce_ext.training.run import TrainingRun
from softnce_ext.training.settings import TrainSettings
from softnce_ext.training.simcse_job import run_simcse
from softnce_ext.training.trainer import train_encoder

HERE = Path(__file__).parent
ROWS = tiny_rows()
QUERIES, CODES = ([row[name] for row in ROWS] for name in ("query", "code"))
FIGURES = [0.2, 0.5, 0.4, 0.3]
SHORT: dict[str, Any] = {"batch_size": 16, "epochs": 3}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty cache, but for the library, which takes long to build."""
    folder, built = tmp_path_factory.mktemp("cache"), native.library("_C").parent
    shutil.copytree(built, folder / "native" / built.name)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, and small models with dropout."""
    root = tmp_path_factory.mktemp("checkpoint")
    write_rows(root / "pairs.jsonl", ROWS)
    distilbert(QUERIES + CODES, root / "words").save(str(root / "bert"))
    save_tiny_backbone(root / "roberta", QUERIES + CODES)
    return root


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, cache: Path, folder: Path) -> None:
    monkeypatch.setattr(compare, "installed_model", lambda: None)
    monkeypatch.setattr(simcse, "SIMCSE_MODEL", str(folder / "bert"))
    monkeypatch.setenv("SOFTNCE_CACHE", str(cache))


def options_of(kind: str, folder: Path) -> dict[str, Any]:
    """Settings of a small run: a static encoder, a transformer, a preset with its teacher."""
    given = {**SHORT, "data": str(folder / "pairs.jsonl"), "compare": False, "checkpoints": True}
    given |= {
        "static": {"vocab_size": 200, "dimension": 32},
        "bert": {"model": str(folder / "bert"), "code_length": 32, "learning_rate": 1e-3},
        "preset": {
            "preset": "unixcoder",
            "model": str(folder / "roberta"),
            "learning_rate": 1e-3,
            "estimator": "trained",
        },
    }[kind]
    return given


def run(output: Path, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    given = {**options, "output": str(output), **more}
    return TrainingJob(TrainSettings(**given), progress=False).run()


def killed(cache: Path, place: str, number: int, output: Path, options: dict[str, Any]) -> str:
    """Start `softnce train`, which is killed; return its stderr."""
    flags = [f"--output={output}"]
    for name, value in options.items():
        flag = name.replace("_", "-")
        flags.append(
            f"--{'' if value else 'no-'}{flag}" if isinstance(value, bool) else f"--{flag}={value}"
        )
    command = [sys.executable, str(HERE / "training_killed.py"), place, str(number), *flags]
    done = subprocess.run(
        command, env=environment(cache), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stderr


@contextmanager
def counted_steps() -> Iterator[list[int]]:
    """Give a list that grows by one with each training step."""
    step, taken = trainer._Trainer.training_step, []

    def count(*args: Any) -> Any:
        taken.append(1)
        return step(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer._Trainer, "training_step", count)
        yield taken


def check_same(output: Path, wanted: Path) -> None:
    for name in ("model.safetensors", "training.jsonl", "manifest.json"):
        assert next(output.rglob(name)).read_bytes() == next(wanted.rglob(name)).read_bytes(), name


@pytest.mark.parametrize("kind", ["static", "bert", "preset"])
def test_a_run_killed_twice_ends_with_the_same_bytes(
    kind: str, folder: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First while it writes a checkpoint, then after one; the preset's teacher is done by then."""
    options = options_of(kind, folder)
    wanted = run(tmp_path / "whole", {**options, "checkpoints": False})
    output = tmp_path / "killed"
    place, last = ("marker", 3) if kind == "preset" else ("within", 1)
    killed(cache, place, 2, output, options)
    assert "checkpoint-" in killed(cache, "after", last, output, {**options, "resume": True})
    capsys.readouterr()
    with counted_steps() as trained:
        report = run(output, options, resume=True)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("softnce: ")]
    wanted_lines = ["soft-infonce goes on, from OUTPUT-checkpoint/soft-infonce/checkpoint-8"]
    if kind == "preset":
        wanted_lines = [
            "infonce was done, from OUTPUT-checkpoint/infonce/checkpoint-12",
            "soft-infonce goes on, from OUTPUT-checkpoint/soft-infonce/checkpoint-4",
        ]
    assert [line.replace(str(output), "OUTPUT") for line in told] == [
        f"softnce: training {line}" for line in wanted_lines
    ]
    assert len(trained) == {"static": 4, "bert": 4, "preset": 8}[kind]
    for name in report["training"]:
        for figure in ("steps", "validation_mrr", "kept_epoch", "mean"):
            assert report["training"][name][figure] == wanted["training"][name][figure]
    assert report["hybrid_weight"] == wanted["hybrid_weight"]
    check_same(output, tmp_path / "whole")
    names = {"killed", "whole"}
    if kind == "preset":
        assert set(report["training"]) == {"infonce", "soft-infonce"}
        check_same(tmp_path / "killed-teacher", tmp_path / "whole-teacher")
        names |= {"killed-teacher", "whole-teacher"}
    assert {path.name for path in tmp_path.iterdir()} == names


def bert(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder / "bert"), device="cpu")


class Trained(NamedTuple):
    model: Any
    run: TrainingRun
    stage: Stage | None

    def is_like(self, other: Trained) -> bool:
        mine, theirs = self.model.state_dict(), other.model.state_dict()
        return (
            all(torch.equal(mine[name], theirs[name]) for name in mine)
            and (self.run.steps, self.run.validation) == (other.run.steps, other.run.validation)
            and self.run.epoch == other.run.epoch
        )


def train(
    folder: Path,
    output: Path | None,
    *,
    figures: list[float] = FIGURES,
    codes: list[str] = CODES,
    start: float = 0.0,
    **options: Any,
) -> Trained:
    """Train the small transformer by `train_encoder`; the second of four epochs is the best."""
    model, left = bert(folder), iter(figures)
    with torch.no_grad():
        next(model.parameters())[0, 0] += start
    given = {"model": "bert", "batch_size": 32, "epochs": 4, "learning_rate": 1e-3, **options}
    settings = TrainSettings(**given, output=str(output)).resolved(static=False)
    stage = None
    if output is not None:
        identity = run_identity("data", settings.to_json(), {"torch": "1"}, model)
        checkpoints = Checkpoints(checkpoint_folder(settings), settings, identity)
        checkpoints.check()
        stage = Stage(checkpoints, "s")
    run = train_encoder(
        model,
        make_loss(model, settings, "soft-infonce"),
        TextPairs(QUERIES, codes),
        settings,
        validate=lambda: next(left),
        progress=False,
        stage=stage,
    )
    return Trained(model, run, stage)


def train_and_end(place: str, number: int, *args: Any, **options: Any) -> None:
    undo = end_at(place, number)
    try:
        with pytest.raises(Killed):
            train(*args, **options)
    finally:
        undo()


@pytest.fixture(scope="module")
def whole(folder: Path) -> Trained:
    return train(folder, None)


def checkpoints_in(output: Path, stage: str = "s") -> list[str]:
    return sorted(path.name for path in Path(f"{output}-checkpoint", stage).glob("checkpoint-*"))


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_a_training_goes_on_after_each_epoch(
    folder: Path, tmp_path: Path, whole: Trained, epoch: int
) -> None:
    """The best epoch is to come, is this one, is before, and the training has ended."""
    output = tmp_path / "m"
    train_and_end("after", epoch, folder, output)
    steps = [3 * number for number in range(max(1, epoch - 1), epoch + 1)]
    assert checkpoints_in(output) == sorted(f"checkpoint-{step}" for step in steps)
    found = train(folder, output, resume=True, figures=FIGURES[epoch:])
    assert found.is_like(whole) and found.run.epoch == 2 and not found.model.training
    assert found.run.seconds > 0


def test_a_training_is_not_that_of_another_start(
    folder: Path, tmp_path: Path, whole: Trained
) -> None:
    """What `is_like` compares can differ: without its generators' state a training is another."""
    output = tmp_path / "m"
    train_and_end("after", 1, folder, output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointTrainer, "_load_rng_state", lambda *args: None)
        assert not train(folder, output, resume=True, figures=FIGURES[1:]).is_like(whole)


@pytest.fixture(scope="module")
def twice(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a training that was killed after its third epoch, the best before."""
    output = tmp_path_factory.mktemp("twice") / "m"
    train_and_end("after", 3, folder, output)
    return output


def copied(twice: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return an output and the newest checkpoint of it, copied."""
    shutil.copytree(f"{twice}-checkpoint", tmp_path / "m-checkpoint")
    return tmp_path / "m", tmp_path / "m-checkpoint/s/checkpoint-9"


FILES = {
    "best.safetensors",
    "model.safetensors",
    "optimizer.pt",
    "progress.json",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
}


def test_a_checkpoint_has_these_files(twice: Path, tmp_path: Path) -> None:
    newest = copied(twice, tmp_path)[1]
    assert {path.name for path in newest.iterdir()} == FILES | {MARKER}
    before = {path.name for path in (newest.parent / "checkpoint-6").iterdir()}
    assert before == FILES - {"best.safetensors"} | {MARKER}


@pytest.mark.parametrize(
    "fault", ["cut", "changed", "missing", "more", "unmarked", "half a marker"]
)
def test_a_damaged_checkpoint_is_passed_over_and_not_read(
    folder: Path,
    twice: Path,
    tmp_path: Path,
    fault: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **how: read.append(path) or load(path, **how))
    output, newest = copied(twice, tmp_path)
    told = "optimizer.pt is not as it was written"
    optimizer, marker = newest / "optimizer.pt", newest / MARKER
    if fault == "cut":
        os.truncate(optimizer, optimizer.stat().st_size - 1)
    elif fault == "changed":
        data = bytearray(optimizer.read_bytes())
        data[len(data) // 2] ^= 1
        optimizer.write_bytes(data)
    elif fault == "missing":
        optimizer.unlink()
    elif fault == "more":
        (newest / "optimizer.bin").write_text("")
        told = "optimizer.bin is not as it was written"
    else:
        marker.write_text(marker.read_text()[:-9])
        if fault == "unmarked":
            marker.unlink()
        told = "it was not written to its end"
    begun: list[Any] = []
    monkeypatch.setattr(CheckpointTrainer, "train", lambda self, **how: begun.append(how))
    train(folder, output, resume=True, figures=FIGURES[2:])
    assert begun == [{"resume_from_checkpoint": str(newest.with_name("checkpoint-6"))}]
    shown = capsys.readouterr().err
    assert shown.count(f"softnce: checkpoint {newest} is passed over: {told}\n") == 1
    assert not [path for path in read if str(newest) in str(path)]


def test_the_checkpoint_before_a_cut_one_gives_the_same_weights(
    folder: Path, twice: Path, tmp_path: Path, whole: Trained
) -> None:
    output, newest = copied(twice, tmp_path)
    os.truncate(newest / "model.safetensors", 99)
    train_and_end("after", 1, folder, output, resume=True, figures=FIGURES[2:])
    assert checkpoints_in(output) == ["checkpoint-6", "checkpoint-9"]  # written anew
    assert train(folder, output, resume=True, figures=FIGURES[3:]).is_like(whole)
    for path in newest.parent.glob("checkpoint-*"):
        os.truncate(path / "model.safetensors", 99)
    assert train(folder, output, resume=True).is_like(whole)


def test_another_runs_checkpoint_is_refused_by_what_differs(
    folder: Path, twice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, newest = copied(twice, tmp_path)
    cure = "; without --resume the run starts anew and replaces it"
    for options, differs in (
        ({"seed": 3}, "had seed 0, got 3"),
        ({"epochs": 5}, "had epochs 4, got 5"),
        ({"max_steps": 7}, "had max_steps None, got 7"),
    ):
        with pytest.raises(ValueError, match="resume must go on with the run that") as refused:
            train(folder, output, resume=True, **options)
        assert str(refused.value) == (
            f"resume must go on with the run that wrote {output}-checkpoint, which {differs}{cure}"
        )
    for name, value, told in (
        ("ranks", 2, "had ranks 2, got 1"),
        ("data", "x", "had other data"),
        ("versions", {"torch": "0"}, "had torch 0, got 1"),
    ):
        path = newest.parent.parent / "run.json"
        before = path.read_text()
        path.write_text(json.dumps({**json.loads(before), name: value}))
        with pytest.raises(ValueError, match=told):
            train(folder, output, resume=True)
        path.write_text(before)
    path.write_text("")
    with pytest.raises(ValueError, match=r"which has no run\.json that can be read; without"):
        train(folder, output, resume=True)
    path.write_text(before)
    monkeypatch.setattr(trainer, "_Trainer", None)  # it is refused before there is one
    with pytest.raises(ValueError, match="which had other training pairs; without"):
        train(folder, output, resume=True, codes=[*CODES[1:], CODES[0]])
    with pytest.raises(ValueError, match="which had other weights to start from; without"):
        train(folder, output, resume=True, start=1.0)


def test_another_teacher_of_the_same_name_is_refused(folder: Path, tmp_path: Path) -> None:
    options = {**options_of("bert", folder), "estimator": "trained", "temperature": 0.1}
    options["teacher"] = str(tmp_path / "teacher")
    teacher = bert(folder)
    teacher.save(options["teacher"])
    undo = end_at("after", 1)
    with pytest.raises(Killed):
        run(tmp_path / "m", options)
    undo()
    with torch.no_grad():
        next(teacher.parameters())[0, 0] += 1.0
    teacher.save(options["teacher"])
    with pytest.raises(ValueError, match="which had another teacher; without"):
        run(tmp_path / "m", options, resume=True)


@pytest.mark.parametrize("fails", [1, 2])
@pytest.mark.parametrize("where", ["save_file", "mark"])
def test_a_full_disk_ends_the_checkpoints_not_the_training(
    folder: Path,
    tmp_path: Path,
    whole: Trained,
    fails: int,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, calls = getattr(checkpoint, where), []

    def full(first: Any, second: Any) -> None:
        calls.append(second)
        if len(calls) >= fails:
            (first if where == "mark" else second.parent).joinpath("part").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(first, second)

    monkeypatch.setattr(checkpoint, where, full)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = train(folder, tmp_path / "m")
    assert len(calls) == fails  # no more are tried
    (warning,) = [str(each.message) for each in told if "checkpoint" in str(each.message)]
    step = f"checkpoint-{3 * fails} cannot be written ([Errno 28] No space left on device): the run"
    assert step in warning
    assert warning.endswith("this training from its beginning" if fails == 1 else "checkpoint-3")
    assert found.is_like(whole)
    left = [path.name for path in tmp_path.rglob("*")]
    assert left == [] if fails == 1 else checkpoints_in(tmp_path / "m") == ["checkpoint-3"]
    if fails == 2:
        monkeypatch.setattr(checkpoint, where, write)
        again = train(folder, tmp_path / "m", resume=True, figures=FIGURES[1:])
        assert again.is_like(whole)


def test_a_checkpoint_without_a_ranks_state_is_none(
    folder: Path, tmp_path: Path, whole: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where ranks on several machines share no disk; nor is an empty folder left."""
    monkeypatch.setattr(CheckpointTrainer, "_save_rng_state", lambda *args: None)
    with pytest.warns(RuntimeWarning, match=r"the ranks share no disk: 0 of 1 wrote into it\)"):
        assert train(folder, tmp_path / "m").is_like(whole)
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_lines", raise_full)
        with pytest.warns(RuntimeWarning, match="No space left on device"):
            assert train(folder, tmp_path / "m").is_like(whole)
    assert list(tmp_path.iterdir()) == []


def raise_full(*args: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_marker_is_written_when_all_files_are_on_the_disk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(marked, "sync", lambda path: synced.append(path.name))
    write = marked.write_lines
    monkeypatch.setattr(
        marked, "write_lines", lambda path, lines: (synced.append(path.name), write(path, lines))
    )
    train_and_end("after", 1, folder, tmp_path / "m")
    files = sorted(FILES - {"best.safetensors"})
    assert synced == [*files, MARKER, "checkpoint-3", "s"]


def test_room_is_that_of_the_checkpoints_at_their_most(
    folder: Path, twice: Path, tmp_path: Path
) -> None:
    """Of two with their best weights elsewhere; what is there already is not asked for again."""
    newest = copied(twice, tmp_path)[1]
    shutil.rmtree(newest.with_name("checkpoint-6"))
    size = sum(path.stat().st_size for path in newest.iterdir())
    model, settings = bert(folder), TrainSettings(checkpoints=True, output=str(tmp_path / "other"))
    (need,) = checkpoint_need(settings, model)
    assert need.folder == tmp_path / "other-checkpoint" and 0.75 * need.bytes < 2 * size
    weights = sum(each.nbytes for each in model.state_dict().values())
    assert need.bytes == 8 * weights
    (left,) = checkpoint_need(TrainSettings(checkpoints=True, output=str(tmp_path / "m")), model)
    assert left.bytes == need.bytes  # those there are another training's
    newest.parent.rename(newest.parent.with_name("soft-infonce"))
    (left,) = checkpoint_need(TrainSettings(checkpoints=True, output=str(tmp_path / "m")), model)
    assert left.bytes == need.bytes - size
    (both,) = checkpoint_need(TrainSettings(checkpoints=True, compare=True), model)
    assert both.bytes == 13 * weights
    assert checkpoint_need(TrainSettings(checkpoints=False), model) == []


def test_a_folder_of_others_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "m-checkpoint").mkdir()
    (tmp_path / "m-checkpoint" / "thesis.tex").write_text("")
    told = "output must be a new folder or one with checkpoints of .*m-checkpoint, which holds oth"
    options = {**options_of("static", folder), "data": "nowhere"}
    for more in ({}, {"checkpoints": False, "resume": True}):
        with pytest.raises(ValueError, match=told):
            run(tmp_path / "m", options, **more)
    simcse_options = {"loss": "simcse", "data": "nowhere", "output": str(tmp_path / "m")}
    with pytest.raises(ValueError, match=told):
        run_simcse(TrainSettings(**simcse_options), progress=False)
    run(tmp_path / "m", options_of("static", folder), checkpoints=None)  # which writes none
    assert [path.name for path in (tmp_path / "m-checkpoint").iterdir()] == ["thesis.tex"]


def test_without_resume_another_runs_checkpoints_are_replaced_with_the_first(
    folder: Path, twice: Path, tmp_path: Path
) -> None:
    output, newest = copied(twice, tmp_path)
    (newest.parent.parent / "notes").write_text("")
    stage = train(folder, output, checkpoints=False, epochs=1).stage
    assert checkpoints_in(output) == ["checkpoint-6", "checkpoint-9"]
    train_and_end("within", 1, folder, output, seed=3)
    assert checkpoints_in(output) == ["checkpoint-3"]
    told = json.loads((newest.parent.parent / "run.json").read_text())
    assert told["settings"]["seed"] == 3
    assert stage is not None
    stage.run.remove()
    assert [path.name for path in (tmp_path / "m-checkpoint").iterdir()] == ["notes"]


def test_resume_without_a_checkpoint_says_so_and_starts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**options_of("static", folder), "epochs": 1}
    run(tmp_path / "m", options, resume=True)
    told = f"softnce: there is no checkpoint in {tmp_path}/m-checkpoint: the run starts from the"
    assert capsys.readouterr().err.count(told) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_run_ended_by_ctrl_c_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of("static", folder)
    run(tmp_path / "whole", options, checkpoints=False)
    figure, calls = compare.Validation.mrr, []

    def interrupted(self: Any) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return figure(self)

    with monkeypatch.context() as patch:
        patch.setattr(compare.Validation, "mrr", interrupted)
        with pytest.raises(JobInterrupted) as stop:
            run(tmp_path / "m", options)
    assert str(stop.value) == (
        f"interrupted: {tmp_path}/m holds the model after epoch 2 of 3; "
        "--resume goes on with the run"
    )
    run(tmp_path / "m", options, resume=True)
    check_same(tmp_path / "m", tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"m", "m.previous", "whole"}


def test_a_run_killed_in_its_comparison_trains_nothing_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the model that was saved before kept beside the same one."""
    options = {**options_of("static", folder), "compare": True}
    wanted = run(tmp_path / "whole", options, checkpoints=False)
    with monkeypatch.context() as patch:
        patch.setattr("softnce_ext.training.job.rank_all", raise_killed)
        with pytest.raises(Killed):
            run(tmp_path / "m", options)
    monkeypatch.setattr(trainer, "_Trainer", None)
    found = run(tmp_path / "m", options, resume=True)
    for mine, theirs in zip(found["results"], wanted["results"], strict=True):
        assert (mine["name"], mine["mrr"]) == (theirs["name"], theirs["mrr"])
    assert found["hybrid_weight"] == wanted["hybrid_weight"]
    assert {path.name for path in tmp_path.iterdir()} == {"m", "whole"}


def test_the_best_epoch_of_before_the_kill_is_ranked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its vectors are not those of the best epoch since."""
    options = {**options_of("bert", folder), "epochs": 4, "learning_rate": 3e-3}
    scores, weigh = [], job.hybrid_weight_of

    def seen(systems: Any, task: Any) -> float:
        scores.append(torch.cat([torch.as_tensor(b) for b in systems.dense_blocks(task.queries)]))
        return weigh(systems, task)

    monkeypatch.setattr(job, "hybrid_weight_of", seen)
    wanted = run(tmp_path / "whole", options, checkpoints=False)
    kept = wanted["training"]["soft-infonce"]["kept_epoch"]
    assert kept < 4, "the case is another: the last epoch is the best"
    undo = end_at("after", kept)
    with pytest.raises(Killed):
        run(tmp_path / "m", options)
    undo()
    found = run(tmp_path / "m", options, resume=True)
    assert torch.equal(*scores) and found["hybrid_weight"] == wanted["hybrid_weight"]
    assert [row["mrr"] for row in found["results"]] == [row["mrr"] for row in wanted["results"]]


@pytest.mark.parametrize("settings", ["published", "original"])
def test_simcse_goes_on(folder: Path, tmp_path: Path, settings: str) -> None:
    options = {"loss": "simcse", "data": str(folder / "pairs.jsonl"), "simcse_settings": settings}
    options |= {"model": str(folder / "bert"), "batch_size": 16, "epochs": 3}

    def train_queries(name: str, **more: Any) -> dict[str, Any]:
        given = TrainSettings(**options, output=str(tmp_path / name), **more)
        return run_simcse(given, progress=False)

    wanted = train_queries("whole", checkpoints=False)
    for place, number in (("within", 2), ("after", 2)):
        undo = end_at(place, number)
        with pytest.raises(Killed):
            train_queries("m", resume=place == "after")
        undo()
    assert checkpoints_in(tmp_path / "m", "simcse") == ["checkpoint-12", "checkpoint-8"]
    found = train_queries("m", resume=True)
    check_same(tmp_path / "m", tmp_path / "whole")
    assert found["training"]["simcse"]["kept_epoch"] == wanted["training"]["simcse"]["kept_epoch"]
    assert {path.name for path in tmp_path.iterdir()} == {"m", "whole"}


def test_a_simcse_teacher_is_not_trained_again(folder: Path, tmp_path: Path) -> None:
    options = {**options_of("bert", folder), "estimator": "simcse", "epochs": 2}
    run(tmp_path / "whole", options, checkpoints=False)
    undo = end_at("after", 11)  # ten epochs of SimCSE, one of the model
    with pytest.raises(Killed):
        run(tmp_path / "m", options)
    undo()
    with counted_steps() as trained:
        run(tmp_path / "m", options, resume=True)
    assert len(trained) == 4
    check_same(tmp_path / "m", tmp_path / "whole")
    check_same(tmp_path / "m-teacher", tmp_path / "whole-teacher")
    assert not list(tmp_path.glob("*previous")) and not list(tmp_path.glob("*-checkpoint"))


def test_two_ranks_go_on(folder: Path, cache: Path, tmp_path: Path) -> None:
    """Each with its own dropout."""
    options = {**options_of("bert", folder), "batch_size": 17}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    flags = [flag for flag in flags if not flag.endswith(("True", "False"))]
    command = [sys.executable, str(HERE / "training_killed.py"), "ranks", str(tmp_path)]
    command += [free_port(), free_port(), free_port(), "--", *flags, "--no-compare"]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "OMP_NUM_THREADS": "1"}
    started = []
    for rank in ("0", "1"):
        own = environment(cache, **place, RANK=rank, LOCAL_RANK=rank)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, env=own, text=True, **pipes))
    try:
        shown = [each.communicate(timeout=240) for each in started]
    finally:
        for each in started:
            each.kill()
    assert [each.returncode for each in started] == [0, 0], shown
    check_same(tmp_path / "killed", tmp_path / "whole")
    report = json.loads((tmp_path / "killed/metrics.json").read_text())
    assert report["ranks"] == 2 and report["training"]["soft-infonce"]["steps"] == 12
    assert {path.name for path in tmp_path.iterdir()} == {"killed", "whole"}
