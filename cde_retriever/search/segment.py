"""Score up to 2¹⁶ documents for a query: vectors as rows, words by place.

For each place the documents that have it stand together, so a query reads only its own places, and SciPy adds them up.
A document's number within its segment takes two bytes and a value four: a million documents of fifty words, 173 places
each, are 1.04 GB.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cde_retriever.words.sparse import Sparse

LARGEST = 2**16
"""Documents of a segment at most; their numbers fit two bytes."""

Vectors = NDArray[np.float32]


class Segment(NamedTuple):
    """Some documents in two parts.

    Attributes:
        dense: Their vectors, (n, d).
        places: Places that any of them has, ascending, (p,).
        starts: Documents and values of place i lie at ``starts[i] : starts[i + 1]``, (p + 1,).
        documents: Numbers of documents, 0 to n - 1, (k,).
        values: What they have at the place, (k,).
    """

    dense: Vectors
    places: NDArray[np.uint32]
    starts: NDArray[np.int64]
    documents: NDArray[np.uint16]
    values: Vectors

    @classmethod
    def of(cls, dense: Vectors, sparse: Sparse) -> Self:
        """Turn the rows of documents, at most `LARGEST`."""
        return cls._sorted(dense, sparse.indices.astype(np.uint32), sparse.row_numbers.astype(np.uint16), sparse.values)

    @classmethod
    def _sorted(
        cls, dense: Vectors, places: NDArray[np.uint32], documents: NDArray[np.uint16], values: Vectors
    ) -> Self:
        """Sort entries, one a place and document, documents ascending within a place."""
        order = np.argsort(places, kind="stable")
        found, first = np.unique(places[order], return_index=True)
        starts = np.append(first, len(places)).astype(np.int64)
        return cls(dense, found, starts, documents[order], values[order])

    @property
    def size(self) -> int:
        """How many documents."""
        return len(self.dense)

    def joined(self, other: Self) -> Self:
        """Return these documents and others after them, together at most `LARGEST`."""
        return self._sorted(
            np.concatenate([self.dense, other.dense]),
            np.concatenate([self._entry_places, other._entry_places]),
            np.concatenate([self.documents, other.documents + np.uint16(self.size)]),
            np.concatenate([self.values, other.values]),
        )

    def keep(self, mask: NDArray[np.bool_]) -> Self:
        """Return some of the documents, numbered anew."""
        entries = mask[self.documents]
        numbers = (np.cumsum(mask) - 1).astype(np.uint16)
        return self._sorted(
            self.dense[mask],
            self._entry_places[entries],
            numbers[self.documents[entries]],
            self.values[entries],
        )

    @property
    def _entry_places(self) -> NDArray[np.uint32]:
        return np.repeat(self.places, np.diff(self.starts))

    def words(self, places: NDArray[np.int64], values: Vectors) -> Vectors:
        """Return the inner products of the documents' sparse parts with that of a query, (n,)."""
        from scipy.sparse import csc_array

        asked = places.astype(np.uint32)
        columns = np.searchsorted(self.places, asked)
        found = columns < len(self.places)
        found[found] = self.places[columns[found]] == asked[found]
        parts = [slice(*self.starts[column : column + 2]) for column in columns[found]]
        if not parts:
            return np.zeros(self.size, np.float32)
        starts = np.cumsum([0, *(part.stop - part.start for part in parts)])
        documents = np.concatenate([self.documents[part] for part in parts]).astype(np.int32)
        table = csc_array(
            (np.concatenate([self.values[part] for part in parts]), documents, starts), shape=(self.size, len(parts))
        )
        products: Vectors = table @ values[found]
        return products
