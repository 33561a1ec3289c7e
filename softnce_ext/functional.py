"""The public functions: each checks its own numbers and hands its rule to dispatch.py."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks, dispatch, reference, rows, values
from .checks import Groups, Similarity


def soft_info_nce(
    query: Tensor,
    code: Tensor,
    similarity: Similarity = None,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    min_weight: float = 0.1,
    scale: float | Tensor = 1.0,
    eps: float = 0.0,
    positive_offset: int = 0,
    groups: Groups = None,
    reduction: str = "mean",
    impl: str = "auto",
) -> Tensor:
    """Compute Soft-InfoNCE: InfoNCE whose negatives weigh less the more similar they are.

    Same as, without the [N, M] matrices and with the gradient finished in the forward pass::

        scores = scale * query @ code.T
        weights = softnce_ext.soft_weights(similarity, alpha=alpha, beta=beta,
                                           temperature=temperature, min_weight=min_weight)
        loss = F.cross_entropy(scores + weights.log(), torch.arange(len(query)))

    Args:
        query: Query embeddings, [N, D], fp32, fp64, bf16 or fp16.
        code: Code embeddings, [M, D], M >= N, of query's device and type (autocast casts both, so
            that under it they may differ). The positive of row i is column ``i + positive_offset``,
            every other column is a negative.
        similarity: How similar a frozen estimator finds each pair: None (plain InfoNCE), raw
            similarities [N, M], the estimator's vectors ``(teacher_query [N, Dt], teacher_code [M,
            Dt])``, whose dot products are taken block by block, or `softnce_ext.BM25Factors`. The
            positive's own similarity is not used. No gradient flows through it.
        alpha: How strongly a similar negative is weakened (`softnce_ext.PRESETS` has the paper's).
        beta: The constant part of a weight.
        temperature: Temperature of the softmax over a row's similarities, > 0.
        min_weight: Lower bound of a weight, in [0, 1].
        scale: Multiplies the scores (1 / temperature of the scores): a number, or a learnable 0-d
            tensor. One on CUDA, or compiled, multiplies query in query's type, half types rounding.
            Under torch.compile let a scale that changes be a tensor: each number compiles anew.
        eps: Added to the probability inside the logarithm, in [0, 1]; the published code has 1e-15.
        positive_offset: Column of row 0's positive, in [0, M - N].
        groups: ``(query_groups [N], code_groups [M])``, int64: a code of the query's own group is
            no negative. It is left out of the loss, of the similarity softmax and of the count of
            negatives.
        reduction: "mean", "sum" or "none".
        impl: "native" (the compiled op), "torch" (row blocks in plain torch), or "auto": native
            where it runs.

    Returns:
        The loss, 0-d or [N], in fp32 (fp64 for fp64 inputs). A row without negatives has loss 0; a
        row with ``beta * negatives <= alpha``, up to a millionth, has weights 1: plain InfoNCE. A
        code that BM25Factors has no text for has weight 1, and is left out of the softmax and of
        the count that Eq. 4 is about. A NaN in a row's scores, in a column left out too, makes its
        loss NaN.

    Raises:
        ValueError, TypeError: an argument breaks a rule above, or (on the CPU) a negative's
            similarity is NaN or infinite; on CUDA, or compiled, such a row's loss is NaN.
        RuntimeError: ``impl="native"`` where the native op cannot run.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), Eq. 3 to 5.
    """
    numbers = values.check_options(
        alpha=alpha, beta=beta, temperature=temperature, min_weight=min_weight, eps=eps
    )
    rule = rows.Rule(rows.SOFT_INFO_NCE, **numbers)
    return dispatch.loss(
        rule, query, code, similarity, scale, positive_offset, groups, reduction, impl
    )


def info_nce(
    query: Tensor,
    code: Tensor,
    *,
    scale: float | Tensor = 1.0,
    eps: float = 0.0,
    positive_offset: int = 0,
    groups: Groups = None,
    reduction: str = "mean",
    impl: str = "auto",
) -> Tensor:
    """Compute InfoNCE with in-batch negatives: cross-entropy over ``scale * query @ code.T``.

    Arguments, result and errors as in `soft_info_nce`. Source: the paper's Eq. 1.
    """
    return soft_info_nce(
        query,
        code,
        alpha=0.0,
        beta=1.0,
        temperature=1.0,
        scale=scale,
        eps=eps,
        positive_offset=positive_offset,
        groups=groups,
        reduction=reduction,
        impl=impl,
    )


def top_k_cancellation(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    *,
    k: int,
    scale: float | Tensor = 1.0,
    positive_offset: int = 0,
    groups: Groups = None,
    reduction: str = "mean",
    impl: str = "auto",
) -> Tensor:
    """Compute InfoNCE without each row's k most similar negatives, which may well be positives.

    Same as, without the [N, M] matrices, ``F.cross_entropy`` over the positive and the negatives
    left. Of equal similarities the lower column is dropped first; ``k >= negatives`` leaves
    nothing to learn, the loss is 0. A code without a similarity (`BM25Factors`) is never dropped.

    Args:
        query, code, scale, positive_offset, groups, reduction, impl: As in `soft_info_nce`.
        similarity: As in `soft_info_nce`, but not None.
        k: How many negatives each row loses, >= 0.

    Returns, Raises: As `soft_info_nce`.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), section 4.4.
    """
    cutoff = min(values.check_options(k=k)["k"], 2**53)  # the op takes a float
    rule = rows.Rule(rows.TOP_K, cutoff=cutoff)
    return dispatch.loss(
        rule, query, code, similarity, scale, positive_offset, groups, reduction, impl
    )


def threshold_cancellation(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    *,
    ratio: float,
    scale: float | Tensor = 1.0,
    positive_offset: int = 0,
    groups: Groups = None,
    reduction: str = "mean",
    impl: str = "auto",
) -> Tensor:
    """Compute InfoNCE over the negatives less similar than ``ratio`` times the row's own pair.

    A negative is kept if ``z_ij < ratio * z_ii``, where z_ii is the similarity of row i's positive.
    A code without a similarity (`BM25Factors`) is kept, and a positive without one keeps all.
    Where nothing is kept, the loss is 0.

    Args:
        query, code, scale, positive_offset, groups, reduction, impl: As in `soft_info_nce`.
        similarity: As in `soft_info_nce`, but not None, and the positive's own is used.
        ratio: The part of the positive's similarity from which a negative is dropped.

    Returns, Raises: As `soft_info_nce`; the positive's own similarity must be finite too.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), section 4.4.
    """
    rule = rows.Rule(rows.THRESHOLD, cutoff=values.check_options(ratio=ratio)["ratio"])
    return dispatch.loss(
        rule, query, code, similarity, scale, positive_offset, groups, reduction, impl
    )


def bce(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    *,
    temperature: float,
    scale: float | Tensor = 1.0,
    positive_offset: int = 0,
    groups: Groups = None,
    reduction: str = "mean",
    impl: str = "auto",
) -> Tensor:
    """Compute binary cross-entropy of every pair, a negative's target being its similarity share.

    With P the softmax of a row's scores, S that of its negatives' similarities / temperature,
    y_ii = 1 and y_ij = S_ij, a row's loss is the mean over its columns of
    ``-(y log P + (1 - y) log(1 - P))``, each logarithm at least -100 as in `torch.nn.BCELoss`.
    A code without a similarity (`BM25Factors`) has target 0.

    Args:
        query, code, scale, positive_offset, groups, reduction, impl: As in `soft_info_nce`.
        similarity: As in `soft_info_nce`, but not None.
        temperature: Temperature of the softmax over a row's similarities, > 0.

    Returns, Raises: As `soft_info_nce`.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), section 4.3.
    """
    rule = rows.Rule(rows.BCE, **values.check_options(temperature=temperature))
    return dispatch.loss(
        rule, query, code, similarity, scale, positive_offset, groups, reduction, impl
    )


def weighted_info_nce(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    *,
    temperature: float,
    scale: float | Tensor = 1.0,
    eps: float = 0.0,
    positive_offset: int = 0,
    groups: Groups = None,
    reduction: str = "mean",
    impl: str = "auto",
) -> Tensor:
    """Compute cross-entropy with soft targets: 1 for the positive, its share for each negative.

    With P the softmax of a row's scores and S that of its negatives' similarities / temperature, a
    row's loss is ``-log P_ii - sum_j S_ij log P_ij``. A code without a similarity (`BM25Factors`)
    has target 0.

    Args:
        query, code, scale, positive_offset, groups, reduction, impl: As in `soft_info_nce`.
        similarity: As in `soft_info_nce`, but not None.
        temperature: Temperature of the softmax over a row's similarities, > 0.
        eps: Added to each P inside its logarithm, in [0, 1]; the published code has 1e-15.

    Returns, Raises: As `soft_info_nce`.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), Eq. 13.
    """
    numbers = values.check_options(temperature=temperature, eps=eps)
    rule = rows.Rule(rows.WEIGHTED_INFO_NCE, **numbers)
    return dispatch.loss(
        rule, query, code, similarity, scale, positive_offset, groups, reduction, impl
    )


def kl_regularized_info_nce(
    query: Tensor,
    code: Tensor,
    similarity: Similarity,
    *,
    temperature: float,
    info_nce_weight: float = 1.3,
    kl_weight: float = 0.7,
    scale: float | Tensor = 1.0,
    positive_offset: int = 0,
    groups: Groups = None,
    reduction: str = "mean",
    impl: str = "auto",
) -> Tensor:
    """Compute InfoNCE plus the divergence of the scores' softmax from the similarities'.

    With Q the softmax of a row's scores over its negatives alone and S that of their similarities
    / temperature, a row's loss is
    ``info_nce_weight * InfoNCE + kl_weight * sum_j S_ij (log S_ij - log Q_ij)``. A code without a
    similarity (`BM25Factors`) has S = 0; an S that underflows is no NaN.

    Args:
        query, code, scale, positive_offset, groups, reduction, impl: As in `soft_info_nce`.
        similarity: As in `soft_info_nce`, but not None.
        temperature: Temperature of the softmax over a row's similarities, > 0.
        info_nce_weight: Weight of InfoNCE, >= 0.
        kl_weight: Weight of the divergence, >= 0.

    Returns, Raises: As `soft_info_nce`.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), section 4.3.
    """
    numbers = values.check_options(
        temperature=temperature, info_nce_weight=info_nce_weight, kl_weight=kl_weight
    )
    rule = rows.Rule(
        rows.KL,
        alpha=numbers["kl_weight"],
        beta=numbers["info_nce_weight"],
        temperature=numbers["temperature"],
    )
    return dispatch.loss(
        rule, query, code, similarity, scale, positive_offset, groups, reduction, impl
    )


def soft_weights(
    similarity: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    min_weight: float = 0.1,
) -> Tensor:
    """Return the weight of each negative, [N, M], for plots and analysis; the diagonal is 1.

    Arguments as in `soft_info_nce`; `similarity` is a matrix [N, M] with M >= N. The weights are
    fp32 (fp64 for fp64), as in the loss, which never materialises them. Source: the paper's Eq. 4.

    Raises:
        ValueError, TypeError: an argument breaks a rule, or a negative's similarity is not finite.
    """
    if not isinstance(similarity, Tensor):
        raise TypeError(f"similarity must be a Tensor, got {type(similarity).__name__}")
    if similarity.dim() != 2 or not similarity.shape[1] >= max(1, similarity.shape[0]):
        raise ValueError(
            "similarity must have shape [N, M] with M >= N and M >= 1, got "
            f"{list(similarity.shape)}"
        )
    checks.check_floating("similarity", similarity)
    numbers = values.check_options(
        alpha=alpha, beta=beta, temperature=temperature, min_weight=min_weight
    )
    rule = rows.Rule(rows.SOFT_INFO_NCE, **numbers)
    negatives = similarity.shape[1] - 1
    if negatives > 0 and not rows.has_normaliser(rule.alpha, rule.beta, negatives):
        dispatch.warn_few_negatives(rule.alpha, rule.beta, negatives)
    similarity = similarity.detach()
    if similarity.dtype != torch.float64:
        similarity = similarity.float()
    weights = reference.soft_weights(similarity, **numbers)
    if similarity.device.type == "cpu":
        values.check_finite(weights, similarity, None, 0, False)
    return weights
