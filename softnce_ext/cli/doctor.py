"""`softnce doctor`: what is found, built, cached and chosen, and the command that mends it."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report; the exit code is 0 where every device runs its native ops, else 1."""
    from .. import native, ops

    # Look before loading: loading may build, and the report should tell what was there.
    report = native.report()
    devices = ["cpu"] + (["cuda"] if report["gpus"] else [])
    chosen = {}
    for device in devices:
        name = "_C_cuda" if device == "cuda" else "_C"
        built = report["libraries"][name]["state"] == "built"
        missing = report["libraries"][name].get("missing", [])
        if built:
            reason = ops.unavailable(device)
            chosen[device] = "native" if reason is None else f"torch: {reason}"
        elif missing:
            chosen[device] = f"torch: {missing[0]}"
        elif report["is_jit_disabled"]:
            chosen[device] = f"torch: {name} is not built and SOFTNCE_DISABLE_JIT=1 forbids it"
        else:
            chosen[device] = "native, built by the first call or by `softnce build`"
    report["chosen"] = chosen
    report["cure"] = _cure(report)
    if args.json:
        print(json.dumps(report))
    else:
        _print(report)
    return 0 if all(choice.startswith("native") for choice in chosen.values()) else 1


def _cure(report: dict[str, Any]) -> str | None:
    """Return the one command that mends what is missing, or None where nothing is."""
    tools = report["tools"]
    pip = [tool for tool in ("cmake", "ninja") if tools[tool] is None]
    needs_nvcc = bool(report["gpus"]) and tools["nvcc"] is None
    if tools["c++"] is None:
        return "apt install g++   (or set CXX to a C++17 compiler)"
    if pip:
        return f"pip install {' '.join(pip)}"
    if needs_nvcc:
        return f"install the CUDA {report['cuda']} toolkit and set CUDA_HOME to its folder"
    if any(entry["state"] == "not built" for entry in report["libraries"].values()):
        unset = "env -u SOFTNCE_DISABLE_JIT " if report["is_jit_disabled"] else ""
        return f"{unset}softnce build"
    return None


def _print(report: dict[str, Any]) -> None:
    gpus = ", ".join(report["gpus"]) or "none"
    print(f"python    {report['python']}")
    print(f"torch     {report['torch']}, CUDA {report['cuda'] or 'no'}, GPUs: {gpus}")
    for tool, found in report["tools"].items():
        print(f"{tool:9s} " + (f"{found['path']} ({found['version']})" if found else "not found"))
    print(f"sources   {report['sources']}")
    print(f"cache     {', '.join(report['cache'])}")
    for name, entry in report["libraries"].items():
        print(f"{name:9s} {entry['state']}" + (f": {entry['path']}" if "path" in entry else ""))
        for sentence in entry.get("missing", []):
            print(f"          {sentence}")
    for device, choice in report["chosen"].items():
        print(f"{device:9s} runs {choice}")
    print(f"to mend   {report['cure'] or 'nothing'}")
