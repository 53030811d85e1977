"""Rank by BM25 and a dense encoder together, as users of hybrid search do today.

| mode | score of a document |
| --- | --- |
| ``rrf`` | Σ 1 / (60 + rank) over both lists of 100 (reciprocal-rank fusion, Cormack et al. 2009) |
| ``convex_30``, ``_40``, ``_50`` | w BM25 + (1 - w) dense, w = 0.3, 0.4, 0.5 (`cde_retriever.search.mixture`) |

A document that is in one list only gets nothing from the other.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cde_retriever.search.best_first import finite_first
from cde_retriever.search.mixture import found, mixed, scores_at
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
        scores = by_ranks(by_words, by_vectors) if mode == "rrf" else mixed(by_words, by_vectors, WEIGHTS[mode])
        ranking.append(finite_first(scores, DEPTH))
    return ranking


def by_ranks(by_words: Scores, by_vectors: Scores) -> Scores:
    """Return the sum of 1 / (60 + rank) over both lists, ranks from 1, of each document; otherwise as `mixed`."""
    total, lists = np.zeros(len(by_words), np.float32), found(by_words, by_vectors)
    for best in lists:
        total[best] += 1 / (RANK_OFFSET + 1 + np.arange(len(best)))
    return scores_at(np.concatenate(lists), total)
