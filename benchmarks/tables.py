"""Write the figures of README and docs/ from the committed result files.

    python benchmarks/tables.py [--check]
    python benchmarks/tables.py --show loss_cuda share [--results DIR]

A block between `<!-- figures: NAME -->` and `<!-- end -->` is replaced by what `NAME` below makes
of benchmarks/results/; a file, or a figure, that is not there leaves "not measured". `--check` only
compares, `--show` prints blocks and leaves the pages alone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import scaling

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def where(data: dict[str, Any]) -> str:
    m = data["machine"]
    versions = f"torch {m['torch']}" if "torch" in m else f"numba {m.get('numba')}"
    return f"{m['processor']}, {m['cores']} cores, {versions}, commit {m['commit']}, {m['date']}"


def where_cuda(data: dict[str, Any]) -> str:
    m = data["machine"]
    versions = f"driver {m['driver']}, torch {m['torch']}"
    return f"{m['gpu']}, {versions}, commit {m['commit']}, {m['date']}"


def ran(data: dict[str, Any], script: str) -> str:
    return data["machine"].get("command", f"python benchmarks/{script}.py")


def cell(entry: dict[str, Any], name: str, key: str, form: str, suffix: str = " x") -> str:
    """Return a contender's figure, or in a word why there is none."""
    row = entry["contenders"].get(name, {})
    if row.get(key) is not None:
        return f"{row[key]:{form}}{suffix}"
    reason = entry.get("absent", {}).get(name, "")
    if reason.startswith("does not take"):
        return ""
    return "out of memory" if reason == "out of memory" else "not measured"


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    rows = [f"| {' | '.join(cells)} |" for cells in (head, *lines)]
    return [rows[0], "|---" * len(head) + "|", *rows[1:]]


def memory(mib: str) -> str:
    """Write a figure in MiB with its unit; words stay."""
    if not mib.replace(".", "").isdigit():
        return mib
    value = float(mib)
    if value >= 10240:
        return f"{value / 1024:.1f} GiB"
    return f"{value:.0f} MiB" if value >= 10 else f"{value:.2g} MiB"


OTHERS = {
    "native": "this package",
    "eager": "eager torch",
    "compile": "torch.compile",
    "published": "published form",
    "MNRL": "MNRL",
    "linear_cross_entropy": "linear_cross_entropy",
}


def loss() -> str:
    return loss_table("loss_cpu", OTHERS)


def loss_avx512() -> str:
    names = {name: words for name, words in OTHERS.items() if name != "compile"}
    return loss_table("loss_cpu_avx512", names)


def loss_table(file: str, names: dict[str, str]) -> str:
    data = load(file)
    head = ["N = M", "similarity", "the GEMMs", *names.values(), "memory", "eager's memory"]
    lines = []
    for entry in data["results"]["steps"]:
        cells = [str(entry["rows"]), entry.get("similarity", "teacher")]
        cells += [cell(entry, "gemms", "time_ms", ".2f", " ms")]
        cells += [cell(entry, name, "over_gemms", ".2f") for name in names]
        for name in ("native", "eager"):
            cells.append(memory(cell(entry, name, "peak_mib", ".3f", "")))
        lines.append(cells)
    last = data["results"]["steps"][-1]
    return "\n".join(
        [
            *table(head, lines),
            "",
            "Times as multiples of the matrix products alone (4 with a teacher pair, 3 without); "
            "memory beside inputs and gradients. No figure: the contender has no such similarity.",
            f"{last.get('dtype', 'float32')}, D = {last['dimension']}, {last['threads']} threads; "
            f"{where(data)}; `{ran(data, 'bench_loss')}`.",
        ]
    )


def loss_cuda() -> str:
    data = load("loss_cuda")
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in sorted(data["results"]["steps"], key=lambda each: each["rows"]):
        precision = f"{entry['dtype']}{', TF32 products' * entry['tf32']}, D = Dt = "
        groups.setdefault(f"{precision}{entry['dimension']}", []).append(entry)
    lines = []
    for precision, entries in groups.items():
        lines += [f"{precision}:", "", *loss_cuda_table(entries), ""]
    return "\n".join(
        [
            *lines,
            "GPU time of the step, and what others take as multiples of it. `over the floor`: of "
            "the products' flops or the least traffic at the GPU's measured peaks. CUDA graphs up "
            "to N = 2048, else events. `wall`: plain Python calls. Memory beside inputs and "
            "gradients.",
            f"{where_cuda(data)}; `benchmarks/gpu.sh`.",
        ]
    )


def loss_cuda_table(entries: list[dict[str, Any]]) -> list[str]:
    head = ["N = M", "similarity", "GPU time", "over the GEMMs", "over the floor", "eager"]
    head += ["torch.compile", "max-autotune", "wall, eager", "memory", "eager's memory"]
    lines = []
    for entry in entries:
        time_ms = entry["contenders"].get("native", {}).get("time_ms")
        cells = [str(entry["rows"]), entry["similarity"]]
        cells.append(duration(time_ms) if time_ms else cell(entry, "native", "time_ms", "f"))
        cells.append(cell(entry, "native", "over_gemms", ".2f"))
        floor = entry.get("floor_ms")
        cells.append(f"{time_ms / floor:.2f} x" if floor and time_ms else "not known")
        for name in ("eager", "compile", "compile, max-autotune"):
            cells.append(cell(entry, name, "over_native", ".2f"))
        cells.append(cell(entry, "eager", "wall_over_native", ".2f"))
        for name in ("native", "eager"):
            cells.append(memory(cell(entry, name, "peak_mib", ".3f", "")))
        lines.append(cells)
    return table(head, lines)


def duration(time_ms: float) -> str:
    return f"{1e3 * time_ms:.1f} us" if time_ms < 1 else f"{time_ms:.2f} ms"


def share() -> str:
    """Show whichever of the two devices was measured; FileNotFoundError where none was."""
    found = {}
    for device in ("cpu", "cuda"):
        if (RESULTS / f"loss_share_{device}.json").is_file():
            found[device] = load(f"loss_share_{device}")
    if not found:
        raise FileNotFoundError("no loss_share_*.json")
    head = ["", "device", "rows", "step", "the loss", "in-batch BM25", "all of the loss's side"]
    lines = []
    for device, data in found.items():
        for entry in data["results"]["steps"]:
            if "failed" in entry:
                lines.append([entry["encoder"], device, str(entry["rows"]), "not measured"])
                lines[-1] += [""] * (len(head) - 4)
                continue
            shape = f"{entry['layers']} layers of {entry['width']}"
            name = shape if entry["layers"] else f"static, width {entry['width']}"
            parts = entry["parts"]
            cells = [name, device, str(entry["rows"]), f"{parts['step']['time_ms']:.1f} ms"]
            for part in ("loss", "bm25", "loss side"):
                cells.append(f"{100 * parts[part]['share']:.2f} %")
            lines.append(cells)
    foot = [where_cuda(data) if d == "cuda" else where(data) for d, data in found.items()]
    foot += ["CUDA: not measured"] * ("cuda" not in found)
    return "\n".join(
        [
            *table(head, lines),
            "",
            "All of the loss's side: everything of SoftInfoNCELoss but the encoder, forward and "
            "backward (duplicates, BM25, normalisation, statistics, the loss).",
            f"{'; '.join(foot)}; `{ran(next(iter(found.values())), 'bench_share')}`.",
        ]
    )


def bm25() -> str:
    data = load("bm25_cpu")
    found = data["results"]
    lines = []
    for entry in found["batches"]:
        row = entry["contenders"]
        cells = [str(entry["rows"]), f"{row['ours, 1 thread']['time_ms']:.3f} ms"]
        for name in ("bm25s, numba", "rank_bm25"):
            cells.append(f"{row[name]['ratio']:.0f} x" if name in row else "not measured")
        lines.append(cells)
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    head = ["N", "this package, 1 thread", "bm25s (numba)", "rank_bm25"]
    foot = f"{where(data)}; {versions}; `{ran(data, 'bench_bm25')}`."
    return "\n".join([*table(head, lines), "", foot])


def start() -> str:
    data = load("start")
    lines = []
    for name, value in data["results"].items():
        low, high = value["range_s"]
        lines.append([name, f"{value['median_s']:.2f}", f"{low:.2f} to {high:.2f}"])
    last = f"{where(data)}; `{ran(data, 'bench_start')}`."
    return "\n".join([*table(["", "median, s", "range, s"], lines), "", last])


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
    return "\n".join([*lines, "", f"{where(data)}; `{ran(data, 'bench_train')}`."])


def evaluation() -> str:
    data = load("evaluation_cpu")
    found = data["results"]
    lines = [[name, f"{row['time_s']:.1f} s"] for name, row in found["contenders"].items()]
    lines[-1][0] += f", extrapolated from {found['published_extrapolated_from']} queries"
    mib = [found["peak_resident_mib"], found["published_memory_mib"]]
    foot = (
        f"{found['queries']:,} queries against {found['codes']:,} codes of width "
        f"{found['dimension']}: {found['beyond_gemm_s']:.1f} s beyond the products, "
        f"{mib[0]:.0f} MiB resident with the vectors; a full sort holds {mib[1]:.0f} MiB of "
        "scores and order."
    )
    last = f"{where(data)}; `{ran(data, 'bench_evaluation')}`."
    return "\n".join([*table(["ranking a code base", "time"], lines), "", foot, last])


def finetune() -> str:
    data = load("finetune")
    found = data["results"]
    names = dict.fromkeys(run["name"] for run in found["runs"])
    lines = []
    for name in names:
        mrr = [f"{run['mrr']:.4f}" for run in found["runs"] if run["name"] == name]
        over = {
            gap["second"]: gap["over_seeds"]["words"]
            for gap in found["differences"]
            if gap["first"] == name
        }
        lines.append([name, ", ".join(mrr), over.get("zero-shot", ""), over.get("infonce", "")])
    head = ["", "MRR of each seed", "minus zero-shot", "minus infonce"]
    return "\n".join(
        [
            *table(head, lines),
            "",
            f"{found['model']}, {found['steps']} steps of {found['settings']['batch_size']} of "
            f"{found['train_pairs']:,} pairs; {found['test_queries']:,} queries of "
            f"{found['test_packages']} unseen packages; intervals over packages, of each query's "
            "mean over the seeds.",
            f"{where(data)}; `{ran(data, 'bench_finetune')}`.",
        ]
    )


def estimators() -> str:
    data = load("estimators_cpu")
    found = data["results"]
    words = {
        "bm25": "in-batch BM25",
        "simcse": "SimCSE, from its table",
        "trained": "trained model, from its tables",
        "online": "the student's own vectors",
        "live": "trained model run in every step",
    }
    lines = [
        [words[name], f"{each['extra_ms']:.2f} ms", f"{100 * each['share']:.2f} %"]
        for name, each in found["estimators"].items()
    ]
    head = ["estimator", "added to a step", "of InfoNCE's step"]
    foot = (
        f"6 layers of 384, batch {found['rows']}, {found['step_ms']:.0f} ms a step; {where(data)}"
    )
    once = [
        f"One-time encoding, {words[name].partition(',')[0]}: {each['texts']:,} texts in "
        f"{each['seconds']:.0f} s, {each['megabytes']:.1f} MB."
        for name, each in found.get("encoding", {}).items()
    ]
    ends = " ".join([*once, f"{foot}; `{ran(data, 'bench_estimators')}`."])
    return "\n".join([*table(head, lines), "", ends])


def systems() -> str:
    data = load("systems")
    found = data["results"]
    cells = {tuple(name.split(", ")): each for name, each in found["cells"].items()}
    presets, languages, losses, estimators = (
        list(dict.fromkeys(name[i] for name in cells)) for i in range(4)
    )
    told = f"{found['sound']} of {len(cells)} combinations"
    words = f"{len(presets)} backbones, {len(languages)} languages, {len(losses)} losses"
    return "\n".join(
        [
            f"{told} of {words}, {len(estimators) - 1} estimators (InfoNCE needs none) trained "
            "with finite, changing losses, moved their weights, were saved, loaded and ranked.",
            f"{found['rows']} real pairs a language; {where(data)}; "
            "`python benchmarks/check_systems.py --data FOLDER`.",
        ]
    )


def versions() -> str:
    data = load("versions")
    shown = ("sentence-transformers", "torch", "transformers")
    lines = []
    for cell in data["results"]["cells"]:
        told = [cell["versions"][name] for name in shown]
        failed = f", {len(cell['failed'])} failed" if cell["failed"] else ""
        skipped = f", {len(cell['skipped'])} skipped" if cell["skipped"] else ""
        tests = "losses and drop-in" if cell["losses"] else "drop-in"
        lines.append([*told, tests, f"{cell['passed']} passed{failed}{skipped}", cell["commit"]])
    m = data["machine"]
    foot = f"{m['processor']}, {m['cores']} cores, {m['date']}; "
    foot += "`python benchmarks/check_versions.py --all-losses`."
    return "\n".join([*table([*shown, "tests", "ended", "commit"], lines), "", foot])


def their_tests() -> str:
    data = load("sentence_transformers_tests")
    found = data["results"]
    kinds = ("passed", "failed", "does not apply", "not reached")
    ways = [name for name in found if isinstance(found[name], dict)]
    lines = [[way, *(str(len(found[way][kind])) for kind in kinds)] for way in ways]
    foot = (
        f"Tests of sentence-transformers {found['tests']} that make one of its multiple-negatives "
        f"losses, with {found['installed']} installed."
    )
    last = f"{where(data)}; `python benchmarks/check_sentence_transformers.py`."
    return "\n".join([*table(["ours with", *kinds], lines), "", foot, last])


def cached() -> str:
    data = load("cached")
    return cached_table(data, f"{where(data)}; `python benchmarks/bench_cached.py`.")


def cached_cuda() -> str:
    data = load("cached_cuda")
    return cached_table(data, f"{where_cuda(data)}; `benchmarks/gpu.sh cached`.")


def cached_table(data: dict[str, Any], foot: str) -> str:
    found = data["results"]
    head = ["N", "weights", "this package", "CachedMultipleNegativesRankingLoss", "eager torch"]
    head += ["memory", "its memory", "eager's memory"]
    weights = {"none": "none", "teacher": "a teacher's"}
    lines = []
    for entry in found["steps"]:
        cells = [f"{entry['rows']:,}", weights[entry["similarity"]]]
        time_ms = entry["contenders"].get("native", {}).get("time_ms")
        taken = time_ms or 0.0
        told = f"{taken / 1e3:.2f} s" if taken >= 1e3 else f"{taken:.2f} ms"
        cells.append(told if time_ms else "not measured")
        for name in ("cached MNRL", "eager"):
            cells.append(cell(entry, name, "over_native", ".2f"))
        for name in ("native", "cached MNRL", "eager"):
            cells.append(memory(cell(entry, name, "peak_mib", ".3f", "")))
        lines.append(cells)
    last = found["steps"][-1]
    version = found["versions"]["sentence-transformers"]
    return "\n".join(
        [
            *table(head, lines),
            "",
            "Times of others as multiples of ours; memory beside embeddings and their gradients. "
            f"Mini-batches of {found['mini_batch']}, {last['dtype']}, D = {last['dimension']}, "
            f"{last['threads']} threads; sentence-transformers {version}.",
            foot,
        ]
    )


def host() -> str:
    data = load("host")
    names = list(data["results"][0]["seconds"])
    lines = [
        [f"{entry['rows']:,}", *(f"{1e3 * entry['seconds'][name]:.1f} ms" for name in names)]
        for entry in data["results"]
    ]
    foot = f"{where(data)}; `python benchmarks/bench_host.py`."
    return "\n".join([*table(["rows", *names], lines), "", foot])


BLOCKS = {
    "systems": systems,
    "versions": versions,
    "their_tests": their_tests,
    "host": host,
    "cached": cached,
    "cached_cuda": cached_cuda,
    "scaling": scaling.table,
    "sent": scaling.sent_table,
    "finetune": finetune,
    "estimators": estimators,
    "evaluation": evaluation,
    "difference": difference,
    "train": train,
    "search": search,
    "loss": loss,
    "loss_avx512": loss_avx512,
    "loss_cuda": loss_cuda,
    "share": share,
    "bm25": bm25,
    "start": start,
}


def block(name: str) -> str:
    try:
        return BLOCKS[name]()
    except FileNotFoundError:
        return "not measured"


def render(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- figures: {name} -->\n{block(name)}\n<!-- end -->"

    return re.sub(r"<!-- figures: (\w+) -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL)


def main() -> int:
    global RESULTS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where a page differs")
    parser.add_argument("--show", choices=BLOCKS, nargs="+", help="print these blocks, write none")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    args = parser.parse_args()
    RESULTS = args.results
    if args.show:
        print("\n\n".join(f"**{name}**\n\n{block(name)}" for name in args.show))
        return 0
    stale = 0
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text()
        wanted = render(text)
        stale |= int(text != wanted)
        if not args.check and text != wanted:
            page.write_text(wanted)
    return stale if args.check else 0


if __name__ == "__main__":
    sys.exit(main())
