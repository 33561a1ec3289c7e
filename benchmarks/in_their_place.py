"""A pytest plugin: our losses under the names of sentence-transformers' multiple-negatives losses.

`check_sentence_transformers.py` runs their tests with it. What ours is asked for and does not have
(another similarity, hardness, other directions) raises NotOurs, so that the test does not apply
instead of failing. Told of each test: how it ended, why, and which of ours it made.

Environment: ``IN_THEIR_PLACE`` (how ours are made: "alpha=0" or "no estimator"), ``TOLD`` (the
file the outcomes are appended to, a JSON line each).
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from softnce_ext.sentence_transformers import CachedSoftInfoNCELoss, SoftInfoNCELoss

DOOR = "sentence_transformers.sentence_transformer.losses"
NAMES = {
    "MultipleNegativesRankingLoss": SoftInfoNCELoss,
    "CachedMultipleNegativesRankingLoss": CachedSoftInfoNCELoss,
    "MultipleNegativesSymmetricRankingLoss": SoftInfoNCELoss,
    "CachedMultipleNegativesSymmetricRankingLoss": CachedSoftInfoNCELoss,
}
WAYS = {"alpha=0": {"alpha": 0.0}, "no estimator": {"estimator": None}}
BOTH_WAYS = {"query_to_doc", "doc_to_query"}

THINGS = ["house", "river", "teacher", "train", "garden", "letter", "engine", "window", "song"]
KINDS = ["old", "green", "quiet", "near the sea", "lost", "late", "made of wood", "very small"]

made: list[str] = []


class NotOurs(Exception):
    """An argument that ours do not have."""


def translated(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return our arguments for theirs."""
    ours = {name: given.pop(name) for name in ("scale", "mini_batch_size") if name in given}
    ours["gather_across_devices"] = given.pop("gather_across_devices")
    similarity = getattr(given["similarity_fct"], "__name__", repr(given["similarity_fct"]))
    given.pop("similarity_fct")
    if similarity not in ("cos_sim", "dot_score"):
        raise NotOurs(f"similarity_fct={similarity}")
    ours["normalize"] = similarity == "cos_sim"
    directions = set(given.pop("directions", ("query_to_doc",)))
    mode = given.pop("partition_mode", "joint")
    if directions == BOTH_WAYS and mode == "per_direction":
        ours["symmetric"] = True
    elif directions != {"query_to_doc"}:
        raise NotOurs(f"directions={sorted(directions)}, partition_mode={mode}")
    for name, value in given.items():
        if value != defaults[name] and name != "show_progress_bar":
            raise NotOurs(f"{name}={value!r}")
    return ours


def substitute(name: str, theirs: type, ours: type) -> type:
    """Return a class of ours that takes their arguments."""
    signature = inspect.signature(theirs.__init__)
    defaults = {n: p.default for n, p in signature.parameters.items()}
    options = {"mask_duplicates": False, **WAYS[os.environ["IN_THEIR_PLACE"]]}
    both = {"symmetric": True} if "Symmetric" in name else {}

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        arguments = dict(given.arguments)
        arguments.pop("self")
        model = arguments.pop("model")
        made.append(name)
        ours.__init__(self, model, **{**translated(arguments, defaults), **both, **options})

    return type(name, (ours,), {"__init__": __init__})


def pytest_configure(config: pytest.Config) -> None:
    """Put ours in their place, once all that derives from theirs has been imported."""
    door = importlib.import_module(DOOR)
    for package in ("sparse_encoder", "multi_vector_encoder"):
        with contextlib.suppress(ImportError):  # newer than this version
            importlib.import_module(f"sentence_transformers.{package}.losses")
    for name, ours in NAMES.items():
        theirs = getattr(door, name)
        replaced = substitute(name, theirs, ours)
        for module in (door, importlib.import_module(theirs.__module__)):
            setattr(module, name, replaced)


def pytest_runtest_logstart(nodeid: str) -> None:
    """Begin to note what a test makes."""
    made.clear()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Tell how a test ended: of its phases the first that did not pass, or its call."""
    outcome = yield
    report = outcome.get_result()
    if report.when != "call" and report.passed:
        return
    error = call.excinfo.value if call.excinfo is not None else None
    lines = str(error).strip().splitlines() if error is not None else []
    ended, reason = report.outcome, f"{type(error).__name__}: {lines[0] if lines else ''}"
    if isinstance(error, NotOurs):
        ended, reason = "does not apply", str(error)
    tell(item.nodeid, ended, "" if error is None else reason)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Tell of a file that cannot be read here."""
    if report.failed:
        tell(report.nodeid, "failed", str(report.longrepr).strip().splitlines()[-1])


def tell(test: str, ended: str, reason: str) -> None:
    told = {"test": test, "ended": ended, "reason": reason[:300], "made": sorted(set(made))}
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(told) + "\n")


def stand_in_data() -> None:
    """Give texts of our own in place of the STS benchmark, which is not here."""
    import datasets

    def load_dataset(name: str, *args: Any, **kwargs: Any) -> Any:
        if not name.endswith("/stsb"):
            raise FileNotFoundError(f"data set {name} is not here")
        rows = [f"The {thing} is {what}." for thing in THINGS for what in KINDS]
        data = Dataset.from_dict(
            {
                "sentence1": rows,
                "sentence2": [row.replace(" is ", " was ") for row in rows],
                "score": [(i % 11) / 10 for i in range(len(rows))],
            }
        )
        parts = DatasetDict({name: data for name in ("train", "validation", "test")})
        return parts[kwargs["split"]] if "split" in kwargs else parts

    datasets.load_dataset = load_dataset


# At once: conftest.py takes the function before it is this plugin's turn.
stand_in_data()
