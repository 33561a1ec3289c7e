"""A block of rows in torch's operations: scores and similarities -> losses and their gradient.

The twin of csrc/row_math.h, which has the formulas. Two families: cross-entropy with weighted
negatives, and soft targets. What a function is handed it may overwrite.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# The ops' argument `objective` (csrc/row_math.h).
SOFT_INFO_NCE, TOP_K, THRESHOLD, BCE, WEIGHTED_INFO_NCE, KL = range(6)

_LOG_FLOOR = -100.0  # torch.nn.BCELoss's
_MINUS_INFINITY = float("-inf")


class Rule(NamedTuple):
    """What the rows' similarities are made into; as csrc/row_math.h's `Rule`, with `eps`."""

    objective: int
    alpha: float = 0.0
    beta: float = 1.0
    temperature: float = 1.0
    min_weight: float = 0.0
    cutoff: float = 0.0
    eps: float = 0.0


def has_normaliser(alpha: float, beta: float, negatives: int | Tensor) -> bool | Tensor:
    """Tell whether Eq. 4's normaliser is positive, and not an equality that was rounded."""
    return beta * negatives - alpha > 1e-6 * abs(alpha)


class Block(NamedTuple):
    """R rows against all codes."""

    scores: Tensor  # [R, M]
    positive: Tensor  # [R, 1], column of the positive
    masked: Tensor | None  # bool [R, M], neither positive nor negative
    similarity: Tensor | None  # [R, M]
    known: Tensor | None  # bool [M], false for a code without a similarity

    def outside(self) -> Tensor | None:
        """Return bool [R, M], true for columns without a similarity that counts, or None."""
        if self.known is None:
            return self.masked
        outside = (~self.known).expand_as(self.scores)
        return outside.clone() if self.masked is None else outside | self.masked


def loss_and_gradient(rule: Rule, block: Block, need_gradient: bool) -> tuple[Tensor, Tensor]:
    """Return each row's loss, [R, 1], and its gradient with respect to the scores, [R, M].

    What stands in the gradient's place if it is not needed means nothing.
    """
    if rule.objective == BCE:
        return _bce(rule, block)
    if rule.objective == WEIGHTED_INFO_NCE:
        return _weighted_info_nce(rule, block)
    if rule.objective == KL:
        return _kl(rule, block)
    return _cross_entropy(rule, block, need_gradient)


def _cross_entropy(rule: Rule, block: Block, need_gradient: bool) -> tuple[Tensor, Tensor]:
    scores, positive = block.scores, block.positive
    own = scores.gather(1, positive)
    if block.similarity is not None:
        scores += _weights(rule, block).log_()  # a weight of 0 is a bias of -inf
    elif block.masked is not None:
        scores.masked_fill_(block.masked & ~scores.isnan(), _MINUS_INFINITY)
    # log(1 + sum_j w_j exp(s_j - s_p)): a loss near zero keeps its relative accuracy.
    scores.sub_(own).scatter_(1, positive, _MINUS_INFINITY)
    loss = torch.logaddexp(torch.logsumexp(scores, dim=1, keepdim=True), own - own)
    if need_gradient:
        scores.sub_(loss).exp_().scatter_(1, positive, torch.expm1(-loss))
    if rule.eps > 0:
        # log(p + eps) from the logarithms: neither 1 - p nor a tiny eps is lost.
        log_p, log_eps = -loss, _log_eps(rule, loss)
        loss = -torch.logaddexp(log_p, log_eps)
        if need_gradient:
            scores.mul_(torch.sigmoid(log_p - log_eps))  # times p / (p + eps)
    return loss, scores


def _log_eps(rule: Rule, like: Tensor) -> Tensor:
    log_eps = torch.full((), rule.eps, dtype=torch.float64, device=like.device).log()
    return log_eps.to(like.dtype)


class _Judged(NamedTuple):
    z: Tensor  # [R, M], -inf where there is no negative with a similarity
    outside: Tensor | None  # bool [R, M]; without the positive
    negatives: Tensor | int  # [R, 1], negatives with a similarity
    broken: Tensor  # bool [R, 1], a negative's similarity is NaN or infinite


def _judge(block: Block) -> _Judged:
    assert block.similarity is not None
    z, outside = block.similarity, block.outside()
    # What is no negative takes a finite z first, so that only negatives are judged, then -inf.
    z.scatter_(1, block.positive, 0)
    count: Tensor | int = z.shape[1] - 1
    if outside is not None:
        outside.scatter_(1, block.positive, False)
        z.masked_fill_(outside, 0)
        count = z.shape[1] - 1 - outside.sum(dim=1, keepdim=True)
    broken = ~torch.isfinite(z).all(dim=1, keepdim=True)
    z.scatter_(1, block.positive, _MINUS_INFINITY)
    if outside is not None:
        z.masked_fill_(outside, _MINUS_INFINITY)
    return _Judged(z, outside, count, broken)


def _tempered(z: Tensor, temperature: float) -> Tensor:
    # The largest goes first: z / temperature may overflow where the difference does not.
    top = z.amax(dim=1, keepdim=True)
    z.sub_(torch.where(top.isinf(), 0, top))  # a row without negatives stays -inf
    bounds = torch.finfo(z.dtype)
    return z.div_(min(max(temperature, bounds.tiny), bounds.max))


def _weights(rule: Rule, block: Block) -> Tensor:
    """Return the weights of a block, [R, M], 1 for positives and 0 for masked columns."""
    assert block.similarity is not None
    own = block.similarity.gather(1, block.positive)
    judged = _judge(block)
    broken = judged.broken
    if rule.objective == SOFT_INFO_NCE:
        weights = _soft_weights(rule, judged)
    elif rule.objective == TOP_K:
        weights = _top_k_weights(judged.z, int(rule.cutoff))
    else:
        bound = _threshold_bound(rule.cutoff, own)
        own_broken = ~torch.isfinite(own)
        if block.known is not None:  # a positive without a similarity sets no bound
            own_known = block.known[block.positive]
            bound = bound.masked_fill(~own_known, float("inf"))
            own_broken = own_broken & own_known
        # Whatever the positive's own, a row without negatives has nothing to learn.
        counts = torch.ones_like(own_broken) if block.masked is None else ~block.masked
        has_negatives = counts.expand_as(judged.z).sum(dim=1, keepdim=True) > 1
        weights = (judged.z < bound).to(own.dtype)
        broken = broken | (own_broken & has_negatives)
    if judged.outside is not None:
        weights.masked_fill_(judged.outside, 1)
    if block.masked is not None:
        weights.masked_fill_(block.masked, 0)
    return weights.masked_fill_(broken, float("nan")).scatter_(1, block.positive, 1)


def _soft_weights(rule: Rule, judged: _Judged) -> Tensor:
    alpha, beta, count = rule.alpha, rule.beta, judged.negatives
    weights = torch.softmax(_tempered(judged.z, rule.temperature), dim=1)
    if isinstance(count, Tensor):
        weights = weights.mul_(-alpha).add_(beta).div_(beta - alpha / count.to(weights.dtype))
        weights = weights.clamp_(min=rule.min_weight)
        return torch.where(has_normaliser(alpha, beta, count) & (count > 0), weights, 1.0)
    if count > 0 and has_normaliser(alpha, beta, count):
        normaliser = beta - alpha / count
        weights = weights.mul_(-alpha / normaliser).add_(beta / normaliser)
        return weights.clamp_(min=rule.min_weight)
    return weights.fill_(1)


def _top_k_weights(z: Tensor, k: int) -> Tensor:
    if k == 0:
        return torch.ones_like(z)
    k = min(k, z.shape[1])
    least = torch.topk(z, k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    above, equal = z > least, (z == least) & (z > _MINUS_INFINITY)
    room = k - above.sum(dim=1, keepdim=True)  # of equals the lower column goes first
    dropped = above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= room))
    return (~dropped).to(z.dtype)


def _threshold_bound(ratio: float, own: Tensor) -> Tensor:
    """Return the bound of z < ratio * own, rounded up to own's type."""
    product = ratio * own.double()
    bound = product.to(own.dtype)
    above = torch.nextafter(bound, torch.full_like(bound, float("inf")))
    return torch.where(bound.double() < product, above, bound)


def _log_shares(rule: Rule, block: Block) -> tuple[Tensor, Tensor | float]:
    """Return log S [R, M], -inf where S is 0 by definition, and the sum of S, 0 or 1."""
    judged = _judge(block)
    shares = torch.log_softmax(_tempered(judged.z, rule.temperature), dim=1)
    shares.scatter_(1, block.positive, _MINUS_INFINITY)  # log_softmax makes it NaN if alone
    if judged.outside is not None:
        shares.masked_fill_(judged.outside, _MINUS_INFINITY)
    shares.masked_fill_(judged.broken, float("nan"))
    if isinstance(judged.negatives, Tensor):
        return shares, (judged.negatives > 0).to(shares.dtype)
    return shares, float(judged.negatives > 0)


def _counting_scores(block: Block) -> Tensor:
    """Return the scores with -inf for masked columns, whose P is then exactly 0; NaN stays."""
    if block.masked is None:
        return block.scores
    return block.scores.masked_fill_(block.masked & ~block.scores.isnan(), _MINUS_INFINITY)


class _Peak(NamedTuple):
    """A row's softmax P with its largest column apart, so that 1 - P of it does not cancel."""

    column: Tensor  # [R, 1], the largest
    log_z: Tensor  # [R, 1], -log P of it
    log_rest: Tensor  # [R, 1], log(1 - P) of it
    rest: Tensor  # [R, 1], 1 - P of it
    log_p: Tensor  # [R, M], log P of the others, -inf for it
    share: Tensor  # [R, M], P / rest of the others, 0 for it


def _peak(block: Block) -> _Peak:
    scores = _counting_scores(block)
    top, column = scores.max(dim=1, keepdim=True)
    scores.scatter_(1, column, _MINUS_INFINITY)
    others = torch.logsumexp(scores, dim=1, keepdim=True)
    rest = torch.exp(others - top)
    log_z = torch.log1p(rest) + (top - top)  # NaN for an infinite score
    # A row of one column has no others: every share is 0.
    share = torch.exp(scores - torch.where(others == _MINUS_INFINITY, 0, others))
    log_p = scores.sub_(top).sub_(log_z)
    return _Peak(column, log_z, others - top - log_z, rest / (1 + rest), log_p, share)


def _targets(rule: Rule, block: Block, peak: _Peak) -> tuple[Tensor, Tensor]:
    """Return the targets of all but the largest column, [R, M], and its own, [R, 1]."""
    target = _log_shares(rule, block)[0].exp_().scatter_(1, block.positive, 1)
    y = target.gather(1, peak.column)
    return target.scatter_(1, peak.column, 0), y


def _weighted_info_nce(rule: Rule, block: Block) -> tuple[Tensor, Tensor]:
    peak = _peak(block)
    target, y = _targets(rule, block, peak)
    log_p, p_top, y_log_top = peak.log_p, torch.exp(-peak.log_z), -y * peak.log_z
    p = peak.share.mul_(peak.rest)
    if rule.eps > 0:
        log_eps = _log_eps(rule, log_p)
        log_sum = (target * torch.logaddexp(log_p, log_eps)).sum(dim=1, keepdim=True)
        target.mul_(torch.sigmoid(log_p - log_eps))  # times P / (P + eps)
        y_log_top = y_log_top + y * torch.log1p(rule.eps / p_top)
        y = y / (1 + rule.eps / p_top)
    else:
        log_sum = (target * log_p.masked_fill_(target == 0, 0)).sum(dim=1, keepdim=True)
    total = target.sum(dim=1, keepdim=True)
    gradient = p.mul_(total + y).sub_(target)
    gradient.scatter_(1, peak.column, total * p_top - y * peak.rest)
    return -(log_sum + y_log_top), gradient


def _bce(rule: Rule, block: Block) -> tuple[Tensor, Tensor]:
    n: Tensor | int = block.scores.shape[1]
    if block.masked is not None:
        n = n - block.masked.sum(dim=1, keepdim=True)
    peak = _peak(block)
    target, y = _targets(rule, block, peak)
    target_above = torch.where(peak.log_p <= _LOG_FLOOR, 0, target)
    p = peak.rest * peak.share
    log_sum = (target * peak.log_p.clamp_(min=_LOG_FLOOR)).sum(dim=1, keepdim=True)
    log_sum = log_sum + ((1 - target) * torch.log1p(-p)).sum(dim=1, keepdim=True)
    push = (1 - target).mul_(p).div_(1 - p).sub_(target_above)
    total = push.sum(dim=1, keepdim=True)

    p_top = torch.exp(-peak.log_z)
    log_sum = log_sum - y * peak.log_z + (1 - y) * peak.log_rest.clamp(min=_LOG_FLOOR)
    pull = torch.where(peak.log_rest <= _LOG_FLOOR, 0, (1 - y) * p_top)
    slope = peak.rest * (total - y) + pull
    gradient = push.sub_(peak.share.mul_(slope))
    gradient.scatter_(1, peak.column, pull - y * peak.rest - p_top * total)
    return -log_sum / n, gradient.div_(n)


def _kl(rule: Rule, block: Block) -> tuple[Tensor, Tensor]:
    log_share, total = _log_shares(rule, block)
    scores = _counting_scores(block)
    own = scores.gather(1, block.positive)
    scores.scatter_(1, block.positive, _MINUS_INFINITY)
    log_sum = torch.logsumexp(scores, dim=1, keepdim=True)
    gap = log_sum - own
    info_nce = torch.logaddexp(gap, own - own)
    missed = torch.sigmoid(gap)  # 1 - P of the positive
    log_p = scores.sub_(torch.where(log_sum == _MINUS_INFINITY, 0, log_sum))
    share = log_share.exp()
    ratio = log_share.sub_(log_p).masked_fill_(share == 0, 0)  # 0 log 0 = 0
    loss = rule.beta * info_nce + rule.alpha * (share * ratio).sum(dim=1, keepdim=True)
    gradient = log_p.exp_().mul_(rule.beta * missed + rule.alpha * total)
    gradient.sub_(share.mul_(rule.alpha)).scatter_(1, block.positive, -rule.beta * missed)
    return loss, gradient
