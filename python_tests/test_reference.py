"""The oracle against a double Python loop written from the paper, one pair at a time."""

from __future__ import annotations

import math

import problems
import pytest
import torch
from problems import FAMILY, KINDS, RULE, SHAPES, SIMILARITIES

from softnce_ext import BM25Factors, reference


def loop_weights(z, positive, masked, alpha, beta, temperature, min_weight):
    """Eq. 4 for one row: a dict of column -> weight over the row's negatives."""
    negatives = [j for j in range(len(z)) if j != positive and j not in masked]
    if not negatives:
        return {}
    if beta * len(negatives) <= alpha:
        return dict.fromkeys(negatives, 1.0)
    top = max(z[j] / temperature for j in negatives)
    exps = {j: math.exp(z[j] / temperature - top) for j in negatives}
    total = sum(exps.values())
    normaliser = beta - alpha / len(negatives)
    return {j: max(min_weight, (beta - alpha * exps[j] / total) / normaliser) for j in negatives}


def loop_loss(scores, z, positive, masked, *, eps=0.0, min_weight=0.1, alpha, beta, temperature):
    """Eq. 3 for one row."""
    weights = loop_weights(z, positive, masked, alpha, beta, temperature, min_weight)
    top = max(scores[j] for j in [positive, *weights])
    own = math.exp(scores[positive] - top)
    total = own + sum(w * math.exp(scores[j] - top) for j, w in weights.items())
    return -math.log(own / total + eps)


@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_reference_equals_a_loop_over_pairs(shape, kind, grouped, eps):
    n, m, d = shape
    offset = (m - n) // 2
    query, code = (x.detach() for x in problems.embeddings(n, m, d))
    similarity = problems.similarity(kind, n, m)
    groups = problems.duplicate_groups(n, m, offset) if grouped else None
    got = reference.soft_info_nce(
        query,
        code,
        similarity,
        **RULE,
        scale=1.3,
        eps=eps,
        positive_offset=offset,
        groups=groups,
        reduction="none",
    )
    z = similarity[0] @ similarity[1].T if kind == "teacher" else similarity
    for i in range(n):
        masked = set()
        if groups is not None:
            masked = {j for j in range(m) if j != i + offset and groups[0][i] == groups[1][j]}
        scores = [1.3 * float(query[i] @ code[j]) for j in range(m)]
        # No similarity means weight 1, which alpha = 0 gives for any z.
        rule = RULE if z is not None else {"alpha": 0.0, "beta": 1.0, "temperature": 1.0}
        row = [0.0] * m if z is None else z[i].tolist()
        wanted = loop_loss(scores, row, i + offset, masked, eps=eps, **rule)
        assert float(got[i]) == pytest.approx(wanted, rel=1e-12, abs=1e-13)


def loop_similarity(similarity, i, m):
    """Row i's similarities, None for a code without one."""
    if not isinstance(similarity, BM25Factors):
        z = similarity[0] @ similarity[1].T if isinstance(similarity, tuple) else similarity
        return z[i].tolist()
    f = similarity
    z = [0.0 if j < len(f.document_length) and f.document_length[j] > 0 else None for j in range(m)]
    for p in range(int(f.query_indptr[i]), int(f.query_indptr[i + 1])):
        term = int(f.query_term[p])
        for q in range(int(f.indptr[term]), int(f.indptr[term + 1])):
            z[int(f.document[q])] += float(f.query_count[p]) * float(f.weight[q])
    return z


def loop_softmax(values):
    top = max(values.values(), default=0.0)
    exps = {j: math.exp(value - top) for j, value in values.items()}
    total = sum(exps.values())
    return {j: value / total for j, value in exps.items()}


def loop_cancelled(scores, positive, kept):
    return -math.log(loop_softmax({j: scores[j] for j in (positive, *kept)})[positive])


def loop_family(name, options, scores, z, positive, negatives):
    """One row of a loss, written from its formula."""
    judged = [j for j in negatives if z[j] is not None]
    if name == "soft":
        z = [0.0 if value is None else value for value in z]
        masked = set(range(len(z))) - {positive} - set(judged)
        weights = dict.fromkeys(negatives, 1.0)
        weights |= loop_weights(z, positive, masked, min_weight=0.1, **options)
        own = math.exp(scores[positive])
        total = own + sum(weights[j] * math.exp(scores[j]) for j in negatives)
        return -math.log(own / total)
    if name == "top_k":
        dropped = sorted(judged, key=lambda j: (-z[j], j))[: options["k"]]
        return loop_cancelled(scores, positive, [j for j in negatives if j not in dropped])
    if name == "threshold":
        own = z[positive]
        kept = [j for j in negatives if None in (own, z[j]) or z[j] < options["ratio"] * own]
        return loop_cancelled(scores, positive, kept)

    share = loop_softmax({j: z[j] / options["temperature"] for j in judged})
    p = loop_softmax({j: scores[j] for j in (positive, *negatives)})
    target = {j: share.get(j, 0.0) for j in negatives} | {positive: 1.0}
    if name == "bce":
        total = 0.0
        for j, y in target.items():
            rest = sum(value for other, value in p.items() if other != j)
            total += y * max(-100.0, math.log(p[j]))
            total += (1 - y) * max(-100.0, math.log(rest)) if y < 1 else 0.0
        return -total / len(target)
    if name.startswith("weighted"):
        return -sum(y * math.log(p[j] + options.get("eps", 0.0)) for j, y in target.items())
    q = loop_softmax({j: scores[j] for j in negatives})
    divergence = sum(s * (math.log(s) - math.log(q[j])) for j, s in share.items())
    return -1.3 * math.log(p[positive]) + 0.7 * divergence


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grouped", [False, True])
def test_the_family_equals_a_loop_over_pairs(name, kind, grouped):
    for n, m, d in SHAPES[:4]:
        offset = (m - n) // 2
        query, code = (x.detach() for x in problems.embeddings(n, m, d))
        similarity = problems.similarity(kind, n, m)
        groups = problems.duplicate_groups(n, m, offset) if grouped else None
        function, options = FAMILY[name]
        got = getattr(reference, function)(
            query,
            code,
            similarity,
            **options,
            scale=1.3,
            positive_offset=offset,
            groups=groups,
            reduction="none",
        )
        for i in range(n):
            negatives = [j for j in range(m) if j != i + offset]
            if groups is not None:
                negatives = [j for j in negatives if groups[0][i] != groups[1][j]]
            scores = [1.3 * float(query[i] @ code[j]) for j in range(m)]
            z = loop_similarity(similarity, i, m)
            wanted = loop_family(name, options, scores, z, i + offset, negatives)
            assert float(got[i]) == pytest.approx(wanted, rel=1e-11, abs=1e-12), (n, i)


def test_weights_have_the_values_of_the_published_settings():
    # One negative takes all the similarity, the others none: normaliser, weight of a dissimilar
    # negative, and the clamp, at N = 32 and 64.
    for alpha, beta, n, wanted in [
        (1.5, 0.5, 32, 1.1071),
        (1.5, 0.5, 64, 1.0500),
        (1.3, 0.7, 32, 1.0637),
        (1.3, 0.7, 64, 1.0304),
    ]:
        z = torch.zeros(n, n, dtype=torch.float64)
        z[:, 1] = 1e3
        weights = reference.soft_weights(z, alpha=alpha, beta=beta, temperature=1.0)
        assert float(weights[0, 5]) == pytest.approx(wanted, abs=5e-5)
        assert float(weights[0, 1]) == 0.1
        assert float(weights[0, 0]) == 1.0


def test_uniform_similarity_is_info_nce():
    query, code = problems.embeddings(9, 9, 4)
    soft = reference.soft_info_nce(query, code, torch.full((9, 9), 3.0).double(), **RULE)
    assert torch.allclose(soft, reference.info_nce(query, code), rtol=1e-13)


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_a_batch_without_a_positive_normaliser_has_weights_one(columns):
    z = torch.randn(columns, columns, dtype=torch.float64)
    weights = reference.soft_weights(z, alpha=1.5, beta=0.5, temperature=1.0)
    assert torch.equal(weights, torch.ones_like(weights))
