"""Apply a context to plain vectors and word counts: neighbours, exact words. Needs NumPy alone, no PyTorch.

A backend gives a text's plain unit vector z, under no context at all. What the context knows is applied here, so it is
the same on every backend, in three forms:

- two parts: a document's vector moved towards its neighbours in the context (`cde_retriever.context.neighbours`), and
  the exact weights of its words, of their grams and of the pairs that the context knows (`cde_retriever.words`). The
  score is dense · dense + sparse · sparse, where a query's sparse part carries the factors `word_weight`, `gram_weight`
  and `pair_weight` spreads.
- one vector, for stores that hold nothing else: the same moved vector and a projection of its words
  (`cde_retriever.context.words_within`), and for queries one that is fitted to the exact words of the context's
  documents near it (`cde_retriever.context.fitted_queries`);
- one vector of another size: of the encoder's, without words, or of fewer numbers. Where an amount of 0 leaves
  documents where they are as well, the context is for queries alone, and stored plain vectors can be asked.

Everything is a function of the frozen context, so vectors of stored documents never change when others come.
"""

from collections.abc import Hashable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.agreement import Agreement
from cde_retriever.context.fitted_queries import FittedQueries
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.neighbours import ROWS_AT_ONCE, Neighbours
from cde_retriever.context.words_within import WordsWithin
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.pairs import KnownPairs
from cde_retriever.words.postings import Postings
from cde_retriever.words.reading import TextCounts
from cde_retriever.words.remembered import Remembered
from cde_retriever.words.sparse import Sparse, added
from cde_retriever.words.statistics import GRAM_PRIOR, WordStatistics, load_prior
from cde_retriever.words.topics import FoundTopics
from cde_retriever.words.weights import sum_up, weigh_documents, weigh_queries

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Vectors = NDArray[np.float32]


class Parts(NamedTuple):
    """Texts in two parts; a score is the sum of the inner products of both.

    Attributes:
        dense: Unit vectors, (n, d) float32.
        sparse: Exact weights of words, grams and pairs, (n, 2**32) float32, numbers of a row ascending.
    """

    dense: Vectors
    sparse: "csr_array[Any]"


class Knowledge:
    """What a context does to texts, prepared once.

    Args:
        settings: The head's numbers.
        vectors: Plain unit vectors of the context documents, (J, d).
        words: What the context keeps of their words.
        found: Topics that were found of them before; of no use where they were found by other settings.

    Attributes:
        agreement: How far vectors and words agree on which of them are near, by which words of queries count.
        within: One vector of another size than the encoder's, where the settings want it.
        stems: How often each word stands in each context document, (J, 2**32).
    """

    def __init__(
        self, settings: HeadSettings, vectors: Vectors, words: CorpusWords, found: FoundTopics | None = None
    ) -> None:
        self.settings, self._vectors = settings, vectors
        self.stems, self._counted_pairs, self._whole = words.counts, words.pairs, words.whole
        self._words, self._grams = WordStatistics.of(words.counts), words.grams
        self._prior = load_prior(settings.prior)
        self._neighbours = Neighbours(vectors, settings)
        worth = settings.prior_documents
        self._lengths = self._words.length(self._prior, worth), self._grams.length(GRAM_PRIOR, worth)
        says = partial(self._words.information, prior=self._prior, worth=worth)
        self._information, length = Remembered(says), self._lengths[0]
        self.agreement = Agreement(vectors, words.counts, says, length)
        self.within = WordsWithin(
            settings, vectors, words.counts, self._information, length, self.spread, self.agreement, found
        )

    @property
    def spread(self) -> float:
        """Standard deviation of the cosines of distinct context documents: the unit that words are weighed in."""
        return self._neighbours.spread

    # Two parts

    def move(self, plain: Vectors, own: NDArray[np.int64], chunks_of: Sequence[Hashable] | None = None) -> Vectors:
        """Return the dense part of documents, (n, d), given their plain vectors; see `Neighbours.move`."""
        return self._neighbours.move(plain, own, chunks_of)

    def attention(self, plain: Vectors, own: NDArray[np.int64]) -> Vectors:
        """Return how much documents, given as for `move`, look at context documents, (n, J) or as many as they do."""
        return self._neighbours.weights(plain, own)

    @cached_property
    def moved(self) -> Vectors:
        """The dense part of the context documents, (J, d)."""
        count = len(self._vectors)
        blocks = np.split(np.arange(count), range(ROWS_AT_ONCE, count, ROWS_AT_ONCE))
        return np.concatenate([self.move(self._vectors[rows], rows) for rows in blocks])

    def document_words(self, counts: TextCounts) -> Sparse:
        """Return the sparse part of documents, (n, 2**32)."""
        return added(*self._document_words(counts))

    def _document_words(self, counts: TextCounts) -> tuple[Sparse, Sparse, Sparse]:
        """Return weights of documents' words, grams and pairs, (n, 2**32) each."""
        lengths = (*self._lengths, self._lengths[0])  # a text has a pair for each word but the first
        words, grams, pairs = (weigh_documents(part, mean) for part, mean in zip(counts, lengths, strict=True))
        return words, grams, self._pairs.keep(pairs)[0]

    def query_words(self, counts: TextCounts) -> Sparse:
        """Return the sparse part of queries, (n, 2**32), what words are worth beside a cosine included."""
        settings, p = self.settings, self.settings.rareness
        words = self._says(counts.words) ** p
        grams = self._grams.information(counts.grams.indices, GRAM_PRIOR, settings.prior_documents) ** p
        pairs, says = self._pairs.keep(counts.pairs)
        beyond = says**p
        of_words, of_pairs = sum_up(counts.words, words), sum_up(pairs, beyond)
        parts = (
            (self._weigh(counts.words, words, of_words), settings.word_weight),
            (self._weigh(counts.grams, grams), settings.gram_weight),
            (self._weigh(pairs, beyond, of_words + of_pairs), settings.pair_weight),
        )
        unit = self.spread * self.agreement.worth
        return added(*(part.scaled(part.values * (weight * unit)) for part, weight in parts))

    @cached_property
    def _pairs(self) -> KnownPairs:
        return KnownPairs(self._counted_pairs, self._words)  # once words are weighed: documents in one vector need none

    @property
    def knows_pairs(self) -> bool:
        """Whether the context knows any pairs of words."""
        return len(self._pairs) > 0

    def _weigh(self, counts: Sparse, powers: NDArray[np.float64], sums: NDArray[np.float64] | None = None) -> Sparse:
        return weigh_queries(counts, powers, sharing=self.settings.sharing, sums=sums)

    def _says(self, words: Sparse) -> NDArray[np.float64]:
        return self._information(words.indices)

    # One vector

    def fitted(self, stored: Vectors | None) -> FittedQueries:
        """Return what queries are fitted by.

        Args:
            stored: The context documents as they are searched, see `FittedQueries`; None where that is their dense
                parts.
        """
        parts = [Sparse.of_rows([])] if self._whole is None else self._document_words(self._whole)
        settings = self.settings
        return FittedQueries(self.moved, Postings(*parts), settings.query_noise, settings.query_neighbours, stored)
