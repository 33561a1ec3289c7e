"""How often a difference is claimed where there is none, by number of packages.

    python benchmarks/check_intervals.py [--trials 1000] [--json OUT]

A trial draws package sizes (log-normal about 55 queries, at most 300), an effect of each package
(normal, sd 0.01) and noise of each query (normal, sd 0.1, as of a difference of reciprocal ranks),
all of mean 0. Shown beside it is what plain percentiles would claim.
"""

from __future__ import annotations

import argparse
from unittest import mock

import machine
import numpy as np

from softnce_ext.evaluation import significance


def claims(packages: int, trials: int) -> int:
    """Return in how many trials the interval does not hold 0."""
    rng = np.random.default_rng(packages)
    found = 0
    for seed in range(trials):
        sizes = np.minimum(300, np.ceil(rng.lognormal(4, 1, packages))).astype(int)
        names = np.repeat(np.arange(packages), sizes)
        values = np.repeat(rng.normal(0, 0.01, packages), sizes) + rng.normal(0, 0.1, len(names))
        gap = significance.bootstrap_interval(values, names.tolist(), resamples=2000, seed=seed)
        found += not gap.low <= 0 <= gap.high
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--json")
    args = parser.parse_args()
    rates = {}
    for packages in (6, 8, 10, 20, 40):
        with mock.patch.object(significance, "_tail", lambda share, _: share):
            plain = claims(packages, args.trials) / args.trials
        rates[packages] = {"expanded": claims(packages, args.trials) / args.trials, "plain": plain}
        print(f"{packages} packages: {rates[packages]}", flush=True)
    machine.write(args.json, "intervals", {"trials": args.trials, "claimed": rates})


if __name__ == "__main__":
    main()
