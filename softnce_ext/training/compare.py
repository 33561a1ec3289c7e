"""Rank what was trained and what it must beat; choose the hybrid's weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..encoders.load import installed_model, load_model
from ..evaluation.evaluate import Outcome, Systems, choose_hybrid_weight
from ..evaluation.ranking import counts_from_scores
from ..evaluation.significance import in_words, paired_difference

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..evaluation.retrieval import CodeBase, RetrievalTask

# Of an installed encoder: what suits all-MiniLM-L6-v2 best on validation packages (MRR 0.729; with
# 64 tokens 0.701, with 256 0.695, with a name counted 5 times 0.721).
PRETRAINED_LENGTH = 128
PRETRAINED_NAME_BOOST = 1


class Validation:
    """The figure an epoch is chosen by; what was encoded for the best one is kept.

    Args:
        model: What is trained.
        task: What the epoch is chosen on.
        name_boost: How often a function's name precedes its code.
        cutoff: Ranks beyond it count as 0; None for all.
    """

    def __init__(
        self, model: SentenceTransformer, task: RetrievalTask, name_boost: int, cutoff: int | None
    ) -> None:
        self.model, self.task = model, task
        self.name_boost, self.cutoff = name_boost, cutoff
        self._best: tuple[float, Systems] | None = None

    def mrr(self) -> float:
        """Rank the task with the model as it is; return the MRR."""
        task = self.task
        systems = Systems(self.model, task.base, name_boost=self.name_boost)
        (outcome,) = systems.rank(
            task.queries, lambda blocks: counts_from_scores(blocks, task.target), ["dense"]
        )
        mrr = outcome.mrr(cutoff=self.cutoff)
        if self._best is None or mrr >= self._best[0]:  # of equal epochs the last, as the trainer
            self._best = mrr, systems
        return mrr

    def systems(self, base: CodeBase, figure: float | None) -> Systems:
        """Return the systems of a code base, with the weights of the best epoch put back.

        Where it is the code base of the validation data, it is encoded already, but for an epoch
        of before the run was killed.

        Args:
            base: The code base.
            figure: The MRR of the best epoch.
        """
        if self._best is not None and self._best[0] == figure and self._best[1].base is base:
            return self._best[1]
        return Systems(self.model, base, name_boost=self.name_boost)


def hybrid_weight_of(systems: Systems, task: RetrievalTask) -> float:
    """Return the weight of the lexical score that is best on a task."""
    lexical, _ = task.base.lexical(plus=True)
    queries = iter(task.queries)
    sizes: list[int] = []  # rows of the dense block that was made last

    def dense_blocks() -> Iterator[Any]:
        for scores in systems.dense_blocks(task.queries):
            sizes.append(len(scores))
            yield scores

    def lexical_blocks_alike() -> Iterator[Any]:
        while sizes:
            yield lexical.scores(list(islice(queries, sizes.pop())))

    return choose_hybrid_weight(dense_blocks(), lexical_blocks_alike(), task.target)[0]


def rank_all(
    models: Mapping[str, SentenceTransformer],
    task: RetrievalTask,
    *,
    best: str,
    name_boost: int,
    hybrid_weight: float,
    encoded: Mapping[str, Systems] = MappingProxyType({}),
    pretrained: bool = False,
    progress: bool = True,
) -> list[Outcome]:
    """Rank a task by words, by each model, by the hybrid and by an installed encoder.

    Args:
        models: Name -> model, in the order of the rows.
        task: Queries and their code base.
        best: Name of the model that goes into the hybrid.
        name_boost: How often a function's name precedes its code.
        hybrid_weight: From `hybrid_weight_of`.
        encoded: Name -> systems of a model over this task's code base, where there are some.
        pretrained: Rank a pretrained encoder too, if an installed package carries one.
        progress: Show a progress bar on stderr.
    """
    found = installed_model() if pretrained else None
    hybrid: list[Outcome] = []
    outcomes: list[Outcome] = []
    with tqdm(
        total=len(models) + 3 + (found is not None),
        desc="evaluating",
        unit="system",
        disable=not progress,
    ) as bar:

        def rank(systems: Systems, *names: str) -> list[Outcome]:
            systems.hybrid_weight = hybrid_weight
            ranked = systems.rank(
                task.queries, lambda blocks: counts_from_scores(blocks, task.target), names
            )
            bar.update(len(names))
            return ranked

        outcomes += rank(Systems(models[best], task.base), "lexical", "lexical+")
        for name, model in models.items():
            both = ("dense", "hybrid") if name == best else ("dense",)
            systems = encoded.get(name) or Systems(model, task.base, name_boost=name_boost)
            dense, *others = rank(systems, *both)
            outcomes.append(replace(dense, name=name))
            hybrid += others
        outcomes += hybrid
        if found is not None:
            title, path = found
            model = load_model(str(path), max_length_tokens=PRETRAINED_LENGTH)
            systems = Systems(model, task.base, name_boost=PRETRAINED_NAME_BOOST)
            (dense,) = rank(systems, "dense")
            outcomes.append(replace(dense, name=title))
    return outcomes


def add_seconds(outcome: Outcome, seconds: float) -> Outcome:
    """Return an outcome that took so many seconds more."""
    return replace(outcome, seconds=outcome.seconds + seconds)


def differences(
    outcomes: Sequence[Outcome], packages: Sequence[str], *, best: str, cutoff: int | None = None
) -> dict[str, Any]:
    """Return the paired differences that a reader looks for, with intervals and in words.

    Args:
        outcomes: From `rank_all`.
        packages: Package of each query, which intervals resample.
        best: Name of the model that was trained with the loss that was asked for.
        cutoff: Ranks beyond it count as 0; None for all.
    """
    figures = {each.name: each.reciprocals(cutoff=cutoff) for each in outcomes}
    strongest = max(("lexical", "lexical+"), key=lambda name: float(figures[name].mean()))
    asked = [(best, "infonce"), (best, "untrained"), ("infonce", "untrained")]
    asked += [(best, "lexical"), ("infonce", "lexical"), ("hybrid", strongest)]
    found = {}
    for first, second in dict.fromkeys(asked):
        if first != second and first in figures and second in figures:
            gap = paired_difference(figures[first], figures[second], packages)
            found[f"{first} minus {second}"] = {
                "mrr": gap.mean,
                "low": gap.low,
                "high": gap.high,
                "words": in_words(gap),
            }
    return found
