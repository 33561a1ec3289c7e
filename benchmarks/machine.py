"""What every result file says of where it was measured."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def facts() -> dict[str, Any]:
    """Describe machine, versions and commit."""
    import numpy
    import torch

    driver = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "command": _command(sys.argv),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "driver": driver or None,
    }


def need(device: str) -> None:
    """End the process with one sentence where this kind of device is not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device")


def target(path: str | None, name: str) -> Path:
    """Return the result file: `path`, or benchmarks/results/NAME.json."""
    return Path(path) if path else RESULTS / f"{name}.json"


def write(path: str | None, name: str, results: Any, *, quiet: bool = False) -> None:
    """Write results with the machine's facts; whole or not at all, since a run may be killed."""
    file = target(path, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(json.dumps({"machine": facts(), "results": results}, indent=1) + "\n")
    part.replace(file)
    if not quiet:
        print(f"written to {file}")


def _commit() -> str:
    root = str(Path(__file__).resolve().parent.parent)
    commit = os.environ.get("COMMIT") or _said("git", "-C", root, "rev-parse", "--short", "HEAD")
    # The results are written by this run and by those before it; a file git does not know of yet is
    # no change of what is measured.
    others = ("--untracked-files=no", "--", ".", ":!benchmarks/results", ":!README.md", ":!docs")
    if commit and _said("git", "-C", root, "status", "--porcelain", *others):
        commit += "-dirty"
    return commit or "unknown"


def _command(words: list[str]) -> str:
    """Return the command as README tells it: without where result file and folders lie."""
    script, given, shown = Path(words[0]).name, iter(words[1:]), []
    for word in given:
        if word == "--json":
            next(given, None)
        elif not word.startswith("--json="):
            shown.append(Path(word).name if os.path.isabs(word) else word)
    return shlex.join(["python", f"benchmarks/{script}", *shown])


def _said(*command: str) -> str:
    """Return what a tool prints, "" where there is no such tool or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
