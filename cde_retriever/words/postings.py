"""Score few documents for many queries by exact words: the documents' weights, kept by word."""

import numpy as np
from numpy.typing import NDArray

from cde_retriever.words.sparse import Sparse

ROWS_AT_ONCE = 256
"""Queries scored at once, which bounds the memory of many."""


class Postings:
    """Sparse documents by the place of what stands in them (an inverted index).

    Args:
        parts: Their weights, (J, 2**32), or several such, which are added.
    """

    def __init__(self, *parts: Sparse) -> None:
        indices, rows, values = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("indices", "row_numbers", "values")
        )
        order = np.argsort(indices, kind="stable")
        places = indices[order]
        firsts = np.flatnonzero(np.diff(places, prepend=-1))
        self._places, self._starts = places[firsts], np.append(firsts, len(order))
        self._rows, self._values = rows[order].astype(np.int32), values[order]
        self._documents = parts[0].rows

    def scores(self, queries: Sparse) -> NDArray[np.float32]:
        """Return the inner products of queries, (n, 2**32), and the documents, (n, J)."""
        scores = np.zeros((queries.rows, self._documents), np.float32)
        for first in range(0, queries.rows, ROWS_AT_ONCE):
            rows = np.arange(first, min(first + ROWS_AT_ONCE, queries.rows))
            scores[rows] = self._scores(queries.take(rows) if queries.rows > ROWS_AT_ONCE else queries)
        return scores

    def _scores(self, queries: Sparse) -> NDArray[np.float32]:
        if not len(self._places):
            return np.zeros((queries.rows, self._documents), np.float32)
        places = self._places.searchsorted(queries.indices)
        known = self._places.take(places, mode="clip") == queries.indices
        first = self._starts[places[known]]
        counts = self._starts[places[known] + 1] - first
        entries = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
        cells = np.repeat(queries.row_numbers[known] * self._documents, counts) + self._rows[entries]
        products = np.repeat(queries.values[known], counts) * self._values[entries]
        scores = np.bincount(cells, products, queries.rows * self._documents).astype(np.float32)
        return scores.reshape(queries.rows, self._documents)
