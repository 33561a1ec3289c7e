"""The paper's systems end to end: each backbone in each language, each loss with each estimator."""

from __future__ import annotations

import json
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from codesearchnet_dumps import COUNTS, write_lists, write_zip
from language_rows import LANGUAGES, language_rows, write_languages
from models import write_rows
from tiny_backbones import save_tiny_backbone
from tiny_distilbert import distilbert

from softnce_ext.cli.main import main
from softnce_ext.data.codesearchnet_folder import TABLE_6
from softnce_ext.encoders.backbones import build_backbone
from softnce_ext.encoders.saved import load_encoder
from softnce_ext.estimators.cache import model_hash
from softnce_ext.training import callbacks, compare, simcse
from softnce_ext.training.job import TrainingJob
from softnce_ext.training.settings import LOSSES, UNWEIGHTED, TrainSettings
from softnce_ext.training.systems import SYSTEMS

TEXTS = [row[key] for name in LANGUAGES for row in language_rows(name) for key in ("query", "code")]
ESTIMATORS = ("bm25", "simcse", "trained")
WITH_ESTIMATOR = [name for name in LOSSES if name not in UNWEIGHTED]
# 3 backbones x 6 languages, and over them all 6 losses x 3 estimators.
CELLS = [
    (preset, language, WITH_ESTIMATOR[j], ESTIMATORS[(i + j) % 3])
    for i, preset in enumerate(SYSTEMS)
    for j, language in enumerate(LANGUAGES)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random backbones and data of six languages."""
    root = tmp_path_factory.mktemp("systems")
    save_tiny_backbone(root / "roberta", TEXTS)
    distilbert(TEXTS, root / "bert").save(str(root / "simcse"))
    write_languages(root / "all.jsonl", *LANGUAGES)
    return root


@pytest.fixture(autouse=True)
def _alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> None:
    monkeypatch.setattr(compare, "installed_model", lambda: None)
    monkeypatch.setattr(simcse, "SIMCSE_MODEL", str(folder / "simcse"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def run(folder: Path, output: Path, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "model": str(folder / "roberta"),
        "data": str(folder / "all.jsonl"),
        "output": str(output),
        "batch_size": 8,
        "epochs": 1,
        "learning_rate": 1e-3,
        # To random weights, all pairs are nearly as similar as the pair itself.
        **({"ratio": 1.0} if options.get("loss") == "threshold" else {}),
        **options,
    }
    return TrainingJob(TrainSettings(**given), progress=False).run()


def language_of(preset: str) -> dict[str, str]:
    return {"language": "go"} if preset == "graphcodebert" else {}


def test_the_cells_are_every_loss_with_every_estimator() -> None:
    assert len({cell[:2] for cell in CELLS}) == len({cell[2:] for cell in CELLS}) == 18


@pytest.mark.parametrize(("preset", "language", "loss", "kind"), CELLS)
def test_system_trains_end_to_end(
    folder: Path, tmp_path: Path, preset: str, language: str, loss: str, kind: str
) -> None:
    options = {"preset": preset, "language": language, "loss": loss, "estimator": kind}
    report = run(folder, tmp_path / "m", **options)
    steps = map(json.loads, (tmp_path / "m/training.jsonl").read_text().splitlines())
    losses = torch.tensor([step["loss"] for step in steps])
    assert len(losses) == 4 and losses.isfinite().all()
    row = next(each for each in report["results"] if each["name"] == loss)
    assert 0 < row["mrr"] <= 1
    assert set(report["teacher"]) == {"bm25": set(), "simcse": {"query"}}.get(
        kind, {"query", "code"}
    )
    model, told = load_encoder(str(tmp_path / "m"))
    assert model[0].kind == preset and told.form == "source"  # only prepared data have tokens
    start, _ = load_encoder(str(folder / "roberta"))
    trained = model[0].encoder.state_dict()
    assert any(
        not torch.equal(trained[name], value)
        for name, value in start[0].auto_model.state_dict().items()
        if name in trained
    )


@pytest.mark.parametrize("preset", SYSTEMS)
def test_preset_trains_by_cosine(folder: Path, tmp_path: Path, preset: str) -> None:
    options = {"preset": preset, "language": "go", "scoring": "cosine", "estimator": "trained"}
    report = run(folder, tmp_path / "m", **options, temperature=0.1)
    assert report["settings"]["scoring"] == "cosine"
    told = json.loads((tmp_path / "m/softnce.json").read_text())["loss"]
    assert told["scale"] == 20.0
    model, _ = load_encoder(str(tmp_path / "m"))
    start = build_backbone(preset, folder / "roberta", cosine=True, **language_of(preset))
    texts = [row["query"] for row in language_rows("go")[:5]]
    vectors = model.encode_query(texts)
    assert (vectors**2).sum(1) == pytest.approx(1) and model.similarity_fn_name == "cosine"
    assert abs(vectors - start.encode_query(texts)).max() > 1e-3
    lines = (tmp_path / "m/training.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert 0 < min(losses) < max(losses) < 50  # scores are within [-20, 20]


def test_prepared_language_is_ranked_against_its_whole_code_base(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(TABLE_6, "ruby", COUNTS)
    dump, lists = write_zip(tmp_path, "ruby"), write_lists(tmp_path / "lists", "ruby")
    words = ["prepare", "csn", str(dump), "--lists", str(lists), "-o", str(tmp_path / "csn")]
    assert main([*words, "--languages", "ruby", "--no-progress"]) == 0
    model = tmp_path / "m"
    command = f"train --preset codebert --model {folder / 'roberta'} --data {tmp_path / 'csn'}"
    command += f" --language ruby --estimator bm25 --bm25-rules published --output {model}"
    command += " --epochs 1 --batch-size 2"
    capsys.readouterr()
    assert main(command.split()) == 0
    shown = capsys.readouterr().out
    assert "trained on 5 pairs" in shown and "tested on 3 queries against 7 functions" in shown
    assert "a rank beyond 1,000 counts as 0, as in the paper\n" in shown
    assert "not the paper's data" not in shown
    told = json.loads((model / "softnce.json").read_text())
    assert told["form"] == "tokens" and told["settings"]["learning_rate"] == 1e-6
    trained = json.loads((model / "metrics.json").read_text())
    assert main(["evaluate", str(model), "--data", str(tmp_path / "csn" / "ruby"), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    mrr = {row["name"]: row["mrr"] for row in trained["results"]}
    again = {row["name"]: row["mrr"] for row in evaluated["results"]}
    assert again["dense"] == pytest.approx(mrr["soft-infonce"], abs=1e-6)
    # Another run's split, and a model that reads code as it stands: the same task for both.
    other = tmp_path / "other"
    command = command.replace("codebert", "graphcodebert").replace("bm25-rules published", "seed 2")
    command = command.replace(f"--output {model}", f"--output {other}").replace(
        "--language ruby", ""
    )
    assert main(command.split()) == 0
    assert "tested on 3 queries against 7 functions" in capsys.readouterr().out
    manifest = ["--manifest", str(other / "manifest.json")]
    assert main([*command.split(), *manifest]) == 0
    assert "tested on 3 queries against 7 functions" in capsys.readouterr().out
    alone = json.loads((other / "metrics.json").read_text())["results"]
    words = ["evaluate", str(model), "--data", str(tmp_path / "csn" / "ruby"), "--json"]
    assert main([*words, "--compare", str(other)]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    theirs = [row["mrr"] for row in rows if row["name"].startswith("dense")]
    wanted = next(row["mrr"] for row in alone if row["name"] == "soft-infonce")
    assert wanted in [pytest.approx(mrr, abs=1e-6) for mrr in theirs]


@pytest.mark.parametrize("initialised", [False, True])
@pytest.mark.parametrize("mode", ["frozen", "online", "online-second-pass"])
def test_corners_of_the_trained_estimator(
    folder: Path, tmp_path: Path, mode: str, initialised: bool
) -> None:
    common: dict[str, Any] = {"preset": "unixcoder", "language": "go"}
    corner = {"teacher_mode": mode, "init_student_from_teacher": initialised}
    report = run(folder, tmp_path / "m", **common, estimator="trained", **corner)
    # Without a teacher of its own a run trains one first, unless the student is its teacher.
    assert ("infonce" in report["training"]) == (mode == "frozen" or initialised)
    assert bool(report["teacher"]) == (mode == "frozen")
    run(folder, tmp_path / "teacher", **common, loss="infonce")
    if mode == "frozen" or initialised:
        corner["teacher"] = str(tmp_path / "teacher")
    barely = {"max_steps": 1, "learning_rate": 1e-9}
    run(folder, tmp_path / "s", **common, estimator="trained", **corner, **barely)
    student, teacher = (load_encoder(str(tmp_path / name))[0] for name in ("s", "teacher"))
    theirs = teacher.state_dict()
    same = all(
        torch.allclose(value, theirs[name], atol=1e-6)
        for name, value in student.state_dict().items()
    )
    assert same == initialised


def test_simcse_is_trained_and_used_as_a_teacher(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, data = tmp_path / "simcse", folder / "all.jsonl"
    command = f"train --loss simcse --data {data} --language java --output {output}"
    assert main([*command.split(), "--epochs", "1", "--batch-size", "8"]) == 0
    assert f"--estimator simcse --teacher {output}" in capsys.readouterr().out
    report = json.loads((output / "metrics.json").read_text())
    assert report["training"]["simcse"]["steps"] == 4
    steps = [json.loads(line) for line in (output / "training.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps]
    assert report["training"]["simcse"]["mean"]["loss"] == pytest.approx(sum(losses) / 4)
    assert report["split"]["train"]["rows"] == report["queries"] == 30
    assert report["versions"]["torch"] == torch.__version__
    assert report["settings"]["mask_duplicates"] is False and report["seconds"]["total"] > 0
    assert "alpha" not in report["settings"] and "estimator" not in report["settings"]
    assert json.loads((output / "softnce.json").read_text())["settings"]["simcse"]["epochs"] == 1
    for mode in ("masked", "reference"):
        report = run(
            folder,
            tmp_path / mode,
            preset="codebert",
            language="java",
            estimator="simcse",
            simcse_mode=mode,
            query_length=48,
            teacher=str(output),
        )
        assert report["teacher"]["query"]["rows"] == 30
        assert set(report["training"]) == {"soft-infonce"}
        assert report["training"]["soft-infonce"]["mean"]["low_weights"] >= 0


def test_saved_preset_keeps_its_grammar_and_takes_new_lengths(folder: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"preset": "graphcodebert", "loss": "infonce"}
    run(folder, tmp_path / "php", **common, language="php")
    common["model"] = str(tmp_path / "php")
    with pytest.raises(ValueError, match="language must be that of the saved model .*, php, got g"):
        run(folder, tmp_path / "go", **common, language="go")
    run(folder, tmp_path / "m", **common, language="php", query_length=20, code_length=64)
    model, _ = load_encoder(str(tmp_path / "m"))
    assert (model[0].query_length, model[0].code_length) == (20, 64)
    run(folder, tmp_path / "n", **{**common, "model": str(tmp_path / "m")}, language="php")
    told = json.loads((tmp_path / "n/softnce.json").read_text())["settings"]
    assert (told["query_length"], told["code_length"], told["form"]) == (20, 64, "source")


def test_model_of_another_language_reads_no_code(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither as a teacher, nor trained or evaluated without a preset."""
    java, go = tmp_path / "java", write_languages(tmp_path / "go.jsonl", "go")
    options = {"language": "java", "loss": "infonce", "max_steps": 1}
    run(folder, java, preset="graphcodebert", **options)
    wanted = "must be of the language of the code, go, got one that reads java"
    trained: dict[str, Any] = {"language": "go", "estimator": "trained", "max_steps": 1}
    teacher = {"preset": "graphcodebert", "teacher": str(java)}
    with pytest.raises(ValueError, match=f"^teacher {java} {wanted}"):
        run(folder, tmp_path / "m", **trained, **teacher)
    with pytest.raises(ValueError, match=f"^model {java} {wanted}"):
        run(folder, tmp_path / "m", language="go", loss="infonce", model=str(java))
    assert main(["evaluate", str(java), "--data", str(go)]) == 1
    assert wanted in capsys.readouterr().err
    (tmp_path / "a.go").write_text(language_rows("go")[0]["code"])
    search = ["search", str(java), "sum", "--code", str(tmp_path), "--language", "go"]
    assert main(search) == 1
    assert wanted in capsys.readouterr().err
    # Weights are of no language: a student may start from them.
    start = {"teacher_mode": "online", "init_student_from_teacher": True}
    assert run(folder, tmp_path / "m", **trained, **teacher, **start)["results"]


def test_second_pass_weighs_by_vectors_of_its_own_dropout(folder: Path, tmp_path: Path) -> None:
    options = {"preset": "codebert", "language": "go", "estimator": "trained", "max_steps": 1}
    losses = [
        run(folder, tmp_path / mode, **options, teacher_mode=mode)["training"]["soft-infonce"]
        for mode in ("online", "online-second-pass")
    ]
    one, other = (each["mean"]["loss"] for each in losses)
    assert one != other and one == pytest.approx(other, abs=0.5)


def test_student_does_not_start_from_a_teacher_of_another_tokenizer(
    folder: Path, tmp_path: Path
) -> None:
    save_tiny_backbone(tmp_path / "other", [text[::-1] for text in TEXTS])
    teacher = build_backbone("codebert", tmp_path / "other")
    teacher.save(str(tmp_path / "teacher"))
    options = {"preset": "codebert", "language": "go", "estimator": "trained"}
    options |= {"teacher": str(tmp_path / "teacher")}
    for mode in ("frozen", "online"):
        start = {"teacher_mode": mode, "init_student_from_teacher": True}
        with pytest.raises(ValueError, match="needs a teacher of the student's tokenizer"):
            run(folder, tmp_path / "m", **options, **start)
    assert not (tmp_path / "m").exists()


def test_teacher_trained_first_is_kept_and_can_be_used_again(folder: Path, tmp_path: Path) -> None:
    options = {"preset": "codebert", "language": "go", "estimator": "trained"}
    first = run(folder, tmp_path / "a", **options)
    again = run(folder, tmp_path / "b", **options, teacher=str(tmp_path / "a-teacher"))
    assert set(first["training"]) == {"infonce", "soft-infonce"}
    assert set(again["training"]) == {"soft-infonce"}
    assert not again["teacher"]["code"]["built"]  # the same weights, so the same table
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert one == other


@pytest.mark.parametrize("epoch", [0, 1])
def test_ctrl_c_in_simcse_leaves_its_last_whole_epoch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, epoch: int
) -> None:
    keep = callbacks.KeepBest.on_epoch_end

    def interrupted(self: Any, *args: Any, **options: Any) -> None:
        if epoch:
            keep(self, *args, **options)
        signal.raise_signal(signal.SIGINT)

    at = "on_epoch_end" if epoch else "on_step_begin"
    monkeypatch.setattr(callbacks.KeepBest, at, interrupted)
    output = tmp_path / "simcse"
    command = f"train --loss simcse --data {folder / 'all.jsonl'} --language java --epochs 3"
    command += f" --simcse-settings original --batch-size 8 --output {output}"
    assert main(command.split()) == 130
    last = capsys.readouterr().err.strip().splitlines()[-1]
    if not epoch:
        assert last.endswith("interrupted: nothing was written") and not output.exists()
        return
    assert last.endswith(
        f"interrupted: {output} holds the encoder after epoch 1 of 3; --resume goes on with the run"
    )
    encoder, _ = load_encoder(str(output))
    assert len(encoder) == 2  # the layer on top is there in training alone
    assert json.loads((output / "softnce.json").read_text())["settings"]["simcse"]["epochs"] == 3


def test_simcse_trained_first_is_kept_and_can_be_used_again(
    folder: Path, tmp_path: Path, capsys: Any
) -> None:
    options = {"preset": "codebert", "language": "go", "estimator": "simcse", "precision": "bf16"}
    options |= {"model": str(folder / "roberta"), "data": str(folder / "all.jsonl")}
    options |= {"batch_size": "8", "epochs": "1", "max_steps": "2", "learning_rate": "1e-3"}
    options |= {"seed": "7", "output": str(tmp_path / "a")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert main(["train", *flags]) == 0
    printed = capsys.readouterr().out
    # The last weights are kept without validation.
    assert "simcse: 2 steps in" in printed and "of 0 kept" not in printed
    told = json.loads((tmp_path / "a-teacher" / "softnce.json").read_text())
    wanted = {"max_steps": 2, "precision": "bf16", "seed": 7}
    assert told["settings"]["simcse"].items() >= wanted.items()
    first = json.loads((tmp_path / "a" / "softnce.json").read_text())
    assert told["data_hash"] == first["data_hash"]
    flags = [*flags[:-1], f"--output={tmp_path / 'b'}", f"--teacher={tmp_path / 'a-teacher'}"]
    assert main(["train", *flags]) == 0
    again = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert set(again["training"]) == {"soft-infonce"}
    assert again["teacher_hash"] == first["teacher_hash"]
    assert not again["teacher"]["query"]["built"]  # the same weights, so the same table
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert one == other


@pytest.mark.parametrize("compared", [False, True])
def test_twin_of_a_teacher_is_ranked_where_that_is_asked_for(
    folder: Path, tmp_path: Path, compared: bool
) -> None:
    options = {"preset": "codebert", "language": "go", "estimator": "trained"}
    report = run(folder, tmp_path / "m", **options, **({"compare": True} if compared else {}))
    names = [row["name"] for row in report["results"]]
    twins = ["untrained", "infonce"] if compared else []
    assert names == ["lexical", "lexical+", *twins, "soft-infonce", "hybrid"]
    assert set(report["training"]) == {"infonce", "soft-infonce"}


def test_everything_that_decides_a_run_is_recorded(folder: Path, tmp_path: Path) -> None:
    options = {"preset": "graphcodebert", "language": "java", "estimator": "trained"}
    report = run(folder, tmp_path / "m", **options)
    told = json.loads((tmp_path / "m" / "softnce.json").read_text())
    teacher, _ = load_encoder(str(tmp_path / "m-teacher"))
    assert report["teacher_hash"] == told["teacher_hash"] == model_hash(teacher)
    for found in (report, told):
        versions = found["versions"]
        assert versions["tree-sitter"] == version("tree-sitter")
        assert versions["tree-sitter-java"] == version("tree-sitter-java")
    of_teacher = json.loads((tmp_path / "m-teacher" / "softnce.json").read_text())
    assert of_teacher["data_hash"] == told["data_hash"] == report["data_hash"]
    assert of_teacher["settings"]["loss"] == "infonce"
    assert not {"estimator", "alpha", "teacher_mode"} & of_teacher["settings"].keys()
    other = run(folder, tmp_path / "n", preset="codebert", language="go", loss="infonce")
    assert other["data_hash"] != report["data_hash"] and "teacher_hash" not in other
    assert "tree-sitter" not in other["versions"]


def test_settings_of_the_losses_reach_them(folder: Path, tmp_path: Path) -> None:
    """Each of them changes the loss of the first step, and is recorded."""
    rows = language_rows("go")
    alike = [{**row, "query": rows[i % 3]["query"]} for i, row in enumerate(rows)]
    common: dict[str, Any] = {"preset": "codebert", "language": "go", "max_steps": 1}
    for loss, changed in (
        ("soft-infonce", {"min_weight": 1.0}),
        ("kl", {"kl_weight": 2.0}),
        ("kl", {"info_nce_weight": 0.5}),
        ("infonce", {"mask_duplicates": False}),
    ):
        if loss == "infonce":
            common["data"] = str(write_rows(tmp_path / "alike.jsonl", alike))
        found = []
        for options in ({}, changed):
            report = run(folder, tmp_path / "m", **common, loss=loss, **options)
            found.append(report["training"][loss]["mean"])
            assert report["settings"].items() >= options.items()
        assert found[0]["loss"] != found[1]["loss"]
        if loss == "infonce":
            assert found[0]["duplicates"] > 0 and "duplicates" not in found[1]


def test_teacher_that_compares_by_cosine_is_compared_so(folder: Path, tmp_path: Path) -> None:
    """Without a module that normalises, too: raw dot products of it mean nothing."""
    options: dict[str, Any] = {"preset": "unixcoder", "language": "go", "estimator": "trained"}
    build_backbone("unixcoder", folder / "roberta").save(str(tmp_path / "dot"))
    raw = build_backbone("unixcoder", folder / "roberta")
    raw.similarity_fn_name = "cosine"
    raw.save(str(tmp_path / "cosine"))
    run(folder, tmp_path / "m", **options, teacher=str(tmp_path / "dot"))
    with pytest.raises(ValueError, match="temperature must be given with a teacher whose vectors"):
        run(folder, tmp_path / "m", **options, teacher=str(tmp_path / "cosine"))
    for corner in ({}, {"teacher_mode": "online"}):  # a transformer without such a module
        bert = {"model": str(folder / "simcse"), "language": "go", "estimator": "trained", **corner}
        with pytest.raises(ValueError, match="temperature must be given with a teacher whose vec"):
            run(folder, tmp_path / "n", **bert)
        assert run(folder, tmp_path / "n", **bert, temperature=0.1, max_steps=1)["results"]
    again = run(
        folder, tmp_path / "m", **options, teacher=str(tmp_path / "cosine"), temperature=0.1
    )
    assert again["teacher"]["code"]["built"]  # not the table of the raw vectors
    assert run(folder, tmp_path / "k", **options, teacher=str(tmp_path / "cosine"), loss="top-k")


def test_training_pairs_among_the_test_pairs_are_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = language_rows("go")
    rows += [{**row, "package": "copy", "partition": "test"} for row in rows[:3]]
    words = ["--data", str(write_rows(tmp_path / "pairs.jsonl", rows)), "--json"]
    output = ["--output", str(tmp_path / "m"), "--vocab-size", "200", "--dimension", "32"]
    assert main(["train", *words, *output, "--loss", "infonce", "--epochs", "1"]) == 0
    trained = json.loads(capsys.readouterr().out)["split"]
    assert trained["trained_on"] == 0  # they were kept in test alone
    assert trained["test"]["rows"] == 12
    seen = [{**row, "partition": "test"} for row in rows[3:6]]
    other = {**rows[5], "query": "Read something else, and much of it.", "partition": "test"}
    data = str(write_rows(tmp_path / "copied.jsonl", [*rows, other]))
    words = ["--data", data, *output, "--loss", "infonce", "--epochs", "1"]
    assert main(["train", *words]) == 0
    told = "the code of 1 of the 13 test pairs stands in the training data too, under another query"
    assert told in capsys.readouterr().out
    data = str(write_rows(tmp_path / "seen.jsonl", seen))
    assert main(["evaluate", str(tmp_path / "m"), "--data", data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"]["trained_on"] == 3
    assert main(["evaluate", str(tmp_path / "m"), "--data", data]) == 0
    assert "3 of the 3 pairs are ones the model was trained on." in capsys.readouterr().out


def test_second_run_finds_the_tables_and_gives_the_same_model(folder: Path, tmp_path: Path) -> None:
    options = {"preset": "graphcodebert", "language": "php", "estimator": "trained"}
    first, second = (run(folder, tmp_path / name, **options) for name in "ab")
    assert [table["built"] for table in second["teacher"].values()] == [False, False]
    assert first["results"] == [
        {**row, "seconds": first["results"][i]["seconds"]}
        for i, row in enumerate(second["results"])
    ]
    for name in ("model.safetensors", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_settings_reach_training(folder: Path, tmp_path: Path) -> None:
    """Scaled alpha weakens more, steps end early, the learning rate rises, bf16 is computed."""
    options = {"preset": "unixcoder", "language": "ruby"}
    plain = run(folder, tmp_path / "p", **options, max_steps=3, warmup_epochs=0.5)
    lines = (tmp_path / "p/training.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    rates = [step["learning_rate"] for step in steps]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3])  # the highest one after half of an epoch
    half = run(folder, tmp_path / "h", **options, max_steps=3, warmup_epochs=0.5, precision="bf16")
    means = [each["training"]["soft-infonce"]["mean"]["loss"] for each in (plain, half)]
    assert means[0] != means[1] and means[1] == pytest.approx(means[0], rel=0.05)
    rule = {"alpha_scaling": "expected", "false_negative_rate": 0.5, "temperature": 5.0}
    fixed = run(folder, tmp_path / "f", **options, temperature=5.0)
    scaled = run(folder, tmp_path / "s", **options, **rule)
    low = [each["training"]["soft-infonce"]["mean"]["low_weights"] for each in (fixed, scaled)]
    assert low[0] < low[1]


def test_epoch_is_chosen_on_test_where_that_is_asked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"train --preset codebert --model {folder / 'roberta'} --language python --epochs 1"
    command += f" --data {folder / 'all.jsonl'} --output {tmp_path / 'm'} --select test"
    assert main([*command.split(), "--batch-size", "8"]) == 0
    assert "the epoch was chosen on the test data" in capsys.readouterr().out
    report = json.loads((tmp_path / "m/metrics.json").read_text())
    row = next(each for each in report["results"] if each["name"] == "soft-infonce")
    assert report["training"]["soft-infonce"]["validation_mrr"] == [pytest.approx(row["mrr"])]


def test_held_out_pairs_of_a_language_that_is_not_read_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    parts = {"java": "train", "php": "valid", "go": "test"}
    rows = [{**row, "partition": parts[name]} for name in parts for row in language_rows(name)]
    data = str(write_rows(tmp_path / "pairs.jsonl", rows))
    with pytest.raises(ValueError, match="reads one, got pairs of go, java, php$"):
        run(folder, tmp_path / "m", preset="graphcodebert", data=data)
    saved = str(tmp_path / "saved")
    build_backbone("graphcodebert", folder / "roberta", language="java").save(saved)
    with pytest.raises(ValueError, match="of the code, go, php, got one that reads java"):
        run(folder, tmp_path / "m", model=saved, data=data)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "graphcodebert"}, "language must be given with preset graphcodebert"),
        ({"preset": "codebert", "language": "java", "data": "go"}, "language must be one of the "),
        ({"preset": "codebert", "model": "nowhere"}, "nowhere"),
        ({"preset": None, "model": "codebert", "scoring": "dot"}, "scoring must be cosine"),
        ({"preset": "unixcoder", "model": "codebert"}, "model must be of preset unixcoder, got"),
        ({"preset": "unixcoder", "estimator": "trained", "scoring": "cosine"}, "temperature must"),
        ({"preset": "codebert", "precision": "tf32"}, "precision tf32 needs an NVIDIA GPU"),
        ({"preset": "codebert", "loss": "top-k", "top_k": 7}, "top_k must leave a negative in a "),
        ({"preset": "codebert", "teacher": "x", "estimator": "simcse"}, "model x: there is no"),
    ],
)
def test_bad_settings_end_with_a_sentence_and_nothing_is_written(
    folder: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    write_languages(folder / "go", "go")
    (folder / "go").rename(folder / "go.jsonl")
    if not (folder / "saved").exists():
        build_backbone("codebert", folder / "roberta", cosine=True).save(str(folder / "saved"))
    known = {"go": folder / "go.jsonl", "codebert": folder / "saved"}
    for name in ("model", "data"):
        if options.get(name) in known:
            options = {**options, name: str(known[options[name]])}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(folder, tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()
