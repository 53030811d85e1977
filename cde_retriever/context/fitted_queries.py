"""Fit a query's vector to the exact words of context documents near it, of which documents hold few or none.

    q' = normalise(u + Aᵀ (A Aᵀ + λ tr(A Aᵀ) / K · I)⁻¹ (s - D u))

with u the query, D the context documents, (K, m), and A the same less their mean, of the K that score most by both
parts, s, (K,): the cosine of dense parts and the exact words of the query and each of them
(`cde_retriever.words.weights`). Where u is the plain vector and D are dense parts, s - D u is what words score: it is
local ridge regression (Hoerl & Kennard 1970; Cleveland 1979) of what words add to a cosine on where documents lie. It
is the direction in the documents' space along which those that may answer match the query's words, so that among them,
and those like them, cosines of q' and documents come near to the sum of both parts. Far ones would only take up
numbers. λ is the noise that is allowed for, in variances of a document's vector: words say much of a document that its
vector does not hold.

Vectors of another size than the encoder's (`cde_retriever.context.words_within`) are fitted likewise: of what their
directions leave out, and their projection of words blurs, s - D u is the rest.

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
        dense: Unit vectors of the context documents, moved as documents are, (J, d).
        words: Exact weights of their words.
        noise: λ.
        near: K; 0 for all documents.
        stored: The documents as they are searched, (J, m), at lengths by which inner products with queries are cosines
            and scores of words; None for `dense`.
    """

    def __init__(self, dense: Vectors, words: Postings, noise: float, near: int, stored: Vectors | None = None) -> None:
        self._dense, self._stored, self._noise = dense, stored, noise
        self._near = min(near, len(dense)) or len(dense)
        self._words = words

    def fit(self, plain: Vectors, words: Sparse, asked: Vectors | None = None) -> Vectors:
        """Return q' of queries, (n, m); as they are where the documents near them do not differ.

        Args:
            plain: Their plain unit vectors, (n, d).
            words: Exact weights of their words, what these are worth beside a cosine included, (n, 2**32).
            asked: u where documents are stored in another form, (n, m).
        """
        start = plain if asked is None else asked
        if not len(plain) or not self._near:
            return plain if asked is None else unit(asked)
        scores = self._words.scores(words)
        # One by one: products of many at once are rounded otherwise, and other documents could be nearest.
        with one_blas_thread():
            return np.stack([self._fit(*query) for query in zip(plain, scores, start, strict=True)])

    def _fit(self, plain: Vectors, scores: Vectors, asked: Vectors) -> Vectors:
        """Return q' of a query, (m,), given what words score of each context document, (J,)."""
        cosines = self._dense @ plain
        near = np.argpartition(-(cosines + scores), self._near - 1)[: self._near]
        missing = scores[near]
        if self._stored is None:
            there = self._dense[near]
        else:
            there = self._stored[near]
            missing += cosines[near] - there @ asked
        there -= there.mean(axis=0)
        wide = self._near <= there.shape[1]
        products = there @ there.T if wide else there.T @ there  # the smaller of two ways to the same vector
        variance = float(np.trace(products)) / self._near
        if variance <= LEAST_VARIANCE:
            return asked if self._stored is None else cast(Vectors, unit(asked[None])[0])
        products.flat[:: len(products) + 1] += self._noise * variance
        sought = missing if wide else missing @ there
        # LAPACK itself: `scipy.linalg.solve` takes twice as long, most of it for checks.
        found: Vectors = lapack.sposv(products.T, sought, overwrite_a=True, overwrite_b=True)[1]
        return cast(Vectors, unit((asked + (found @ there if wide else found))[None])[0])
