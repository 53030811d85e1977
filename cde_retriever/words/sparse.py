"""Hold sparse vectors over 2³² places, as rows of numbers and values."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

WIDTH = 2**32
"""How many numbers words can have; Qdrant's sparse vectors and others take 32 bits."""


class Sparse(NamedTuple):
    """n sparse vectors, as `scipy.sparse.csr_array` stores them, numbers of a row ascending and each once.

    Attributes:
        starts: Row i lies at ``starts[i] : starts[i + 1]``, (n + 1,) int64.
        indices: Places, 0 to 2³² - 1, int64.
        values: What stands there, float32.
    """

    starts: NDArray[np.int64]
    indices: NDArray[np.int64]
    values: NDArray[np.float32]

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[int, float]]) -> "Sparse":
        """Take one mapping of place to value a vector."""
        starts = np.array([0, *accumulate(map(len, rows))], np.int64)
        ordered = [sorted(row) for row in rows]
        found = (map(row.__getitem__, places) for row, places in zip(rows, ordered, strict=True))
        indices = np.fromiter(chain.from_iterable(ordered), np.int64, starts[-1])
        values = np.fromiter(chain.from_iterable(found), np.float32, starts[-1])
        return cls(starts, indices, values)

    @property
    def rows(self) -> int:
        """How many vectors."""
        return len(self.starts) - 1

    @property
    def row_numbers(self) -> NDArray[np.int64]:
        """The row of each value, (k,)."""
        if self.rows == 1:  # a query's
            return np.zeros(len(self.indices), np.int64)
        return np.repeat(np.arange(self.rows), self.starts[1:] - self.starts[:-1])

    def row(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return places and values of one vector."""
        part = slice(self.starts[number], self.starts[number + 1])
        return self.indices[part], self.values[part]

    def sums(self) -> NDArray[np.float32]:
        """Return the sum of each vector's values, (n,)."""
        return np.bincount(self.row_numbers, self.values, self.rows).astype(np.float32)

    def dot(self, other: "Sparse") -> NDArray[np.float32]:
        """Return all inner products with other vectors, (n, m)."""
        from scipy.sparse import csr_array

        places, mine = np.unique(self.indices, return_inverse=True)
        theirs = np.searchsorted(places, other.indices)
        known = places[np.minimum(theirs, len(places) - 1)] == other.indices if len(places) else theirs < 0
        kept = other.where(known)
        shape = (self.rows, max(len(places), 1))
        left = csr_array((self.values, mine.astype(np.int64), self.starts), shape=shape)
        right = csr_array((kept.values, theirs[known], kept.starts), shape=(other.rows, shape[1]))
        product: NDArray[np.float32] = (left @ right.T).toarray()
        return product

    def csr(self) -> "csr_array[Any]":
        """Return the same as a `scipy.sparse.csr_array`, (n, 2**32)."""
        from scipy.sparse import csr_array

        return csr_array((self.values, self.indices, self.starts), shape=(self.rows, WIDTH))

    @classmethod
    def of_csr(cls, array: "csr_array[Any]") -> "Sparse":
        """Take a `scipy.sparse.csr_array`, (n, 2**32)."""
        return cls(array.indptr.astype(np.int64), array.indices.astype(np.int64), array.data.astype(np.float32))

    @classmethod
    def joined(cls, parts: Sequence["Sparse"]) -> "Sparse":
        """Put the rows of several one below the other."""
        starts, values_before = [np.zeros(1, np.int64)], 0
        for part in parts:
            starts.append(part.starts[1:] + values_before)
            values_before += part.starts[-1]
        indices = [np.zeros(0, np.int64), *(part.indices for part in parts)]
        values = [np.zeros(0, np.float32), *(part.values for part in parts)]
        return cls(np.concatenate(starts), np.concatenate(indices), np.concatenate(values))

    def take(self, rows: NDArray[np.int64]) -> "Sparse":
        """Return some of the vectors, in the order asked for."""
        lengths = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], lengths)
        return Sparse(starts, self.indices[places], self.values[places])

    def where(self, kept: NDArray[np.bool_]) -> "Sparse":
        """Return vectors with some of their values, given of each whether it stays."""
        starts = np.concatenate([[0], np.cumsum(kept)])[self.starts]
        return Sparse(starts, self.indices[kept], self.values[kept])

    def scaled(self, values: NDArray[Any]) -> "Sparse":
        """Return vectors with other values at the same places."""
        return Sparse(self.starts, self.indices, values.astype(np.float32))


def added(*parts: Sparse) -> Sparse:
    """Return the sums of the rows of several, (n, 2**32); a place that more than one have stands once."""
    rows = np.concatenate([part.row_numbers for part in parts])
    places = rows * np.int64(WIDTH) + np.concatenate([part.indices for part in parts])
    values = np.concatenate([part.values for part in parts])
    unique, inverse = np.unique(places, return_inverse=True)
    starts = np.searchsorted(unique, np.arange(parts[0].rows + 1) * np.int64(WIDTH))
    return Sparse(starts, unique % WIDTH, np.bincount(inverse, values, len(unique)).astype(np.float32))
