"""Move a document's vector towards the context documents near it: attention over the context, without training.

    w_j = softmax_j( s / spread_c · cos(z - m / 2, A_j - m / 2) )          z' = normalise(z + a Σ_j w_j A_j)

with A the unit vectors of the J context documents, m their mean, z a document's plain unit vector, and spread_c the
standard deviation of the cosines between distinct A_j - m / 2, so that one sharpness s fits every encoder. A document
that is in the context does not attend to itself. Of a large context it attends to some documents, `attended`, as more
are worth no more. Queries stay as they are: letting them attend costs 0.2 nDCG@10. Half of the mean is subtracted
because what all documents share says nothing about who is near. Measured in ``docs/log.md``.

Chunks of one document may attend to each other instead: A_j are then the others' plain vectors, spread_c stays.

Shapes: J context documents, n documents, d numbers a vector.
"""

from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.head_settings import HeadSettings

Vectors = NDArray[np.float32]

TYPICAL_PAIRS_FROM = 16
"""So many documents the typical spread counts as: a few documents say little about how similar documents are."""
LEAST_LENGTH = np.float32(np.finfo(np.float32).tiny)
"""Divided by where a length is 0."""
ROWS_AT_ONCE = 1024
"""Documents, or chunks of a long one, that attend at once, which bounds memory."""


class Neighbours:
    """What attention needs of a context, computed once.

    Args:
        vectors: Unit vectors of the context documents, (J, d), in an order that says nothing of them, as the first are
            attended to; none for the null context.
        head: Holds s, a, how many are attended to, and the spread where the context is too small to show it.
    """

    def __init__(self, vectors: Vectors, head: HeadSettings) -> None:
        self._vectors = seen = vectors[: head.attended or None]
        self._amount = head.amount
        self._half_mean = seen.mean(axis=0) / 2 if len(seen) else np.zeros(vectors.shape[1], np.float32)
        self.spread = spread_of(vectors, head.typical_spread)
        self._head = head

    @cached_property
    def _keys(self) -> Vectors:  # queries need none, so a start does not wait for them
        return unit(self._vectors - self._half_mean)

    @cached_property
    def _scale(self) -> float:
        return self._head.sharpness / spread_of(self._keys, self._head.typical_spread)

    def move(self, plain: Vectors, own: NDArray[np.int64], chunks_of: Sequence[Hashable] | None = None) -> Vectors:
        """Return z' of documents, (n, d).

        Args:
            plain: Their plain unit vectors, (n, d).
            own: For each the context document that it is, -1 if it is none, (n,).
            chunks_of: For each what it is a chunk of, None for nothing; those of one thing attend to each other.
        """
        moved = plain.copy()
        if not self._amount:
            return moved
        if len(self._vectors) >= 2:
            moved = unit(plain + self._amount * (self.weights(plain, own) @ self._vectors))
        for rows in _chunks(chunks_of or ()):
            chunks = plain[rows]
            keys = unit(chunks - self._half_mean)
            for first in range(0, len(rows), ROWS_AT_ONCE):
                part = np.arange(first, min(first + ROWS_AT_ONCE, len(rows)))
                weights = self._weights(chunks[part], keys, part)
                moved[rows[part]] = unit(chunks[part] + self._amount * (weights @ chunks))
        return moved

    def weights(self, plain: Vectors, own: NDArray[np.int64]) -> Vectors:
        """Return w of documents, (n, attended), given as for `move`, of a context of two documents or more."""
        return self._weights(plain, self._keys, np.where(own < len(self._keys), own, -1))

    def _weights(self, plain: Vectors, keys: Vectors, own: NDArray[np.int64]) -> Vectors:
        logits = self._scale * (unit(plain - self._half_mean) @ keys.T)
        logits[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
        weights: Vectors = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return weights


def _chunks(chunks_of: Sequence[Hashable]) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of the chunks of each thing that has several."""
    rows: dict[Hashable, list[int]] = {}
    for row, name in enumerate(chunks_of):
        rows.setdefault(name, []).append(row)
    yield from (np.array(found) for name, found in rows.items() if name is not None and len(found) > 1)


def unit(vectors: Vectors) -> Vectors:
    """Return vectors, (n, d), at unit length; zero stays zero."""
    length: Any = np.sqrt(np.add.reduce(vectors * vectors, axis=1, keepdims=True))  # faster than linalg.norm
    scaled: Vectors = vectors / np.maximum(length, LEAST_LENGTH)
    return scaled


def spread_of(vectors: Vectors, typical: float) -> float:
    """Return the standard deviation of the cosines of distinct unit vectors, drawn towards a typical one where few."""
    count = len(vectors)
    if count < 2:
        return typical
    # From the sums of vectors and of their outer products: there are J² cosines, and contexts of many thousands.
    exact = vectors.astype(np.float64)
    lengths, total, products = (exact**2).sum(axis=1), exact.sum(axis=0), exact.T @ exact
    pairs = count * (count - 1)
    mean = (total @ total - lengths.sum()) / pairs
    square = ((products**2).sum() - (lengths**2).sum()) / pairs
    found = float(np.sqrt(max(square - mean**2, 0)))
    return (count * found + TYPICAL_PAIRS_FROM * typical) / (count + TYPICAL_PAIRS_FROM)
