"""The loss step (loss and both gradients) as ours and as everything a user would pick instead.

`steps` returns the callables of a problem, and why any other contender is absent. All get the same
vectors in the same type; beside matrix products every one computes in fp32, as autocast would have
it, but for "eager, half", which stays in the half type throughout.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from problem import DENSE, KINDS, MIN_WEIGHT, NONE, RULE, SCALE, TEACHER, Problem, Similarity
from torch import Tensor

import softnce_ext as sx

Step = Callable[[], list[Tensor]]  # loss, grad_query, grad_code


class Absent(Exception):  # noqa: N818
    """A contender cannot run here; the message says why."""


def by_autograd(loss: Callable[[Tensor, Tensor, Similarity], Tensor], problem: Problem) -> Step:
    query, code, similarity = problem.query, problem.code, problem.similarity

    def step() -> list[Tensor]:
        value = loss(query, code, similarity)
        return [value.detach(), *torch.autograd.grad(value, (query, code))]

    return step


# Ours ---------------------------------------------------------------------------------------------


def ours(query: Tensor, code: Tensor, similarity: Similarity, impl: str) -> Tensor:
    if similarity is None:
        return sx.info_nce(query, code, scale=SCALE, impl=impl)
    return sx.soft_info_nce(query, code, similarity, scale=SCALE, impl=impl, **RULE)


native_loss = functools.partial(ours, impl="native")
torch_path_loss = functools.partial(ours, impl="torch")


def native(problem: Problem) -> Step:
    return by_autograd(native_loss, problem)


def torch_path(problem: Problem) -> Step:
    return by_autograd(torch_path_loss, problem)


# Plain torch --------------------------------------------------------------------------------------


def wide(matrix: Tensor) -> Tensor:
    return matrix.float() if matrix.dtype in (torch.bfloat16, torch.float16) else matrix


def eager_loss(
    query: Tensor, code: Tensor, similarity: Similarity, widen: Callable[[Tensor], Tensor] = wide
) -> Tensor:
    """Write the loss as a careful user of torch would."""
    n = len(query)
    scores = widen((SCALE * query) @ code.T)
    target = torch.arange(n, device=query.device)
    if similarity is None:
        return F.cross_entropy(scores, target)
    with torch.no_grad():
        if isinstance(similarity, tuple):
            similarity = similarity[0] @ similarity[1].T
        diagonal = torch.eye(n, dtype=torch.bool, device=query.device)
        z = (widen(similarity) / RULE["temperature"]).masked_fill_(diagonal, float("-inf"))
        share = torch.softmax(z, dim=1)
        normaliser = RULE["beta"] - RULE["alpha"] / (n - 1)
        weight = ((RULE["beta"] - RULE["alpha"] * share) / normaliser).clamp_(min=MIN_WEIGHT)
        weight.fill_diagonal_(1)
        bias = weight.log_()
    return F.cross_entropy(scores + bias, target)


def eager(problem: Problem) -> Step:
    return by_autograd(eager_loss, problem)


def eager_half(problem: Problem) -> Step:
    if not problem.half:
        raise Absent("the inputs are no half type")
    return by_autograd(functools.partial(eager_loss, widen=lambda matrix: matrix), problem)


def _compiled(problem: Problem, mode: str) -> Step:
    # A size of its own graph: the second size would else be compiled for any.
    return by_autograd(torch.compile(eager_loss, mode=mode, dynamic=False), problem)


def compiled(problem: Problem) -> Step:
    return _compiled(problem, "default")


def compiled_max(problem: Problem) -> Step:
    """Tune without CUDA graphs of its own: the clock captures one of the whole step, as of all."""
    mode = "max-autotune-no-cudagraphs" if problem.device.type == "cuda" else "max-autotune"
    return _compiled(problem, mode)


def compiled_graphs(problem: Problem) -> Step:
    """Let torch.compile capture and replay its own CUDA graphs, as a user gets them."""
    if problem.device.type != "cuda":
        raise Absent("CUDA graphs need CUDA")
    inner = _compiled(problem, "max-autotune")

    def step() -> list[Tensor]:
        torch.compiler.cudagraph_mark_step_begin()  # the last step's results are given up
        return inner()

    return step


# What others publish ------------------------------------------------------------------------------


def published_loss(query: Tensor, code: Tensor, similarity: Similarity) -> Tensor:
    """Compute what the paper's code computes, the way it does, in our own words.

    The off-diagonal is gathered by a boolean mask, the positive put in front of it, the softmax
    written out, and 1e-15 added inside the logarithm, which shows where scores reach 20 (D < 64).
    """
    n = len(query)
    scores = wide((SCALE * query) @ code.T)
    negative = ~torch.eye(n, dtype=torch.bool, device=query.device)
    with torch.no_grad():
        raw = similarity[0] @ similarity[1].T if isinstance(similarity, tuple) else similarity
        share = torch.softmax(wide(raw)[negative].view(n, n - 1) / RULE["temperature"], dim=1)
        weight = (RULE["beta"] - RULE["alpha"] * share) / (RULE["beta"] - RULE["alpha"] / (n - 1))
        weight = torch.clamp(weight, min=MIN_WEIGHT)
        weight = torch.cat([torch.ones(n, 1, device=query.device, dtype=weight.dtype), weight], 1)
    row = torch.cat([scores[~negative].view(n, 1), scores[negative].view(n, n - 1)], dim=1)
    row = row - row.max(dim=1, keepdim=True).values
    power = weight * torch.exp(row)
    return -torch.log(power[:, 0] / power.sum(dim=1) + 1e-15).mean()


def published(problem: Problem) -> Step:
    return by_autograd(published_loss, problem)


@functools.cache
def _ranking_losses() -> Any:
    try:
        try:
            from sentence_transformers.sentence_transformer import losses
        except ImportError:
            from sentence_transformers import losses
    except ImportError as error:
        raise Absent(f"sentence-transformers cannot be imported: {error}") from None
    return losses


def _autocast(problem: Problem) -> torch.autocast:
    """Cast as a training run in a half type does; does nothing for fp32."""
    dtype = problem.query.dtype if problem.half else None
    return torch.autocast(problem.device.type, dtype=dtype, enabled=problem.half)


def ranking(problem: Problem) -> Step:
    """sentence-transformers' MultipleNegativesRankingLoss; the vectors are of length 1 already."""
    from sentence_transformers.util import dot_score

    module = _ranking_losses().MultipleNegativesRankingLoss(
        torch.nn.Identity(), scale=SCALE, similarity_fct=dot_score
    )
    if not hasattr(module, "compute_loss_from_embeddings"):
        raise Absent("this sentence-transformers has no compute_loss_from_embeddings")

    def loss(query: Tensor, code: Tensor, _: Similarity) -> Tensor:
        with _autocast(problem):
            return module.compute_loss_from_embeddings([query, code], None)

    return by_autograd(loss, problem)


def by_gradient_cache(
    calculate: Callable[[list[list[Tensor]]], Tensor], problem: Problem, rows: int
) -> Step:
    """Call what is between the two passes of gradient caching, with leaves of so many rows."""
    sides = (problem.query.detach(), problem.code.detach())

    def step() -> list[Tensor]:
        leaves = [[part.detach().requires_grad_() for part in side.split(rows)] for side in sides]
        with _autocast(problem):
            value = calculate(leaves)
        return [value.detach(), *(torch.cat([part.grad for part in side]) for side in leaves)]

    return step


def cached_ranking(problem: Problem, **options: Any) -> Step:
    """Its cached form as GradCache calls it: leaves of mini_batch_size rows (its default, 32)."""
    from sentence_transformers.util import dot_score

    options = {"similarity_fct": dot_score, **options}
    # The constructor looks at the model's first module.
    module = _ranking_losses().CachedMultipleNegativesRankingLoss(
        torch.nn.Sequential(torch.nn.Identity()), scale=SCALE, **options
    )
    calculate = getattr(module, "calculate_loss", None)
    if calculate is None or "with_backward" not in inspect.signature(calculate).parameters:
        raise Absent("this sentence-transformers has no calculate_loss(..., with_backward=)")
    calculate = functools.partial(calculate, with_backward=True)
    return by_gradient_cache(calculate, problem, module.mini_batch_size)


def linear_cross_entropy(problem: Problem) -> Step:
    function = getattr(F, "linear_cross_entropy", None)
    if function is None:
        raise Absent(f"torch {torch.__version__} has no F.linear_cross_entropy")
    options = {}
    if "options" in inspect.signature(function).parameters:  # without: the plain two operations
        options["options"] = torch.nn.LinearCrossEntropyOptions()
    target = torch.arange(len(problem.query), device=problem.device)
    return by_autograd(lambda q, c, _: function(SCALE * q, c, target, **options), problem)


def liger(problem: Problem) -> Step:
    if problem.device.type != "cuda":
        raise Absent("Liger-Kernel's kernels run on GPUs alone")
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError as error:
        raise Absent(f"Liger-Kernel cannot be imported: {error}") from None
    module = LigerFusedLinearCrossEntropyLoss()
    target = torch.arange(len(problem.query), device=problem.device)
    return by_autograd(lambda q, c, _: module(c, SCALE * q, target), problem)


@dataclass(frozen=True)
class Contender:
    """A way to the step.

    Attributes:
        make: Returns the step of a problem, or raises `Absent`.
        kinds: The similarities it can take.
        own_graphs: It replays CUDA graphs of its own, which cannot be captured into another.
    """

    make: Callable[[Problem], Step]
    kinds: tuple[str, ...] = KINDS
    own_graphs: bool = False


# What can be called without a gradient too.
LOSSES = {"native": native_loss, "torch path": torch_path_loss, "eager": eager_loss}

WEIGHTED, UNWEIGHTED = (DENSE, TEACHER), (NONE,)
CONTENDERS: dict[str, Contender] = {
    "native": Contender(native),
    "torch path": Contender(torch_path),
    "eager": Contender(eager),
    "eager, half": Contender(eager_half),
    "compile": Contender(compiled),
    "compile, max-autotune": Contender(compiled_max),
    "compile, own CUDA graphs": Contender(compiled_graphs, own_graphs=True),
    "published": Contender(published, kinds=WEIGHTED),  # without weights it is the eager one
    "MNRL": Contender(ranking, kinds=UNWEIGHTED),
    "cached MNRL": Contender(cached_ranking, kinds=UNWEIGHTED),
    "linear_cross_entropy": Contender(linear_cross_entropy, kinds=UNWEIGHTED),
    "Liger": Contender(liger, kinds=UNWEIGHTED),
}


def steps(
    problem: Problem, names: list[str] | None = None
) -> tuple[dict[str, Step], dict[str, str]]:
    """Return each contender's step, and of those that have none the reason."""
    found: dict[str, Step] = {}
    absent: dict[str, str] = {}
    names = list(CONTENDERS) if names is None else names
    if any(name.startswith("compile") for name in names):
        torch._dynamo.reset()  # the last problem's graphs count against the limit of recompiles
    for name in names:
        contender = CONTENDERS[name]
        if problem.kind not in contender.kinds:
            absent[name] = f"does not take similarity {problem.kind}"
            continue
        try:
            found[name] = contender.make(problem)
        except Exception as error:  # whatever a foreign package throws while it is imported
            absent[name] = " ".join(str(error).split()) or type(error).__name__
    return found, absent
