"""Mix scores of words and of vectors as hybrid search does elsewhere: each list scaled to 0 … 1, query by query.

So do Weaviate's ``relativeScoreFusion`` and LlamaIndex's fusion retriever.
"""

import numpy as np
from numpy.typing import NDArray

from cde_retriever.search.best_first import best_first

DEPTH = 100
WORD_SHARE = 0.4
"""BM25's share of a usual hybrid search: of 0.3, 0.4 and 0.5 the best on the ten and on the 52 sets (docs/figures)."""

Scores = NDArray[np.float32]
Places = NDArray[np.int64]


def mixed(by_words: Scores, by_vectors: Scores, weight: float) -> Scores:
    """Return weight · words + (1 - weight) · vectors of each document, (n,); minus infinity for what neither found.

    The 100 best of each count, of words those above 0 alone; what one list lacks gets nothing from it.

    Args:
        by_words: BM25's scores of all documents for one query, (n,).
        by_vectors: Inner products with all documents, (n,).
        weight: Share of words, from 0 to 1.
    """
    total, lists = np.zeros(len(by_words), np.float32), found(by_words, by_vectors)
    for share, scores, best in zip((weight, 1 - weight), (by_words, by_vectors), lists, strict=True):
        if len(best):
            low, high = scores[best].min(), scores[best].max()
            total[best] += share * ((scores[best] - low) / (high - low) if high > low else np.ones(len(best)))
    return scores_at(np.concatenate(lists), total)


def found(by_words: Scores, by_vectors: Scores) -> tuple[Places, Places]:
    """Return the places of the 100 best documents of each list, best first; of words those above 0 alone."""
    words, vectors = best_first(by_words, DEPTH), best_first(by_vectors, DEPTH)
    return words[by_words[words] > 0], vectors


def scores_at(places: Places, scores: Scores) -> Scores:
    """Return scores, (n,), at some places, and minus infinity at all others."""
    output = np.full_like(scores, -np.inf)
    output[places] = scores[places]
    return output
