"""What the benchmarks' result files say of themselves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from models import tiny_rows, write_rows

MACHINE = Path(__file__).resolve().parent.parent / "benchmarks" / "machine.py"


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        ((), False),
        (("benchmarks/results/loss_cpu.json", "README.md"), False),
        (("notes.txt", "benchmarks/results/new.json"), False),  # git does not know them
        (("benchmarks/results/loss_cpu.json", "code.py"), True),
    ],
)
def test_the_commit_is_dirty_where_what_is_measured_was_changed(tmp_path, changed, dirty):
    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    shutil.copy(MACHINE, tmp_path / "benchmarks")
    for name in ("benchmarks/results/loss_cpu.json", "README.md", "code.py"):
        (tmp_path / name).write_text("before")
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost")
    run("git", "init", "-q")
    run("git", "add", ".")
    run("git", *who, "commit", "-q", "-m", "all")
    for name in changed:
        (tmp_path / name).write_text("after")
    code = "import os, machine; os.environ.pop('COMMIT', None); print(machine._commit())"
    said = run(sys.executable, "-B", "-c", f"import sys; sys.path[:0] = ['benchmarks']; {code}")
    assert said == run("git", "rev-parse", "--short", "HEAD") + ("-dirty" if dirty else "")


def test_the_loss_benchmark_says_what_it_does_and_small_peaks_in_full(tmp_path):
    script = MACHINE.with_name("bench_loss.py")
    options = [
        "--rows",
        "64",
        "--dimension",
        "8",
        "--repeats",
        "3",
        "--contenders",
        "native",
        "--similarity",
        "none",
    ]
    done = subprocess.run(
        [sys.executable, str(script), *options, "--json", str(tmp_path / "loss.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"  native .* peak [1-9]\d* KiB", done.stdout)
    steps = [line for line in done.stderr.splitlines() if line.startswith("  ... ")]
    assert steps[:2] == ["  ... N = M = 64, none", "  ... native: held to the truth and weighed"]
    assert steps[-1] == "  ... 2 contenders in turn, 3 rounds"


def test_the_cached_benchmark_holds_all_to_one_truth(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(MACHINE.parent))
    import bench_cached

    file = tmp_path / "cached.json"
    options = ["--rows", "96", "--dimension", "16", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["bench_cached.py", *options])
    assert bench_cached.main() == 0
    none, teacher = json.loads(file.read_text())["results"]["steps"]
    assert set(none["contenders"]) == {"native", "cached MNRL", "eager"}
    assert set(teacher["contenders"]) == {"native", "eager"}
    for row in (*none["contenders"].values(), *teacher["contenders"].values()):
        assert row["rounds"] == 3 and row["over_native"] > 0 and max(row["relative_error"]) < 1e-5
    library = none["contenders"]["cached MNRL"]
    assert re.search(
        rf"cached MNRL .* {library['over_native']:.2f} x ours", capsys.readouterr().out
    )


def test_the_estimators_tables_are_encoded_from_texts_and_their_cost_is_shown(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(MACHINE.parent))
    import bench_estimators
    import tables

    monkeypatch.setitem(bench_estimators.ENCODERS, "small", (1, 32, 2))
    data = write_rows(tmp_path / "pairs.jsonl", tiny_rows())
    pairs = bench_estimators.real_pairs(data, 20)
    found, costs = bench_estimators.estimators(None, "small", pairs, str(tmp_path))
    assert [len(found[name].tables) for name in ("simcse", "trained")] == [1, 2]
    model = found["trained"].encoder.model
    wanted = model.encode_document([pair.code for pair in pairs])
    assert abs(found["trained"].tables["code"].vectors - wanted).max() < 1e-5
    assert [costs[name]["texts"] for name in ("simcse", "trained")] == [20, 40]
    assert all(each["seconds"] > 0 and each["megabytes"] > 0 for each in costs.values())

    results = {"rows": 32, "step_ms": 9.0, "estimators": {"bm25": {"extra_ms": 1, "share": 0.1}}}
    measured = {"machine": tables.load("estimators_cpu")["machine"], "results": results}
    monkeypatch.setattr(tables, "load", lambda name: measured)
    assert "ncoding" not in tables.estimators()  # a file from before that was measured
    results["encoding"] = {"trained": {"texts": 4000, "seconds": 98.6, "megabytes": 6.144}}
    assert "encoding, trained model: 4,000 texts in 99 s, 6.1 MB." in tables.estimators()


def test_a_cell_whose_loss_or_weights_stand_still_is_not_sound(monkeypatch):
    monkeypatch.syspath_prepend(str(MACHINE.parent))
    import check_systems

    found = {"finite": True, "losses": 6, "moved": 1.0, "loaded": True, "mrr": 0.1}
    assert check_systems.is_sound(found)
    for wrong in (
        {"losses": 1},
        {"moved": 0.0},
        {"loaded": False},
        {"mrr": 0.0},
        {"finite": False},
    ):
        assert not check_systems.is_sound({**found, **wrong})
    assert not check_systems.is_sound({"error": "ValueError: no"})


def test_a_recorded_command_names_no_path_of_the_machine():
    words = ["/a/b/bench.py", "--data", "/a/pairs", "--rows", "3", "--json", "/a/out.json"]
    code = f"import machine; print(machine._command({words}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=MACHINE.parent, capture_output=True, text=True
    )
    assert done.stdout == "python benchmarks/bench.py --data pairs --rows 3\n"
