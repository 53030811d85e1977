"""Measure how hard clusters and batches are, and how long a tour is, for benchmarks and tests."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cde_train.batching.difficulty import pair_difficulty
from cde_train.batching.pair_vectors import CHUNK, Rows, add_rows

Floats = NDArray[np.float32]


def tour_length(points: Floats, order: NDArray[np.int64]) -> float:
    """Return the mean distance of a step of a tour."""
    return float(np.mean([np.linalg.norm(points[a] - points[b]) for a, b in pairwise(order)]))


def batch_difficulty(queries: Floats, documents: Floats, batches: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the difficulty of each batch, (m,), of batches (m, batch_size) of pair numbers."""
    alone = np.zeros(batches.shape[1], np.int64)
    return np.array([pair_difficulty(queries[row], documents[row], alone).mean() for row in batches])


def paired_objective(queries: Rows, documents: Rows, labels: NDArray[np.int64]) -> float:
    """Return how hard clusters are: the mean over pairs i of the mean over j in its cluster of f(d_i) . g(q_j).

    Both directions of the paper's objective are in it, since i and j change places in the sum; between -1 and 1. A
    cluster is weighted by its number of pairs, so that larger clusters are not harder by definition.
    """
    sums = np.zeros((2, int(labels.max()) + 1, queries.shape[1]))
    everyone = np.arange(len(labels))
    for start in range(0, len(labels), CHUNK):
        part = everyone[start : start + CHUNK]
        for side, vectors in enumerate((documents, queries)):
            add_rows(sums[side], labels[part], vectors[part])
    sizes = np.bincount(labels, minlength=sums.shape[1])
    return float(((sums[0] * sums[1]).sum(axis=1) / np.maximum(sizes, 1)).sum() / len(labels))
