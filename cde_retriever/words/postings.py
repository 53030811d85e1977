"""Score few documents for many queries by exact words: the documents' weights, kept by word."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

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
        self._places, self._documents = places[firsts], parts[0].rows
        starts = np.append(firsts, len(order))
        shape = (len(firsts), self._documents)
        self._weights = csr_array((values[order], rows[order].astype(np.int32), starts), shape=shape)

    def scores(self, queries: Sparse) -> NDArray[np.float32]:
        """Return the inner products of queries, (n, 2**32), and the documents, (n, J)."""
        scores = np.zeros((queries.rows, self._documents), np.float32)
        for first in range(0, queries.rows, ROWS_AT_ONCE) if len(self._places) else ():
            rows = np.arange(first, min(first + ROWS_AT_ONCE, queries.rows))
            scores[rows] = self._scores(queries.take(rows) if queries.rows > ROWS_AT_ONCE else queries)
        return scores

    def _scores(self, queries: Sparse) -> NDArray[np.float32]:
        places = self._places.searchsorted(queries.indices)
        known = self._places.take(places, mode="clip") == queries.indices
        kept = queries.where(known)
        asked = csr_array((kept.values, places[known], kept.starts), shape=(queries.rows, len(self._places)))
        scores: NDArray[np.float32] = (asked @ self._weights).toarray()
        return scores
