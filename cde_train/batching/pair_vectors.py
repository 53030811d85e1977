"""Read the vectors of pairs a few at a time.

All vectors are unit and finite: `cde_train.vectors` proves that once, when it writes them. No function holds all of
them in memory; they are read in chunks from where they lie, such as a memory-mapped file.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cde_train.data.pairs import TrainingPair
from cde_train.errors import TrainingDataError
from cde_train.vectors.text_vectors import TextVectors, VectorRows

CHUNK = 8192
"""Pairs read at once."""


Rows = NDArray[np.float32] | VectorRows
"""Vectors, (N, d), that are read a few rows at a time: an array, a memory map, or `TextVectors.view`."""


class PairVectors:
    """The sum of a pair's two unit vectors, f(d) + g(q), made for a few pairs at a time."""

    def __init__(self, queries: Rows, documents: Rows) -> None:
        if len(queries.shape) != 2 or queries.shape != documents.shape or not queries.shape[1]:
            raise ValueError(
                f"expected one query and one document vector a pair, both (N, d), received {queries.shape} and "
                f"{documents.shape}"
            )
        if not queries.shape[0]:
            raise TrainingDataError("there is no pair to cluster; give at least one")
        self.queries, self.documents = queries, documents

    def __len__(self) -> int:
        """Return the number of pairs."""
        return int(self.queries.shape[0])

    @property
    def width(self) -> int:
        """Width of a vector, d."""
        return int(self.queries.shape[1])

    def __getitem__(self, members: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of these pairs, (m, d), not of unit length: a pair that agrees weighs more."""
        sums = np.empty((len(members), self.width), dtype=np.float32)
        for start in range(0, len(members), CHUNK):
            part = members[start : start + CHUNK]
            sums[start : start + CHUNK] = self.documents[part]
            sums[start : start + CHUNK] += self.queries[part]
        return sums

    def chunks(self, members: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield these pairs' vectors chunk by chunk."""
        for start in range(0, len(members), CHUNK):
            yield slice(start, start + CHUNK), self[members[start : start + CHUNK]]


def views(pairs: Sequence[TrainingPair], vectors: TextVectors) -> tuple[VectorRows, VectorRows]:
    """Return the vectors of queries and of documents, (N, d) each, left on disk until they are read."""
    return vectors.view([pair.query for pair in pairs]), vectors.view([pair.document for pair in pairs])


def add_rows(sums: NDArray[np.float64], labels: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
    """Add each vector, (m, d), to the row of `sums`, (k, d), that its label names."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    sums[labels[order[starts]]] += np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64)
