"""Find the topics of a context: latent semantic analysis of its documents' words (Deerwester et al. 1990).

With W the (J, ·) sparse weights of the context documents and W Wᵀ = U Λ Uᵀ, a text with weights x has the topics
R Λ^(-1/2) Uᵀ W x: its place in the r directions in which the context's documents vary most. They are an orthonormal
basis of words, so the inner product of two texts' topics is the part of their words' inner product that lies in it; the
rest is what the random projection carries.

R makes the basis the same on every machine. Eigenvectors have no sign, and of equal variances none is the first; so the
basis is turned to the one that Gram-Schmidt gives of the documents themselves, in their order, seen in those r
directions. What was embedded on one machine is found from another.

Finding them takes longer than all else of a query, so a context keeps what was found (`FoundTopics`).
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cde_retriever.words.projection import project
from cde_retriever.words.sparse import Sparse

Vectors = NDArray[np.float32]
PREFIX = "topics_"
LEAST_VARIANCE = 1e-6
"""Directions with less than this share of the largest are rounding."""
LEAST_REST = 1e-3
"""A document gives a direction of its own if so much of it lies outside of those before it."""


class FoundTopics(NamedTuple):
    """What takes long to find of topics and is small: the rest is one product of it and the documents' words.

    Attributes:
        directions: The share of each context document in each topic, U Λ^(-1/2) Rᵀ, (J, r) float32.
        projected: The random projection of each topic, (r, sketch) float32.
        settings: What they were found by, beside the documents' words (`HeadSettings.topic_settings`).
    """

    directions: Vectors
    projected: Vectors
    settings: Mapping[str, Any] = {}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return them as arrays to store."""
        return {f"{PREFIX}directions": self.directions, f"{PREFIX}projected": self.projected}

    def header(self, words: str) -> dict[str, Any]:
        """Return what to store beside the arrays; `words` is a hash of what they were found of."""
        digest = hashlib.sha256(f"{words} {sorted(self.settings.items())}".encode())
        for array in (self.directions, self.projected):
            digest.update(f"{array.shape}".encode() + array.tobytes())
        return {"settings": dict(self.settings), "sha256": digest.hexdigest()}

    @classmethod
    def of_arrays(cls, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], words: str) -> Self:
        """Read what `arrays` and `header` gave.

        Raises:
            KeyError: if a part is missing.
            ValueError: if it is damaged, or was found of other words.
        """
        found = cls(arrays[f"{PREFIX}directions"], arrays[f"{PREFIX}projected"], header["settings"])
        if found.header(words) != header:
            raise ValueError("topics have another hash than they say")
        return found


class Topics:
    """The topics of context documents and a random projection of what lies outside of them.

    Args:
        weights: Sparse weights of the context documents, (J, 2**32).
        most: How many topics to keep; fewer where the documents span fewer.
        sketch: Numbers of the random projection.
        found: What was found before of the same weights and numbers; None to find it.
    """

    def __init__(self, weights: Sparse, most: int, sketch: int, found: FoundTopics | None = None) -> None:
        self._most, self._sketch = most, sketch
        self._words, places = np.unique(weights.indices, return_inverse=True)
        dense = np.zeros((weights.rows, len(self._words)), np.float32)
        dense[weights.row_numbers, places] = weights.values
        if found is None:
            directions = _directions(dense, most)
            none = np.zeros((directions.shape[1], 0), np.float32)
            found = FoundTopics(directions, directions.T @ project(weights, sketch) if sketch else none)
        self.found = found
        self._basis = dense.T @ found.directions  # (words, r), orthonormal columns

    @property
    def missing(self) -> int:
        """How many topics fewer there are than asked for; `embed` gives 0 for them."""
        found: int = self._basis.shape[1]
        return self._most - found

    def embed(self, weights: Sparse) -> Vectors:
        """Return topics and projected remainders of texts, (n, most + sketch); missing topics are 0."""
        found = np.zeros((weights.rows, self._basis.shape[1]), np.float32)
        if len(self._words):
            places = self._words.searchsorted(weights.indices)
            known = self._words.take(places, mode="clip") == weights.indices
            values = weights.values * known
            for number in range(weights.rows):
                part = slice(weights.starts[number], weights.starts[number + 1])
                found[number] = values[part] @ self._basis.take(places[part], axis=0, mode="clip")
        output = np.zeros((weights.rows, self._most + self._sketch), np.float32)
        output[:, : found.shape[1]] = found
        if self._sketch:
            output[:, self._most :] = project(weights, self._sketch) - found @ self.found.projected
        return output


def _directions(dense: Vectors, most: int) -> Vectors:
    """Return the share of each document in each topic, (J, r), given the documents' weights, (J, words)."""
    variances, vectors = np.linalg.eigh((dense @ dense.T).astype(np.float64))
    kept = np.flatnonzero(variances > LEAST_VARIANCE * max(variances.max(initial=0.0), 1e-12))[::-1][:most]
    lengths, vectors = np.sqrt(variances[kept]), vectors[:, kept]
    directions: Vectors = (vectors / lengths @ canonical(vectors * lengths)).astype(np.float32)
    return directions


def canonical(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an orthogonal matrix, (r, r), that depends on the rows' inner products and order alone up to their turn.

    Args:
        places: Places of J documents in r directions that they span, (J, r).
    """
    width = places.shape[1]
    basis = np.zeros((width, width))
    found = 0
    for row in places:
        if found == width:
            break
        rest = row - basis[:, :found] @ (basis[:, :found].T @ row)
        rest -= basis[:, :found] @ (basis[:, :found].T @ rest)  # once more, against rounding
        length = np.linalg.norm(rest)
        if length > LEAST_REST * np.linalg.norm(row):
            basis[:, found] = rest / length
            found += 1
    if found < width:  # documents that are almost sums of others; what is missing has no order of its own
        basis[:, found:] = np.linalg.svd(basis[:, :found], full_matrices=True)[0][:, found:]
    return basis
