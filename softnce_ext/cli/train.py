"""`softnce train`: from source code to a trained, compared and saved code-search model."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from ..training.ranks import joined
from ..training.rules import unused
from ..training.settings import (
    LOSSES,
    STATIC_DEFAULTS,
    TRANSFORMER_DEFAULTS,
    UNWEIGHTED,
    TrainSettings,
    settings_from,
)
from ..training.simcse_settings import SIMCSE_SETTINGS
from ..training.systems import SYSTEMS
from .table import counted, rough

_OF_SIMCSE = {**SIMCSE_SETTINGS["published"]._asdict()}
_OF_SIMCSE["code_length"] = _OF_SIMCSE["length"]
_FEW_QUERIES = 50  # one of them is 0.02 of an MRR, as much as what is compared differs by
_CHOSEN_ON_TEST = "the epoch was chosen on the test data: its figures are too good"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: one per setting."""
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file with the same names; flags win over it"
    )
    groups: dict[str, Any] = {}
    for each in fields(TrainSettings):
        rule = each.metadata
        group = rule["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(each)}
        if rule["kind"] is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif rule["choices"]:
            options["choices"] = rule["choices"]
        else:
            options["type"] = rule["kind"]
            options["metavar"] = {str: "TEXT", int: "N", float: "X"}[rule["kind"]]
        groups[group].add_argument(f"--{each.name.replace('_', '-')}", **options)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Train, compare, save and print the table, or the same as JSON."""
    begin = time.perf_counter()
    # Read when torch is loaded: threads that wait by spinning make a step 10 times as long where
    # another program wants the core, and gain nothing where none does.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    names = {each.name for each in fields(TrainSettings)}
    given = {name: value for name, value in vars(args).items() if name in names}
    terminated: list[int] = []
    try:
        with _as_ctrl_c(terminated), joined():
            return _run(settings_from(given, args.config), begin, as_json=args.json)
    except KeyboardInterrupt as stop:
        print(f"softnce train: {str(stop) or 'interrupted: nothing was written'}", file=sys.stderr)
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)


@contextmanager
def _as_ctrl_c(terminated: list[int]) -> Iterator[None]:
    """Let SIGTERM, by which schedulers and launchers end a run, do what Ctrl-C does."""

    def stop(number: int, frame: Any) -> None:
        terminated.append(number)
        handler = signal.getsignal(signal.SIGINT)  # training's own waits for the end of a step
        (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)

    # A handler of somebody else's stays; only the main thread may set one.
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(settings: TrainSettings, begin: float, *, as_json: bool) -> int:
    from ..training.job import TrainingJob
    from ..training.output import previous, save_report
    from .table import metric_table, print_json

    replaces = Path(settings.output).is_dir() and any(Path(settings.output).iterdir())
    if settings.loss == "simcse":
        return _train_simcse(settings, as_json)
    report = TrainingJob(settings).run()
    if not report:  # of another rank than the first
        return 0
    report["seconds"]["total"] = time.perf_counter() - begin
    table = metric_table(report["results"])
    heading = _heading(report)
    warning = f"\n{_CHOSEN_ON_TEST}" if settings.select == "test" else ""
    save_report(Path(settings.output), report, f"{heading}\n{table}{warning}")
    if as_json:
        print_json(report)
        return 0
    print(heading)
    print(table)
    for line in _notes(report, settings.output):
        print(line)
    kept = previous(Path(settings.output))
    if replaces and kept.is_dir():
        print(f"the model that was there before is in {kept}")
    return 0


def _help(each: Any) -> str:
    text = each.metadata["help"] + with_losses(each.name)
    if each.name in STATIC_DEFAULTS:
        static, other = STATIC_DEFAULTS[each.name], TRANSFORMER_DEFAULTS[each.name]
        told = {name: system.defaults()[each.name] for name, system in SYSTEMS.items()}
        presets = "".join(f"; {value} {name}" for name, value in told.items())
        alone = f"; {_OF_SIMCSE[each.name]} with loss simcse"
        return f"{text} (default: {static}; {other} for a transformer{presets}{alone})"
    if each.default is None or "(default" in text:
        return str(text)
    return f"{text} (default: {each.default})"


def with_losses(name: str) -> str:
    """Return which losses use a setting, "" where all do or no loss by itself decides."""
    users = {loss for loss, left_out in _left_out() if name not in left_out}
    others = [loss for loss in LOSSES if loss not in users]
    if not users or not others:
        return ""
    if len(users) <= len(others):
        return f"; with loss {', '.join(loss for loss in LOSSES if loss in users)}"
    return f"; not with loss {', '.join(others)}"


@cache
def _left_out() -> list[tuple[str, set[str]]]:
    """Return each loss, with each estimator it may have, and the settings it does not use."""
    ways = [TrainSettings(loss=loss) for loss in UNWEIGHTED]
    for loss in set(LOSSES) - set(UNWEIGHTED):
        ways += [TrainSettings(loss=loss, estimator=each) for each in ("bm25", "simcse", "trained")]
    return [(each.loss, set(unused(each))) for each in ways]


def _train_simcse(settings: TrainSettings, as_json: bool) -> int:
    from ..training.simcse_job import run_simcse
    from .table import print_json

    report = run_simcse(settings)
    if not report:  # of another rank than the first
        return 0
    if as_json:
        print_json(report)
        return 0
    run = report["training"]["simcse"]
    print(
        f"trained on {report['queries']:,} queries, {run['steps']} steps in {run['seconds']:.1f} s"
    )
    print(
        f"saved to {settings.output}; use it: "
        f"softnce train --estimator simcse --teacher {settings.output}"
    )
    return 0


def _heading(report: dict[str, Any]) -> str:
    split = report["split"]
    train, test = split["train"], split["test"]
    unseen = " not among them"
    if set(train["packages"]) & set(test["packages"]):
        unseen = f", held out by {split.get('unit', 'manifest')}"
    return (
        f"trained on {train['rows']:,} pairs of {_packages(train)}; tested on {test['rows']:,} "
        f"queries against {report['codebase']:,} functions of {_packages(test)}{unseen}"
    )


def _packages(part: dict[str, Any]) -> str:
    count = len(part["packages"])
    return f"{count} package{'s' if count != 1 else ''}"


def _notes(report: dict[str, Any], output: str) -> list[str]:
    """What a reader of the table should know about its figures."""
    notes = ["MRR, with 95 % bootstrap intervals over packages; per package: mean of their MRRs."]
    if report["results"][0]["interval_over"] == "queries":
        notes[0] = "MRR, with 95 % bootstrap intervals over queries (one package): too narrow."
    unlike_paper = report["split"].get("unlike_paper")
    notes += rough(len(report["split"]["test"]["packages"]))
    if report["cutoff"] is not None:
        as_there = "" if unlike_paper else ", as in the paper"
        notes.append(f"a rank beyond {report['cutoff']:,} counts as 0{as_there}")
    if unlike_paper:
        notes.append(f"not the paper's data: {'; '.join(unlike_paper)}")
    if report["settings"]["select"] == "test":
        notes.append(_CHOSEN_ON_TEST)
    if report["split"]["trained_on"]:
        notes.append(
            f"{report['split']['trained_on']:,} of the {report['split']['test']['rows']:,} test"
            " pairs are ones that the model, or what it started from, was trained on: its figures"
            " are too good"
        )
    if seen := report["split"].get("code_in_train", {}).get("test"):
        notes.append(
            f"the code of {seen:,} of the {report['split']['test']['rows']:,} test pairs stands in"
            " the training data too, under another query: figures may be too good"
        )
    notes += [f"{name}: {gap['words']}" for name, gap in report["differences"].items()]
    data = "packages" if report["split"].get("unit") == "package" else "data"
    notes.append(
        f"hybrid: weight {report['hybrid_weight']:g} for lexical+, chosen on validation {data}"
    )
    if (valid := report["split"]["valid"]["rows"]) < _FEW_QUERIES:
        notes.append(f"validation pairs: {valid}; what is chosen on so few queries is rough")
    for name, run in report["training"].items():
        mean = run["mean"]
        counts = [f"{run['steps']} steps in {run['seconds']:.1f} s"]
        pairs = min(report["settings"].get("batch_size") or 0, report["split"]["train"]["rows"])
        if pairs and name != "simcse":  # which has a batch size of its own
            counts[0] = f"{run['steps']} steps of {pairs:,} pairs in {run['seconds']:.1f} s"
        if epochs := len(run["validation_mrr"]):  # SimCSE has no validation, and keeps the last
            counts.append(f"epoch {run['kept_epoch']} of {epochs} kept")
        if "low_weights" in mean:
            counts.append(f"{mean['low_weights']:.2f} negatives a row with a weight below 0.5")
        if "duplicates" in mean:
            counts.append(f"{mean['duplicates']:.1f} duplicates masked a step")
        notes.append(f"{name}: {', '.join(counts)}")
    if report["ranks"] > 1:
        pairs = report["settings"]["batch_size"]
        notes.append(f"{report['ranks']} ranks share the {pairs:,} pairs of a step")
    for side, table in report["teacher"].items():
        spent = f"{table['seconds']:.1f} s, {table['megabytes']:.1f} MB on disk"
        made = "encoded once" if table["built"] else "found from an earlier run"
        notes.append(f"teacher's vectors of {table['rows']:,} {side} texts: {made}, {spent}")
    dropped = report["split"].get("dropped")
    if dropped and report["settings"].get("data"):  # of own data: what was in it is known
        notes.append(f"left out of the split: {counted(dropped)}")
    if by_default := report["split"].get("python_by_default"):
        notes.append(f"{by_default:,} rows name no language and were read as Python")
    if note := report["split"].get("note"):
        notes.append(note)
    spent = ", ".join(f"{name} {took:.1f}" for name, took in report["seconds"].items())
    notes.append(f"seconds: {spent}")
    notes.append(f'saved to {output}; try: softnce search {output} "read a file" --code PATH')
    return notes
