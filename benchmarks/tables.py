"""Write README's figures from the committed result files.

    python benchmarks/tables.py [--check]

A block between `<!-- figures: NAME -->` and `<!-- end -->` is replaced by what `NAME` below makes
of benchmarks/results/; a file that is not there leaves "not measured". `--check` only compares.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def where(data: dict[str, Any]) -> str:
    m = data["machine"]
    versions = f"torch {m['torch']}" if "torch" in m else f"numba {m.get('numba')}"
    return f"{m['processor']}, {m['cores']} cores, {versions}, commit {m['commit']}, {m['date']}"


def loss() -> str:
    data = load("loss_cpu")
    lines = [
        "| N = M | the four GEMMs | this package | its torch path | eager torch |",
        "|---|---|---|---|---|",
    ]
    for entry in data["results"]["steps"]:
        row = entry["contenders"]
        cells = [f"{row['gemms']['time_ms']:.2f} ms"]
        cells += [f"{row[name]['over_gemms']:.2f} x" for name in ("native", "torch path", "eager")]
        lines.append(f"| {entry['rows']} | {' | '.join(cells)} |")
    last = data["results"]["steps"][-1]
    peaks = {name: row.get("peak_mib") for name, row in last["contenders"].items()}
    lines += [
        "",
        f"Peak memory of a step at N = {last['rows']} beside inputs and gradients: "
        f"{peaks['native']:.0f} MiB, eager {peaks['eager']:.0f} MiB.",
        f"fp32, D = {last['dimension']}, {last['threads']} threads; {where(data)}; "
        "`python benchmarks/bench_loss.py`.",
    ]
    return "\n".join(lines)


def bm25() -> str:
    data = load("bm25_cpu")
    found = data["results"]
    lines = [
        "| N | this package, 1 thread | rank_bm25 | bm25s (numba) |",
        "|---|---|---|---|",
    ]
    for entry in found["batches"]:
        row = entry["contenders"]
        ours = f"{row['ours, 1 thread']['time_ms']:.3f} ms"
        peers = [f"{row[name]['ratio']:.0f} x" for name in ("rank_bm25", "bm25s, numba")]
        lines.append(f"| {entry['rows']} | {ours} | {' | '.join(peers)} |")
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n".join([*lines, "", f"{where(data)}; {versions}; `python benchmarks/bench_bm25.py`."])


def start() -> str:
    data = load("start")
    lines = ["| | seconds |", "|---|---|"]
    lines += [f"| {name} | {value['median_s']:.2f} |" for name, value in data["results"].items()]
    return "\n".join([*lines, "", f"{where(data)}; `python benchmarks/bench_start.py`."])


def train() -> str:
    data = load("train")
    report = data["results"]
    lines = ["```", *report["printed"], "```", "", f"{where(data)}; `softnce train`."]
    return "\n".join(lines)


def search() -> str:
    return "\n".join(["```", *load("train")["results"]["search"], "```"])


def difference() -> str:
    data = load("train")
    lines = ["| seed | soft-infonce minus infonce, MRR | hybrid minus the strongest lexical |"]
    lines += ["|---|---|---|"]
    for run in data["results"]["runs"]:
        gaps = run["differences"]
        soft = gaps["soft-infonce minus infonce"]["words"]
        hybrid = next(gap["words"] for name, gap in gaps.items() if name.startswith("hybrid"))
        lines.append(f"| {run['seed']} | {soft} | {hybrid} |")
    return "\n".join([*lines, "", f"{where(data)}; `python benchmarks/bench_train.py`."])


BLOCKS = {
    "difference": difference,
    "train": train,
    "search": search,
    "loss": loss,
    "bm25": bm25,
    "start": start,
}


def render(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        try:
            body = BLOCKS[name]()
        except FileNotFoundError:
            body = "not measured"
        return f"<!-- figures: {name} -->\n{body}\n<!-- end -->"

    return re.sub(r"<!-- figures: (\w+) -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where README differs")
    args = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text()
    wanted = render(text)
    if args.check:
        return int(text != wanted)
    readme.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
