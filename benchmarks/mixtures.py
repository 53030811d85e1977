"""Rank by BM25 and a dense encoder together, as users of hybrid search do today.

| mode | score of a document |
| --- | --- |
| ``rrf`` | Σ 1 / (60 + rank) over both lists of 100 (reciprocal-rank fusion, Cormack et al. 2009) |
| ``convex_30``, ``_40``, ``_50`` | w BM25 + (1 - w) dense, w = 0.3, 0.4, 0.5, the 100 best of each scaled to 0 … 1 |

A document that is in one list only gets nothing from the other. Scores are scaled query by query, as Weaviate's
``relativeScoreFusion`` and LlamaIndex's fusion retriever do.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cde_retriever.search.best_first import best_first
from cde_train.evaluation.ranking import DEPTH, Ranking

WEIGHTS = {"convex_30": 0.3, "convex_40": 0.4, "convex_50": 0.5}
MIXTURES = ("rrf", *WEIGHTS)
MIXTURE_LABELS = {
    "rrf": "BM25 + plain, by ranks",
    "convex_30": "0.3 BM25 + 0.7 plain",
    "convex_40": "0.4 BM25 + 0.6 plain",
    "convex_50": "0.5 BM25 + 0.5 plain",
}
RANK_OFFSET = 60

Scores = NDArray[np.float32]


def rank_mixture(mode: str, words: Iterable[Scores], queries: Scores, documents: Scores) -> Ranking:
    """Rank by one of `MIXTURES`.

    Args:
        mode: Which.
        words: BM25's scores of all documents, (n,), a query.
        queries: Dense vectors, (q, d).
        documents: Dense vectors, (n, d).
    """
    ranking: Ranking = []
    for by_words, query in zip(words, queries, strict=True):
        by_vectors = documents @ query
        lists = [retrieved(by_words, positive=True), retrieved(by_vectors, positive=False)]
        weights = (1.0, 1.0) if mode == "rrf" else (WEIGHTS[mode], 1 - WEIGHTS[mode])
        mixed = np.zeros(len(documents))
        for weight, scores, found in zip(weights, (by_words, by_vectors), lists, strict=True):
            mixed[found] += weight * (by_rank(found) if mode == "rrf" else scaled(scores[found]))
        union = np.unique(np.concatenate(lists))
        ranking.append(union[best_first(mixed[union], DEPTH)])
    return ranking


def retrieved(scores: Scores, *, positive: bool) -> NDArray[np.int64]:
    """Return the positions of the best documents, best first; with `positive` those above 0 alone."""
    found = best_first(scores, DEPTH)
    return found[scores[found] > 0] if positive else found


def by_rank(found: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return 1 / (60 + rank), ranks from 1."""
    return 1 / (RANK_OFFSET + 1 + np.arange(len(found)))


def scaled(scores: Scores) -> NDArray[np.floating]:
    """Return scores moved and scaled to 0 … 1; all 1 where they are equal."""
    if not len(scores):
        return np.zeros(0)
    low, high = float(scores.min()), float(scores.max())
    return np.asarray((scores - low) / (high - low) if high > low else np.ones(len(scores)))
