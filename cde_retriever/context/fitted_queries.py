"""Fit a query's vector to the exact words of context documents, so that documents may keep an encoder's own vectors.

    q' = normalise(q + (Aᵀ A + λ tr(Aᵀ A) / J · I)⁻¹ Aᵀ w)

with A the J context documents' vectors less their mean, (J, d), and w the exact words' score of the query and each of
them (`cde_retriever.words.weights`), (J,): ridge regression (Hoerl & Kennard 1970) of what words add to a cosine on
where documents lie. It is the direction in the encoder's own space along which documents match the query's words, so
that cosines of q' and plain vectors come near to the sum of both parts, for documents of the context and those like
them. λ is the noise that is allowed for, in variances of a document's vector: words say much of a document that its
vector does not hold.

Documents are not touched, so an index that is there can be asked under any context of its encoder.
"""

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.neighbours import unit
from cde_retriever.words.postings import Postings
from cde_retriever.words.sparse import Sparse

Vectors = NDArray[np.float32]

LEAST_VARIANCE = 1e-6
"""Context documents that differ by less say nothing of where words are."""


class FittedQueries:
    """What fitting needs of a context, computed once.

    Args:
        vectors: Unit vectors of the context documents, (J, d).
        words: Exact weights of their words, (J, 2**32).
        noise: λ.
    """

    def __init__(self, vectors: Vectors, words: Sparse, noise: float) -> None:
        centred = vectors.astype(np.float64) - (vectors.mean(axis=0, dtype=np.float64) if len(vectors) else 0)
        covariance = centred.T @ centred
        variance = float(np.trace(covariance)) / max(len(vectors), 1)
        self._map: Vectors | None = None
        if variance > LEAST_VARIANCE:
            ridge = noise * variance * np.eye(len(covariance))
            self._map = np.linalg.solve(covariance + ridge, centred.T).T.astype(np.float32)
        self._postings = Postings(words)

    def fit(self, plain: Vectors, words: Sparse) -> Vectors:
        """Return q' of queries, (n, d); as they are where the context's documents do not differ.

        Args:
            plain: Their plain unit vectors, (n, d).
            words: Exact weights of their words, what these are worth beside a cosine included, (n, 2**32).
        """
        if self._map is None:
            return plain
        return unit(plain + self._postings.scores(words) @ self._map)
