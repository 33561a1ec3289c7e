from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from softnce_ext.evaluation.significance import (
    Interval,
    bootstrap_interval,
    bootstrap_intervals,
    in_words,
    paired_difference,
)

VALUES = np.array([0.1, 0.2, 0.9, 0.4, 0.5, 1.0, 0.0])
PACKAGES = ["a", "b", "a", "c", "c", "c", "b"]
# Of eight packages, whose sizes differ.
MANY = np.random.default_rng(5).random(60)
ITS_PACKAGES = [str(round(8 * (i / 60) ** 2)) for i in range(2, 62)]


def interval_by_loop(values: np.ndarray, packages: list[str], per_package: bool) -> list[float]:
    """The definition, one resample at a time, with draws of its own."""
    rng = np.random.default_rng(99)
    groups = [values[[p == name for p in packages]] for name in sorted(set(packages))]
    means = []
    for _ in range(20_000):
        drawn = [groups[i] for i in rng.integers(len(groups), size=len(groups))]
        if per_package:
            means.append(np.mean([group.mean() for group in drawn]))
        else:
            means.append(np.concatenate(drawn).mean())
    n = len(groups)
    tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1))
    return [float(x) for x in np.quantile(means, [tail, 1 - tail])]


@pytest.mark.parametrize("per_package", [False, True])
def test_interval_matches_a_loop_over_resampled_packages(per_package: bool) -> None:
    found = bootstrap_interval(VALUES, PACKAGES, per_package=per_package, resamples=20_000)
    means = [np.mean([0.1, 0.9]), np.mean([0.2, 0.0]), np.mean([0.4, 0.5, 1.0])]
    assert found.mean == pytest.approx(np.mean(means) if per_package else VALUES.mean())
    assert found.over == "packages" and found.units == 3
    found = bootstrap_interval(MANY, ITS_PACKAGES, per_package=per_package, resamples=20_000)
    assert [found.low, found.high] == pytest.approx(
        interval_by_loop(MANY, ITS_PACKAGES, per_package), abs=0.005
    )


def test_interval_covers_the_truth_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(3)
    packages = [str(i) for i in np.repeat(np.arange(40), 10)]
    clustered, single = 0, 0
    for seed in range(200):
        values = np.repeat(rng.normal(size=40), 10) + rng.normal(scale=0.3, size=400)
        by_package = bootstrap_interval(values, packages, resamples=500, seed=seed)
        by_query = bootstrap_interval(values, None, resamples=500, seed=seed)
        clustered += by_package.low <= 0 <= by_package.high
        single += by_query.low <= 0 <= by_query.high
    assert 0.88 <= clustered / 200 <= 0.99
    assert single / 200 < 0.7  # what resampling single queries would have promised


@pytest.mark.parametrize("packages", [None, ["only"] * 7])
def test_one_package_falls_back_to_queries_and_says_so(packages: list[str] | None) -> None:
    found = bootstrap_interval(VALUES, packages)
    assert found.over == "queries" and found.units == 7
    assert found.low < found.mean < found.high
    assert bootstrap_interval(VALUES, packages, per_package=True) == found


def test_the_seed_decides_the_interval() -> None:
    assert bootstrap_interval(VALUES, PACKAGES) == bootstrap_interval(VALUES, PACKAGES)
    assert bootstrap_interval(VALUES) != bootstrap_interval(VALUES, seed=1)


def test_draws_in_several_rounds_are_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softnce_ext.evaluation.significance._DRAWS_AT_ONCE", 10)
    found = bootstrap_interval(MANY, ITS_PACKAGES, resamples=4001)
    assert [found.low, found.high] == pytest.approx(
        interval_by_loop(MANY, ITS_PACKAGES, False), abs=0.01
    )


@pytest.mark.parametrize("packages", [None, PACKAGES])
@pytest.mark.parametrize("per_package", [False, True])
def test_several_figures_at_once_are_as_each_alone(packages, per_package: bool) -> None:
    figures = {"a": VALUES, "b": VALUES[::-1], "c": VALUES**2}
    options = {"per_package": per_package, "resamples": 300, "seed": 7}
    found = bootstrap_intervals(figures, packages, **options)
    for name, values in figures.items():
        alone = bootstrap_interval(values, packages, **options)
        assert found[name][:3] == pytest.approx(alone[:3], abs=1e-14)
        assert found[name].over == alone.over


def test_figures_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="b must have 7 entries, got 2"):
        bootstrap_intervals({"a": VALUES, "b": VALUES[:2]})
    with pytest.raises(ValueError, match="figures must hold at least one figure, got none"):
        bootstrap_intervals({})


def test_paired_difference_is_the_interval_of_the_differences() -> None:
    # The same gain everywhere: certain as a pair, lost in the noise of either mean.
    found = paired_difference(VALUES + 0.01, VALUES, PACKAGES)
    assert found[:3] == pytest.approx((0.01, 0.01, 0.01))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0.001, -0.0012, 0.0031), "no difference shown: -0.0012 to 0.0031"),
        ((0.015, 0.0101, 0.0199), "higher by 0.0150: 0.0101 to 0.0199"),
        ((-0.015, -0.0199, -0.0101), "lower by 0.0150: -0.0199 to -0.0101"),
        ((0.0, 0.0, 0.0), "no difference shown: 0.0000 to 0.0000"),
    ],
)
def test_in_words(numbers: tuple[float, float, float], words: str) -> None:
    assert in_words(Interval(*numbers, "packages", 6)) == words
    few = in_words(Interval(*numbers, "queries", 5))
    assert few == f"too few queries (5) to tell: {words.partition(': ')[2]}"


@pytest.mark.parametrize(("packages", "most"), [(2, 0.0), (5, 0.0), (6, 0.105), (10, 0.09)])
def test_few_packages_tell_no_difference_where_there_is_none(packages: int, most: float) -> None:
    rng = np.random.default_rng(7)
    claimed = 0
    for seed in range(400):
        sizes = np.minimum(300, np.ceil(rng.lognormal(4, 1, packages))).astype(int)
        names = [str(i) for i in np.repeat(np.arange(packages), sizes)]
        values = np.repeat(rng.normal(0, 0.01, packages), sizes)
        values += rng.normal(0, 0.1, len(values))
        gap = paired_difference(values, np.zeros(len(values)), names, resamples=500, seed=seed)
        claimed += in_words(gap).startswith(("higher", "lower"))
    assert claimed / 400 <= most  # plain percentiles: 0.52, 0.17, 0.18, 0.12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, r"values must have shape \[N\]"),
        ({"values": [[1.0]]}, r"got \[1, 1\]"),
        ({"values": [1.0, np.nan]}, "values must be finite"),
        ({"packages": ["a"]}, "packages must have 2 entries, got 1"),
        ({"confidence": 1.0}, "confidence must be between 0 and 1, got 1.0"),
        ({"resamples": 0}, "resamples must be >= 1, got 0"),
    ],
)
def test_bad_input_names_argument_rule_and_value(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**{"values": [0.0, 1.0], **arguments})


def test_paired_systems_must_answer_the_same_queries() -> None:
    with pytest.raises(ValueError, match=r"got \[2\] and \[3\]"):
        paired_difference(np.zeros(2), np.zeros(3))
