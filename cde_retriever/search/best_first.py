"""Choose the highest of scores, best first, by one rule for all that ranks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def best_first(scores: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Return the places of the highest scores, best first; of equal ones the earlier place comes first.

    Args:
        scores: Scores, (n,); the time grows with n, and sorting is of `count` alone.
        count: How many to return; all if there are fewer.
    """
    places = np.arange(len(scores))
    if 0 < count < len(scores):
        places = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    order: NDArray[np.int64] = places[np.argsort(-scores[places], kind="stable")][:count]
    return order


def finite_first(scores: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Return the same without places of no finite score: minus infinity stands for what is not found at all."""
    places = best_first(scores, count)
    found: NDArray[np.int64] = places[np.isfinite(scores[places])]
    return found
