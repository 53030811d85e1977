"""Tell how far an encoder can read a corpus: do vectors and words call the same context documents near?

    agreement = 1 - Σ_i w_i log r_i / (Σ_i w_i · mean of log 1 ... log (J - 1))

Document i has one other whose words are most like its own, at a cosine w_i of how often words stand there and what they
say; r_i is the place that cosines of vectors give that one among all others, the best place where several are as like.
It is 1 where both name the same one, and 0 where vectors know nothing of words; documents that share no words do not
count.

Words are worth so many spreads of cosines (`cde_retriever.context.knowledge`). Where cosines are noise, as those of an
English encoder are of Arabic, that is far too little, so words of queries count for more there. Documents are as they
are either way.

Measured (docs/log.md, 2026-11-28): 0.53 to 0.9 on 77 of 78 English corpora and 0.27 on one, of films that share names;
0.1 to 0.45 on paragraphs in Arabic, Greek, Hindi, Russian, Thai and Chinese, which an English encoder reads badly.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cde_retriever.words.sparse import Sparse
from cde_retriever.words.weights import weigh_documents

Vectors = NDArray[np.float32]

COMPARED = 512
"""Context documents that are compared with each other, at most."""
READ_FROM = 0.5
"""From this agreement on words count as usual."""
STEEPNESS = 3
"""Power by which they count for more below."""
MOST = 10.0
"""So many times as much at most: vectors hardly matter then."""
TYPICAL, TYPICAL_AS_MANY_AS = 0.75, 32
"""What corpora have that are read, and how many documents it counts as: few ones are near each other by chance."""


LEVEL = 1e-6
"""Cosines of words that differ by less are the same."""


class Agreement:
    """What vectors and words of a context's documents agree on, found once it is asked for.

    Args:
        vectors: Plain unit vectors of the context documents, (J, d), in an order that says nothing of them.
        counts: How often each word stands in each of them, (J, 2**32).
        says: Returns what words say, (k,), given their places, (k,).
        length: Words of a document.
    """

    def __init__(
        self, vectors: Vectors, counts: Sparse, says: Callable[[NDArray[np.int64]], NDArray[np.float64]], length: float
    ) -> None:
        self._vectors, self._counts, self._says, self._length = vectors, counts, says, length

    @cached_property
    def worth(self) -> float:
        """How many times as much as usual words of a query count, 1 to `MOST`."""
        doubt = READ_FROM / max(self.value, READ_FROM / MOST)
        return min(max(doubt, 1.0) ** STEEPNESS, MOST)

    @cached_property
    def value(self) -> float:
        """The agreement, drawn towards a typical one where documents are few."""
        count = min(len(self._vectors), COMPARED)
        rows = np.arange(count)
        words = weigh_documents(self._counts.take(rows), self._length)
        words = _unit(words.scaled(words.values * self._says(words.indices)))
        found = _agreement(self._vectors[:count], words) if count > 2 else TYPICAL
        return (count * found + TYPICAL_AS_MANY_AS * TYPICAL) / (count + TYPICAL_AS_MANY_AS)


def _agreement(vectors: Vectors, words: Sparse) -> float:
    """Return the agreement of documents, given unit vectors of both kinds, (J, d) and (J, 2**32)."""
    cosines, likeness = vectors @ vectors.T, words.dot(words)
    for between in (cosines, likeness):
        np.fill_diagonal(between, -np.inf)
    best = likeness.max(axis=1)
    weights = np.maximum(best, 0)
    if not weights.any():
        return TYPICAL
    as_like = likeness >= best[:, None] - LEVEL
    named = np.where(as_like, cosines, -np.inf).max(axis=1)[:, None]
    above, level = (cases.sum(axis=1) for cases in ((cosines > named) & ~as_like, (cosines == named) & ~as_like))
    by_chance = np.log(np.arange(1, len(vectors))).mean()
    return 1 - float(weights @ np.log(1 + above + level / 2)) / (float(weights.sum()) * float(by_chance))


def _unit(words: Sparse) -> Sparse:
    """Return words' vectors at unit length; zero stays zero."""
    rows = words.row_numbers
    lengths = np.sqrt(np.bincount(rows, words.values.astype(np.float64) ** 2, words.rows))
    return words.scaled(words.values / np.maximum(lengths, np.finfo(np.float32).tiny)[rows])
