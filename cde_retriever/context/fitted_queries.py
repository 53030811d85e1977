"""Fit a query's vector to the exact words of context documents near it, so that documents need hold no words.

    q' = normalise(q + Aᵀ (A Aᵀ + λ tr(A Aᵀ) / K · I)⁻¹ w)

with A the vectors, moved as documents are, less their mean, (K, d), of the K context documents that the query is
nearest to by q · document + w, and w the exact words' score of the query and each of them
(`cde_retriever.words.weights`), (K,): local ridge regression (Hoerl & Kennard 1970; Cleveland 1979) of what words add
to a cosine on where documents lie. It is the direction in the encoder's own space along which the documents that may
answer match the query's words, so that among them, and those like them, cosines of q' and documents come near to the
sum of both parts. Far ones would only take up numbers. λ is the noise that is allowed for, in variances of a document's
vector: words say much of a document that its vector does not hold.

Documents are not touched. So where they are not moved either, an index that is there can be asked under any context of
its encoder.
"""

from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from cde_retriever.context.blas_threads import one_blas_thread
from cde_retriever.context.neighbours import unit
from cde_retriever.words.postings import Postings
from cde_retriever.words.sparse import Sparse

Vectors = NDArray[np.float32]

LEAST_VARIANCE = 1e-6
"""Documents that differ by less say nothing of where words are."""


class FittedQueries:
    """What fitting needs of a context.

    Args:
        vectors: Unit vectors of the context documents, moved as documents are, (J, d).
        words: Exact weights of their words.
        noise: λ.
        near: K; 0 for all documents.
    """

    def __init__(self, vectors: Vectors, words: Postings, noise: float, near: int) -> None:
        self._vectors, self._noise = vectors, noise
        self._near = min(near, len(vectors)) or len(vectors)
        self._words = words

    def fit(self, plain: Vectors, words: Sparse) -> Vectors:
        """Return q' of queries, (n, d); as they are where the documents near them do not differ.

        Args:
            plain: Their plain unit vectors, (n, d).
            words: Exact weights of their words, what these are worth beside a cosine included, (n, 2**32).
        """
        if not len(plain) or not self._near:
            return plain
        scores = self._words.scores(words)
        # One by one: products of many at once are rounded otherwise, and other documents could be nearest.
        with one_blas_thread():
            return np.stack([self._fit(*query) for query in zip(plain, scores, strict=True)])

    def _fit(self, plain: Vectors, scores: Vectors) -> Vectors:
        """Return q' of a query, (d,), given what words score of each context document, (J,)."""
        near = np.argpartition(-(self._vectors @ plain + scores), self._near - 1)[: self._near]
        there = self._vectors[near]
        there -= there.mean(axis=0)
        wide = self._near <= there.shape[1]
        products = there @ there.T if wide else there.T @ there  # the smaller of two ways to the same vector
        variance = float(np.trace(products)) / self._near
        if variance <= LEAST_VARIANCE:
            return plain
        products.flat[:: len(products) + 1] += self._noise * variance
        asked = scores[near] if wide else scores[near] @ there
        # LAPACK itself: `scipy.linalg.solve` takes twice as long, most of it for checks.
        found: Vectors = lapack.sposv(products.T, asked, overwrite_a=True, overwrite_b=True)[1]
        return cast(Vectors, unit((plain + (found @ there if wide else found))[None])[0])
