"""What every result file says of where it was measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import date
from pathlib import Path
from typing import Any


def facts() -> dict[str, Any]:
    """Describe machine, versions and commit."""
    import numpy
    import torch

    root = Path(__file__).resolve().parent.parent
    commit = _git(root, "rev-parse", "--short", "HEAD")
    # The results themselves are written by this run and by those before it.
    if _git(root, "status", "--porcelain", "--", ".", ":!benchmarks/results", ":!README.md"):
        commit += "-dirty"
    return {
        "date": date.today().isoformat(),
        "commit": commit or "unknown",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
    return done.stdout.strip()


def write(path: str | None, name: str, results: Any) -> None:
    """Write results with the machine's facts to `path` (default: benchmarks/results/NAME.json)."""
    target = Path(path) if path else Path(__file__).resolve().parent / "results" / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"machine": facts(), "results": results}, indent=1) + "\n")
    print(f"written to {target}")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
