"""Turn vectors to the directions in which a context's documents vary most, to keep few of their numbers.

With A the (J, d) unit vectors of the context documents, the r directions are the first eigenvectors of Aᵀ A / J
(principal components, uncentred): of all maps to r numbers the one that keeps most of the documents' inner products.
What was cut off told documents apart as well, and the directions of least variance stand in for it: in the inner
product of a query and a document, one of variance v counts (v₁ / v)^p, v₁ the largest. All of that factor is the
query's, so documents are no longer than they were. p was learned from a teacher that knows whole corpora
(``docs/figures/distillation-directions.md``).

What the documents do not span has no order of its own, so there the encoder's first numbers come first; without any
document the directions are the encoder's first r numbers. Eigenvectors have no sign, so the basis is turned to the one
that Gram-Schmidt gives of the encoder's axes, seen in those directions: it is the same on every machine.
"""

import numpy as np
from numpy.typing import NDArray

from cde_retriever.words.topics import canonical

Vectors = NDArray[np.float32]
LEAST_VARIANCE = 0.01
"""So much of the mean variance each of the encoder's axes has beside what documents show; learned with p."""
FIRST_TO_LAST = (1.01, 0.99)
"""How that differs from the first axis to the last, which gives what no document shows an order."""


class Directions:
    """The main directions of a context's documents, found once.

    Args:
        vectors: Unit vectors of the context documents, (J, d); none for the null context.
        most: How many directions to keep; d where there are fewer.
        levelling: p, 0 to leave inner products as they are.
    """

    def __init__(self, vectors: Vectors, most: int, levelling: float) -> None:
        variances, places = main_directions(vectors, most)
        turn = canonical(places)
        self._documents = (places @ turn).astype(np.float32)
        self._queries = (places * (variances[0] / variances) ** levelling @ turn).astype(np.float32)

    def of_documents(self, vectors: Vectors) -> Vectors:
        """Return what lies in the directions, (n, r), of documents' vectors, (n, d)."""
        turned: Vectors = vectors @ self._documents
        return turned

    def of_queries(self, vectors: Vectors) -> Vectors:
        """Return the same of queries' vectors, each direction at its weight."""
        turned: Vectors = vectors @ self._queries
        return turned


def main_directions(vectors: Vectors, most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return variances, (r,) descending, and unit directions, (d, r), given as for `Directions`."""
    width = vectors.shape[1]
    exact = vectors.astype(np.float64)
    shown = exact.T @ exact / max(len(vectors), 1)
    shown[np.diag_indices(width)] += np.linspace(*FIRST_TO_LAST, width) * LEAST_VARIANCE / width
    variances, places = np.linalg.eigh(shown)
    return variances[::-1][:most], places[:, ::-1][:, :most]
