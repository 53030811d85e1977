"""Bootstrap an interval for a mean difference over queries and sets."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
SEED = 0


def bootstrap(differences: Sequence[NDArray[np.float64]]) -> tuple[float, float, float]:
    """Return the mean over sets of a paired difference, and the ends of its 95 % interval.

    The queries of each set are drawn again with replacement; set means are averaged, every set counting the same.

    Args:
        differences: One array a set, one difference a query.
    """
    rng = np.random.default_rng(SEED)
    means = np.zeros(RESAMPLES)
    for values in differences:
        for start in range(0, RESAMPLES, 500):
            rows = rng.integers(len(values), size=(min(500, RESAMPLES - start), len(values)))
            means[start : start + 500] += values[rows].mean(axis=1) / len(differences)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean([values.mean() for values in differences])), float(low), float(high)
