"""Measure how hard pairs are for one another, by what contextual batching maximises (paper, section 3.1).

Between pairs i and j it is ``(f(q_i, d_j) + f(q_j, d_i)) / 2``, f the cosine under the surrogate. A pair's difficulty
is the mean over the others of its group, a cluster or a batch; a group's is the mean over its pairs. Found from sums of
vectors, in time linear in the number of pairs; memory beside the vectors: one group of them.
"""

import numpy as np
from numpy.typing import NDArray

from cde_train.batching.pair_vectors import Rows


def pair_difficulty(queries: Rows, documents: Rows, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the difficulty of each pair in its group, (N,); 0 for a pair alone.

    Args:
        queries: Unit vectors of the queries, (N, d).
        documents: Unit vectors of their documents, (N, d).
        labels: Group of each pair, (N,), numbers from 0.
    """
    if queries.shape != documents.shape or labels.shape != queries.shape[:1]:
        raise ValueError(
            f"expected two vectors and a label for each pair, got {queries.shape}, {documents.shape} and {labels.shape}"
        )
    order = np.argsort(labels, kind="stable")
    difficulty = np.zeros(len(labels))
    for group in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        if len(group) > 1:
            q, d = queries[group].astype(np.float64), documents[group].astype(np.float64)
            with_itself = d @ q.sum(axis=0) + q @ d.sum(axis=0)
            difficulty[group] = (with_itself / 2 - (q * d).sum(axis=1)) / (len(group) - 1)
    return difficulty
