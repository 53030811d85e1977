"""Count pairs, two words that stand beside each other in a text, and tell what a pair says beyond its words.

Stop words between the two are passed over, and either may come first. Of the context's J documents some hold the rarer
word of a pair, and some of these the pair; what the pair says beyond that word is

    log(documents with the rarer word / documents with the pair)

which is how surprised one is, having read the rarer word, to find the other beside it. A pair that stands wherever its
rarer word does says nothing, and one that no context document holds is not a term of this corpus: neither counts.
Neighbouring words as a feature of their own: Metzler & Croft 2005 (sequential dependence).

Until it is weighed a pair has the numbers of both stems, 64 bits as a signed number, so that a context can look them
up.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cde_retriever.words.mixing import mix
from cde_retriever.words.sparse import Sparse
from cde_retriever.words.statistics import WordStatistics, look_up

Numbers = NDArray[np.int64]

_HALF = np.uint64(32)
_LOWER = np.uint64(2**32 - 1)


def count_pairs(texts: Iterable[Sequence[Sequence[int]]]) -> Sparse:
    """Return how often each pair stands in each text, given the stems of its runs of words in order, as numbers."""
    starts, numbers, counts = [0], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for runs in texts:
        found, times = np.unique(np.concatenate([numbers[0], *map(pairs_of, runs)]), return_counts=True)
        starts.append(starts[-1] + len(found))
        numbers.append(found)
        counts.append(times)
    return Sparse(np.array(starts, np.int64), np.concatenate(numbers), np.concatenate(counts).astype(np.float32))


def pairs_of(stems: Sequence[int]) -> Numbers:
    """Return the pairs of neighbours; a word beside itself is none."""
    there = np.array(stems, np.uint64)
    first, second = there[:-1], there[1:]
    pairs = np.minimum(first, second) << _HALF | np.maximum(first, second)
    kept: Numbers = pairs[first != second].view(np.int64)
    return kept


def telling(counts: Sparse, words: WordStatistics) -> WordStatistics:
    """Return in how many documents each pair stands, of pairs that say something beyond their words.

    Args:
        counts: Pairs of context documents.
        words: In how many of these each stem stands.
    """
    pairs = WordStatistics.of(counts)
    kept = _rarer(pairs, words) > pairs.documents_with
    return WordStatistics(pairs.words[kept], pairs.documents_with[kept], pairs.documents)


def _rarer(pairs: WordStatistics, words: WordStatistics) -> NDArray[np.float64]:
    """Return how many documents hold the rarer word of each pair."""
    both = pairs.words.view(np.uint64)
    stems = ((both >> _HALF).astype(np.int64), (both & _LOWER).astype(np.int64))
    found = [look_up(words.words, words.documents_with, stem, 0) for stem in stems]
    rarer: NDArray[np.float64] = np.minimum(*found)
    return rarer


class KnownPairs:
    """The pairs that a context knows.

    Args:
        pairs: In how many context documents each stands (`telling`).
        words: In how many each stem stands.
    """

    def __init__(self, pairs: WordStatistics, words: WordStatistics) -> None:
        self._pairs = pairs.words
        self._says = np.log(np.maximum(_rarer(pairs, words) / np.maximum(pairs.documents_with, 1), 1))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._pairs)

    def keep(self, counts: Sparse) -> tuple[Sparse, NDArray[np.float64]]:
        """Return the known ones among pairs of texts, numbered as words are, (n, 2**32), and what each says, (k,)."""
        says = look_up(self._pairs, self._says, counts.indices, 0.0)
        known = says > 0
        kept = counts.where(known)
        return kept._replace(indices=fold(kept.indices)), says[known]


def fold(pairs: Numbers) -> Numbers:
    """Return the numbers that pairs are weighed under, 0 to 2³² - 1 as words': half of the mixed bits of both stems."""
    return (mix(pairs.view(np.uint64)) >> _HALF).astype(np.int64)
