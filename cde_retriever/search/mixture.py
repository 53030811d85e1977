"""Mix scores of words and of vectors as hybrid search does elsewhere: each list scaled to 0 … 1, query by query."""

import numpy as np
from numpy.typing import NDArray

from cde_retriever.search.best_first import best_first

DEPTH = 100

Scores = NDArray[np.float32]


def mixed(by_words: Scores, by_vectors: Scores, weight: float) -> Scores:
    """Return weight · words + (1 - weight) · vectors of each document, (n,); minus infinity for what neither found.

    The 100 best of each count, of words those above 0 alone; what one list lacks gets nothing from it.

    Args:
        by_words: BM25's scores of all documents for one query, (n,).
        by_vectors: Inner products with all documents, (n,).
        weight: Share of words, from 0 to 1.
    """
    total = np.full(len(by_words), -np.inf, np.float32)
    for share, scores in ((weight, np.where(by_words > 0, by_words, -np.inf)), (1 - weight, by_vectors)):
        best = best_first(scores, DEPTH)
        best = best[np.isfinite(scores[best])]
        if len(best):
            low, high = scores[best].min(), scores[best].max()
            scaled = (scores[best] - low) / (high - low) if high > low else np.ones(len(best))
            total[best] = np.where(np.isfinite(total[best]), total[best], 0) + share * scaled
    return total
