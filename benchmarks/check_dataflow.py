"""GraphCodeBERT's tensors against a literal, slow construction on real functions, and their cost.

    python benchmarks/check_dataflow.py FOLDER [--functions 300] [--json OUT]

FOLDER holds real functions as JSON lines, plain or gzip, anywhere below it: files with `code` (or
`original_string`) and `language` fields, as CodeSearchNet's have. Of each language the functions
are taken evenly over all. Ids, positions and the 320 x 320 mask must be equal, the averaged
vectors equal up to rounding (1e-6); one difference ends the run with status 1. Both sides start
from the same data flow, that of `extract`: whether tokens, nodes and sources are right is not seen
here, but by the cases of `python_tests/test_data_dataflow.py`.

Times are processor time per function, in one process. The encoder's word pieces are learnt from a
tenth of these functions (a vocabulary of 8,000): the published tokenizer is not at hand everywhere.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import machine
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_tests"))
from slow_graphcodebert import SlowRow, slow_row  # noqa: E402
from tiny_backbones import save_tiny_tokenizer, tiny_config  # noqa: E402

from softnce_ext.data.dataflow.extract import extract  # noqa: E402
from softnce_ext.data.dataflow.languages import LANGUAGES  # noqa: E402
from softnce_ext.encoders.graphcodebert import GraphCodeBERT, node_means  # noqa: E402


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted([*folder.rglob("*.jsonl"), *folder.rglob("*.jsonl.gz")]):
        data = path.read_bytes()
        text = gzip.decompress(data) if path.suffix == ".gz" else data
        yield from map(json.loads, text.splitlines())


def functions(folder: Path, count: int) -> dict[str, list[str]]:
    """Return `count` functions of each language, spread evenly over the folder."""
    found: dict[str, dict[str, None]] = {language: {} for language in LANGUAGES}
    for row in rows(folder):
        code = row.get("original_string") or row.get("code")
        if code and row.get("language") in found:
            found[row["language"]][code] = None
    return {
        language: [list(codes)[i * len(codes) // count] for i in range(min(count, len(codes)))]
        for language, codes in found.items()
    }


def difference(module: GraphCodeBERT, features: dict[str, torch.Tensor], slow: SlowRow) -> str:
    """Return which tensor of one function differs from the literal one, "" where none does."""
    words = module.encoder.get_input_embeddings().weight.detach()
    length = features["input_ids"].shape[1]
    visible = torch.zeros(len(slow.ids), len(slow.ids), dtype=torch.bool)
    visible[:length, :length] = module.visible(features)[0]
    means = node_means(words[features["input_ids"]], features["position_ids"], features["links"])
    padding = [module.tokenizer.pad_token_id] * (len(slow.ids) - length)
    if features["input_ids"][0].tolist() + padding != slow.ids:
        return "ids"
    if features["position_ids"][0].tolist() + [1] * len(padding) != slow.positions:
        return "positions"
    if not torch.equal(visible, torch.tensor(slow.sees)):
        return "mask"
    if not torch.allclose(means[0], slow.vectors[:length], rtol=0, atol=1e-6):
        return "vectors"
    return ""


def timed(times: list[float], work: Callable[[], Any]) -> Any:
    """Return what `work` returns; note the milliseconds of processor time it took."""
    begin = time.process_time()
    result = work()
    times.append(1000 * (time.process_time() - begin))
    return result


def check(module: GraphCodeBERT, codes: list[str]) -> dict[str, Any]:
    """Compare and time one language."""
    differences: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    names = ("data flow", "data flow, word pieces and row", "literal construction")
    times: dict[str, list[float]] = {name: [] for name in names}
    nodes = []
    words = module.encoder.get_input_embeddings().weight.detach()
    read = partial(extract, language=module.language, compat=module.compat)
    module.prepare(codes)  # all pieces are known, as after the start of a large data set
    flows = timed(times[names[0]], lambda: [read(code) for code in codes])
    timed(times[names[1]], lambda: module.prepare(codes))
    for name in names[:2]:
        times[name] = [times[name][0] / len(codes)]
    for code, flow in zip(codes, flows, strict=True):
        build = partial(slow_row, flow, module.tokenizer, words)
        slow = timed(times[names[2]], build)
        features = module.preprocess([code], task="document")
        differences[difference(module, features, slow)] += 1
        faults[flow.fault or "none"] += 1
        nodes.append(int(features["position_ids"].eq(0).sum()))
    return {
        "functions": len(codes),
        "equal": differences.pop("", 0),
        "different": dict(differences),
        "faults": dict(faults),
        "nodes": {"mean": round(statistics.mean(nodes), 1), "max": max(nodes)},
        "mean_ms": {name: round(statistics.mean(each), 3) for name, each in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--functions", type=int, default=300, help="of each language")
    parser.add_argument("--json", help="result file; default benchmarks/results/dataflow.json")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    codes = functions(args.folder, args.functions)
    results: dict[str, Any] = {}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        texts = [code for each in codes.values() for code in each[::10]]
        tokenizer = save_tiny_tokenizer(Path(folder), texts, vocab_size=8000)
        config = tiny_config(tokenizer)
        for compat in ("stable", "reference"):
            for language, each in codes.items():
                if not each:
                    continue
                module = GraphCodeBERT.from_source(
                    config, tokenizer=tokenizer, language=language, compat=compat
                ).eval()
                found = results[f"{language}, {compat}"] = check(module, each)
                failed |= bool(found["different"])
                print(
                    f"{language:10} {compat:9} {found['equal']} of {found['functions']} equal; "
                    f"faults {found['faults']}; ms {found['mean_ms']}",
                    flush=True,
                )
    machine.write(args.json, "dataflow", results)
    if failed:
        raise SystemExit("a tensor differs from the literal construction")


if __name__ == "__main__":
    main()
