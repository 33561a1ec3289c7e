"""How sure a mean over queries is: bootstrap intervals over packages, and what they say in words.

Queries of one package are alike (one author, one subject), so that resampling single queries
would promise too much. Whole packages are drawn with replacement instead (cluster bootstrap).

Plain percentiles of few packages are too narrow: they find a difference where there is none in
16, 13, 11 and 9 of 100 sets of 6, 8, 10 and 20 packages of unequal sizes. Expanded ones, which
allow for the number of packages as Student's t does, do so in 8, 8, 6 and 7 of 100 (`python
benchmarks/check_intervals.py`). Of fewer than 6 packages no difference is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

# Not even a sign test with all signs alike reaches 5 % with fewer: 2 / 2^5 is 0.06, 2 / 2^6 0.03.
_FEWEST_UNITS = 6
# Draws held at once: bounds memory at some tens of MB however many packages there are.
_DRAWS_AT_ONCE = 1 << 21


class Interval(NamedTuple):
    """A mean with its bootstrap interval.

    Attributes:
        mean: The mean of the data itself.
        low: Lower end of the interval.
        high: Upper end of the interval.
        over: What was resampled; "queries" where there is but one package.
        units: How many of these there are.
    """

    mean: float
    low: float
    high: float
    over: Literal["packages", "queries"]
    units: int


def bootstrap_interval(
    values: np.ndarray[Any, Any],
    packages: Sequence[str] | None = None,
    *,
    per_package: bool = False,
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> Interval:
    """Return the mean of `values` and its expanded percentile interval over resampled packages.

    Args:
        values: One figure per query, such as the reciprocal rank, float [N].
        packages: The package of each query [N]. None, or one package alone: queries are
            resampled instead, and the interval's `over` says so.
        per_package: Take the mean of the packages' means (macro) instead of the mean over all
            queries (micro).
        confidence: Share of such intervals that hold the true mean.
        resamples: How many times the packages are drawn.
        seed: Seed of the draws; the same seed gives the same interval.

    Raises:
        ValueError: `values` is empty, not one-dimensional or not finite, `packages` is of another
            length, or an option is out of range.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; Field and
    Welsh, "Bootstrapping clustered data", 2007 (drawing whole clusters); Hesterberg, "What Teachers
    Should Know About the Bootstrap", The American Statistician 69, 2015 (expanded percentiles).
    """
    return bootstrap_intervals(
        {"values": values},
        packages,
        per_package=per_package,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )["values"]


def bootstrap_intervals(
    figures: Mapping[str, np.ndarray[Any, Any]],
    packages: Sequence[str] | None = None,
    *,
    per_package: bool = False,
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return what `bootstrap_interval` does for several figures of the same queries, at once.

    Args:
        figures: Name -> one figure per query, float [N].
        packages: As the other arguments in `bootstrap_interval`.
        per_package: As there.
        confidence: As there.
        resamples: As there.
        seed: As there.

    Raises:
        ValueError: As there, or there are no figures or they differ in length.
    """
    if not figures:
        raise ValueError("figures must hold at least one figure, got none")
    arrays = {name: np.asarray(each, dtype=np.float64) for name, each in figures.items()}
    rows = 0
    for name, values in arrays.items():
        if values.ndim != 1 or len(values) == 0:
            raise ValueError(f"{name} must have shape [N] with N >= 1, got {list(values.shape)}")
        rows = rows or len(values)
        if len(values) != rows:
            raise ValueError(f"{name} must have {rows} entries, got {len(values)}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    if packages is not None and len(packages) != rows:
        raise ValueError(f"packages must have {rows} entries, got {len(packages)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be >= 1, got {resamples}")

    values = np.stack(list(arrays.values()), axis=1)  # [N, figures]
    sums, counts = _per_package(values, packages)
    over: Literal["packages", "queries"] = "packages"
    if packages is None or len(sums) == 1:
        sums, counts, over = values, np.ones(len(values)), "queries"
    if per_package:
        sums, counts = sums / counts[:, None], np.ones(len(sums))
    means = _resampled_means(sums, counts, resamples, np.random.default_rng(seed))
    tail = _tail((1 - confidence) / 2, len(sums))
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    mean = sums.sum(0) / counts.sum()
    return {
        name: Interval(float(mean[i]), float(low[i]), float(high[i]), over, len(sums))
        for i, name in enumerate(arrays)
    }


def paired_difference(
    first: np.ndarray[Any, Any],
    second: np.ndarray[Any, Any],
    packages: Sequence[str] | None = None,
    **options: Any,
) -> Interval:
    """Return the mean of ``first - second`` over the same queries, with its interval.

    Args:
        first: One figure per query of the first system, float [N].
        second: The same queries' figures of the second system, float [N].
        packages: The package of each query [N], as in `bootstrap_interval`.
        **options: As in `bootstrap_interval`.

    Raises:
        ValueError: The two differ in shape, or as in `bootstrap_interval`.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(
            f"first and second must have one shape, "
            f"got {list(first.shape)} and {list(second.shape)}"
        )
    return bootstrap_interval(first - second, packages, **options)


def in_words(difference: Interval) -> str:
    """Say what a difference shows: nothing, where its interval holds 0 or is over too few units.

    ``"no difference shown: -0.0012 to 0.0031"``, ``"higher by 0.0150: 0.0101 to 0.0199"``,
    ``"too few packages (3) to tell: 0.0101 to 0.0199"``.
    """
    mean, low, high, over, units = difference
    interval = f"{low:.4f} to {high:.4f}"
    if units < _FEWEST_UNITS:
        return f"too few {over} ({units}) to tell: {interval}"
    if low <= 0 <= high:
        return f"no difference shown: {interval}"
    return f"{'higher' if mean > 0 else 'lower'} by {abs(mean):.4f}: {interval}"


def _tail(share: float, units: int) -> float:
    """Return which share of the resampled means lies on one side of the expanded interval.

    Resampled means vary less than the mean does, by sqrt((n - 1) / n), and their percentiles are
    those of a known variance, not of an estimated one.
    """
    if units == 1:
        return share
    return float(ndtr((units / (units - 1)) ** 0.5 * stdtrit(units - 1, share)))


def _per_package(
    values: np.ndarray[Any, Any], packages: Sequence[str] | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Sums [P, figures] and counts [P] of the values [N, figures] of each package, float64."""
    if packages is None:
        return values.sum(0, keepdims=True), np.array([float(len(values))])
    _, member = np.unique(np.asarray(packages), return_inverse=True)
    sums = [np.bincount(member, weights=column) for column in values.T]
    return np.stack(sums, axis=1), np.bincount(member).astype(np.float64)


def _resampled_means(
    sums: np.ndarray[Any, Any],
    counts: np.ndarray[Any, Any],
    resamples: int,
    rng: np.random.Generator,
) -> np.ndarray[Any, Any]:
    """Means of each resample of the clusters [resamples, figures]: drawn sums by drawn counts."""
    size = len(sums)
    means = np.empty((resamples, sums.shape[1]))
    step = max(1, _DRAWS_AT_ONCE // size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(size, size=(rows, size), dtype=np.int32)
        # How often each cluster was drawn: one product serves all figures.
        drawn += np.arange(0, rows * size, size, dtype=np.int32)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        times = times.astype(np.float64)  # [rows, clusters]
        means[start : start + rows] = (times @ sums) / (times @ counts)[:, None]
    return means
