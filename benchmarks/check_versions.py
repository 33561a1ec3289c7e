"""The drop-in losses' tests with other versions of torch and sentence-transformers.

    python benchmarks/check_versions.py --torch 2.13.0 --sentence-transformers 5.4.1 6.0.1
        [--venv FOLDER] [--all-losses] [--json OUT]

Makes a virtual environment with one version of torch, installs this checkout and, in turn, each
version of sentence-transformers into it, runs the tests and removes it. A cell that was measured
before is replaced, the others stay. `--all-losses` runs the tests of the losses themselves, too:
what a version of torch may break. A failed test ends the run with status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

import machine

ROOT = Path(__file__).resolve().parent.parent
NAME = "versions"
DROP_IN = ("test_sentence_transformers*.py", "test_cached_loss.py", "test_distributed.py")
DROP_IN += ("test_row_numbers.py", "test_estimators_own_texts.py")
LOSSES = ("test_functional.py", "test_native.py", "test_loss_edges.py")
TOLD = ("torch", "sentence-transformers", "transformers", "datasets", "accelerate", "numpy")


def files(patterns: tuple[str, ...]) -> list[str]:
    found = [path for each in patterns for path in sorted((ROOT / "python_tests").glob(each))]
    return [str(path.relative_to(ROOT)) for path in found]


def install(python: Path, *packages: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)


def versions(python: Path) -> dict[str, str]:
    code = "import importlib.metadata as m, json, sys\n"
    code += "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
    done = subprocess.run([python, "-c", code, *TOLD], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def run(python: Path, chosen: list[str], cache: Path) -> dict[str, Any]:
    """Return how many tests ended how, and what failed."""
    report = cache / "report.xml"
    report.unlink(missing_ok=True)
    environment = {**os.environ, "SOFTNCE_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    command = [python, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "-n", "2"]
    command += ["--timeout=3600"]  # a slow machine is no fault of a version
    command += [f"--junitxml={report}", *chosen]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if not report.is_file():
        raise SystemExit(f"pytest did not run: {(done.stdout + done.stderr)[-2000:]}")
    found: dict[str, Any] = {"passed": 0, "skipped": {}, "failed": {}}
    for case in xml.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}"
        ended = {child.tag: child for child in case}
        for tag, kind in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
            if tag in ended:
                found[kind][name] = (ended[tag].get("message") or "").partition("\n")[0][:200]
                break
        else:
            found["passed"] += 1
    return found


def known(path: str | None) -> list[dict[str, Any]]:
    file = machine.target(path, NAME)
    return json.loads(file.read_text())["results"]["cells"] if file.is_file() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", required=True)
    parser.add_argument("--sentence-transformers", nargs="+", required=True)
    parser.add_argument("--venv", type=Path, help="keep the environment in this folder")
    parser.add_argument("--all-losses", action="store_true", help="run the losses' tests as well")
    parser.add_argument("--json", help="result file")
    args = parser.parse_args()
    chosen = files(DROP_IN + LOSSES if args.all_losses else DROP_IN)
    cells = known(args.json)
    whole = True
    with tempfile.TemporaryDirectory() as folder:
        home = args.venv or Path(folder) / "env"
        python = home / "bin" / "python"
        if not python.is_file():
            venv.create(home, with_pip=True)
            install(python, f"torch=={args.torch}")
        for version in args.sentence_transformers:
            # Together, so that the resolver keeps torch.
            wanted = [f"torch=={args.torch}", f"sentence-transformers=={version}"]
            install(python, *wanted, f"{ROOT}[test]")
            subprocess.run([python, "-m", "pip", "uninstall", "-qy", "softnce-ext"], check=True)
            told = versions(python)
            ended = run(python, chosen, Path(folder))
            whole &= not ended["failed"]
            print(f"{told}: {ended['passed']} passed, {len(ended['failed'])} failed", flush=True)
            for test, reason in ended["failed"].items():
                print(f"  {test}: {reason}", flush=True)
            cell = {"versions": told, "commit": machine.facts()["commit"], **ended}
            cell["losses"] = args.all_losses
            same = ("torch", "sentence-transformers")
            cells = [c for c in cells if any(c["versions"][n] != told[n] for n in same)]
            cells.append(cell)
            cells.sort(key=lambda each: [key(each["versions"][name]) for name in same])
            machine.write(args.json, NAME, {"cells": cells}, quiet=True)
        shutil.rmtree(Path(folder), ignore_errors=True)
    return int(not whole)


def key(version: str) -> list[int]:
    return [int(part) for part in version.split("+")[0].split(".") if part.isdigit()]


if __name__ == "__main__":
    sys.exit(main())
