"""Weigh words exactly: a query's words by what they say, a document's by how often it holds them.

    match(q, d) = Σ_w  i_w^p / (Σ_v i_v^p)^s  ·  tf_w / (tf_w + k (1 - b + b L / mean))

is BM25 (Robertson & Zaragoza 2009) over k + 1, divided by a power of what the query's words say together, where i_w is
what a word says (`cde_retriever.words.statistics`). It is an inner product of two sparse vectors, so it adds to a
cosine with one fixed number. With p = s = 1 it is how much of what the query says the document holds, 0 to 1, whatever
the query. With s = 1/2 words count for more in a query that says much than in one of two common words, where the cosine
tells more; p above 1 leans on the rarest words. Grams have a sum of their own; what a pair says beyond its words
(`cde_retriever.words.pairs`) is divided by the sum over words and pairs. Document vectors keep their lengths: brought
to unit length they rank 1 to 2 points worse.
"""

import numpy as np
from numpy.typing import NDArray

from cde_retriever.words.sparse import Sparse

SATURATION = 1.2
LENGTH_SHARE = 0.75


def weigh_documents(counts: Sparse, mean_length: float) -> Sparse:
    """Return document vectors of word counts, (n, 2**32).

    Args:
        counts: How often each word stands in each document.
        mean_length: Words of a document of this corpus.
    """
    lengths = counts.sums() / mean_length
    room = SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * lengths)
    return counts.scaled(counts.values / (counts.values + room[counts.row_numbers]))


def weigh_queries(
    counts: Sparse,
    powers: NDArray[np.float64],
    *,
    sharing: float = 1.0,
    sums: NDArray[np.float64] | None = None,
) -> Sparse:
    """Return query vectors of word counts, (n, 2**32); a word said twice counts once.

    Args:
        counts: How often each word stands in each query.
        powers: What each of their words says (`WordStatistics.information`) to the power p, (k,).
        sharing: s, the power of their sum that each is divided by; with 1 the values of a query add up to 1.
        sums: Sums to be divided by a power of, (n,), where they are those of other words (`sum_up`).
    """
    if sums is None:
        sums = sum_up(counts, powers)
    parts = np.maximum(sums, np.finfo(np.float64).tiny) ** sharing
    return counts.scaled(powers / parts[counts.row_numbers])


def sum_up(counts: Sparse, powers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum over each query's words of what they say to the power p, (n,)."""
    return np.bincount(counts.row_numbers, powers, counts.rows).astype(np.float64)
