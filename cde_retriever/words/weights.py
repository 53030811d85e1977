"""Weigh words exactly: a query's words by what they say, a document's by how often it holds them.

    share(q, d) = Σ_w  i_w / Σ_v i_v  ·  tf_w / (tf_w + k (1 - b + b L / mean))

is how much of what the query says the document holds, 0 to 1: BM25 (Robertson & Zaragoza 2009) over k + 1, divided by
what the query's words say together, i (`cde_retriever.words.statistics`). So it is an inner product of two sparse
vectors and has one scale for all queries, and adds to a cosine with one fixed number. Document vectors keep their
lengths: brought to unit length they rank 1 to 2 points worse.
"""

import numpy as np

from cde_retriever.words.sparse import Sparse
from cde_retriever.words.statistics import WordPrior, WordStatistics

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


def weigh_queries(counts: Sparse, statistics: WordStatistics, prior: WordPrior, worth: float) -> Sparse:
    """Return query vectors of word counts, (n, 2**32), values of each adding up to 1; a word said twice counts once.

    Args:
        counts: How often each word stands in each query.
        statistics: Of the corpus.
        prior: For words the corpus was not seen to hold.
        worth: How many documents the prior counts as.
    """
    says = statistics.information(counts.indices, prior, worth)
    sums = np.bincount(counts.row_numbers, says, counts.rows)
    return counts.scaled(says / np.maximum(sums, np.finfo(np.float64).tiny)[counts.row_numbers])
