"""Put words into one vector of more numbers than the encoder's, and meaning into fewer.

What lies in the context's main directions (`cde_retriever.context.directions`), or all of a text's meaning, then its
words as a random projection (`cde_retriever.words.projection`). Inner products of a document and a query are their
cosine and what words score. Documents have to be as long for cosines to rank likewise: their words are scaled down by a
factor by which those of queries are scaled up, so that documents are hardly longer than meaning alone, and are then
made unit vectors. So cosines of two documents stay nearly what they were, for whatever compares documents with each
other; those of a query and a document are lower, as its words make the query longer.

Earlier models have topics of the context before the projection (`cde_retriever.words.topics`), and in place of the
factor one number that gives every document the length M of the longest, √(M² - |x|²) (Bachrach et al. 2014).

Words in documents' vectors are known wherever documents lie; a fitted query (`cde_retriever.context.fitted_queries`)
knows them better, near the context's documents.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.agreement import Agreement
from cde_retriever.context.directions import Directions
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.words.projection import project
from cde_retriever.words.sparse import Sparse
from cde_retriever.words.topics import FoundTopics, Topics
from cde_retriever.words.weights import weigh_documents, weigh_queries

Vectors = NDArray[np.float32]

ROOM = 1.5
"""The longest document allowed, in lengths of the context's longest; a longer one's words are scaled down."""
TYPICAL_LENGTH = 4.0
"""The same length where there is no context."""
LEAST_INFORMATION = 1e-3
"""So little a word says at least where it is divided by."""


class WordsWithin:
    """What one vector with words needs of a context, each part found once it is asked for.

    Args:
        settings: The head's numbers.
        vectors: Plain unit vectors of the context documents, (J, d), in an order that says nothing of them, as topics
            are found of the first.
        counts: How often each word stands in each of them, (J, 2**32).
        says: What each of such words says, (k,), given their places, (k,).
        length: Words of a document.
        spread: The unit that words are weighed in.
        agreement: How many times as much words of queries count.
        found: Topics that were found before; of no use where they were found by other settings.
    """

    def __init__(
        self,
        settings: HeadSettings,
        vectors: Vectors,
        counts: Sparse,
        says: Callable[[NDArray[np.int64]], NDArray[np.float64]],
        length: float,
        spread: float,
        agreement: Agreement,
        found: FoundTopics | None,
    ) -> None:
        seen = np.arange(min(counts.rows, settings.attended or counts.rows))
        self._settings, self._vectors = settings, vectors
        self._counts = counts.take(seen) if len(seen) < counts.rows else counts
        self._says, self._length, self._spread = says, length, spread
        self._agreement, self._found = agreement, found

    def documents(self, moved: Vectors, counts: Sparse | None) -> Vectors:
        """Return documents, (n, m), at their lengths, of their dense parts and, where words have room, word counts."""
        words = self._embed_documents(counts, len(moved))
        turned = self.turn_documents(moved)
        if self._settings.word_scale:
            return self._joined(turned, words * np.float32(self._settings.word_scale))
        room = np.sqrt(max(self._longest**2 - 1, 0))
        words *= np.minimum(1, room / np.maximum(np.linalg.norm(words, axis=1, keepdims=True), 1e-9))
        joined = self._joined(turned, words)
        rest = np.sqrt(np.maximum(self._longest**2 - (joined**2).sum(axis=1, keepdims=True), 0))
        return np.concatenate([joined, rest], axis=1).astype(np.float32)

    def queries(self, plain: Vectors, counts: Sparse | None) -> Vectors:
        """Return queries, (n, m), whose inner products with documents are cosines and what words score."""
        words, turned = self._embed_queries(counts, len(plain)), self.turn_queries(plain)
        if self._settings.word_scale:
            return self._joined(turned, words / np.float32(self._settings.word_scale))
        joined = self._joined(turned, words)
        return np.concatenate([joined, np.zeros((len(joined), 1), np.float32)], axis=1)

    def widths(self, plain_width: int) -> tuple[int, int]:
        """Return how many numbers of the one vector are those of an encoder's, of `plain_width`, and of topics."""
        settings = self._settings
        if not settings.directions:
            return plain_width, settings.topics
        missing = self._missing_topics
        return min(settings.directions + missing, plain_width), settings.topics - missing

    def turn_documents(self, moved: Vectors) -> Vectors:
        """Return documents' dense parts, (n, d), as the one vector has them: as they are, or in main directions."""
        return moved if self._directions is None else self._directions.of_documents(moved)

    def turn_queries(self, plain: Vectors) -> Vectors:
        """Return the same of queries' plain vectors."""
        return plain if self._directions is None else self._directions.of_queries(plain)

    @property
    def found_topics(self) -> FoundTopics | None:
        """What takes long to find of the topics, to be kept; None where there are none."""
        settings = self._settings
        if not settings.topics:
            return None
        return self._topics.found._replace(settings=settings.topic_settings)

    def _joined(self, turned: Vectors, words: Vectors) -> Vectors:
        """Put words beside dense parts; further directions stand in the places of missing topics."""
        if self._directions is None:
            return np.concatenate([turned, words], axis=1)
        kept, topics = self.widths(turned.shape[1])[1], self._settings.topics
        joined = np.concatenate([turned, words[:, :kept], words[:, topics:]], axis=1)
        return np.pad(joined, ((0, 0), (0, self._settings.directions + words.shape[1] - joined.shape[1])))

    @cached_property
    def _directions(self) -> Directions | None:
        """The context's main directions; None where the encoder's vector stays as it is."""
        count = self._settings.directions
        return Directions(self._vectors, count + self._missing_topics, self._settings.levelling) if count else None

    @property
    def _missing_topics(self) -> int:
        """How many topics fewer than asked for the context's documents have."""
        return self._topics.missing if self._settings.topics else 0

    def _embed_documents(self, counts: Sparse | None, rows: int) -> Vectors:
        return np.zeros((rows, 0), np.float32) if counts is None else self._embed(self._telling(counts))

    def _embed_queries(self, counts: Sparse | None, rows: int) -> Vectors:
        if counts is None:
            return np.zeros((rows, 0), np.float32)
        says = self._says(counts.indices)
        weights = weigh_queries(counts, says**self._settings.rareness, sharing=self._settings.sharing)
        return self._embed(weights.scaled(weights.values * self._agreement.worth / _root(says)))

    def _embed(self, weights: Sparse) -> Vectors:
        """Return the numbers of words of texts, (n, words), given their weights."""
        settings = self._settings
        found = self._topics.embed(weights) if settings.topics else project(weights, settings.sketch)
        embedded: Vectors = found * self._factors
        return embedded

    @cached_property
    def _topics(self) -> Topics:
        settings, found = self._settings, self._found
        if found is not None and found.settings != settings.topic_settings:
            found = None
        return Topics(self._telling(self._counts), settings.topics, settings.sketch, found)

    def _telling(self, counts: Sparse) -> Sparse:
        """Return documents' weights with the documents' half of what words say, for which see `_root`."""
        weights = weigh_documents(counts, self._length)
        return weights.scaled(weights.values * _root(self._says(weights.indices)))

    @cached_property
    def _factors(self) -> Vectors:
        """Square roots of what a topic and a number of the sketch weigh, (topics + sketch,)."""
        settings = self._settings
        weights = [settings.topic_weight] * settings.topics + [settings.sketch_weight] * settings.sketch
        factors: Vectors = np.sqrt(np.array(weights) * self._spread).astype(np.float32)
        return factors

    @cached_property
    def _longest(self) -> float:
        """M: the length that documents are given."""
        if not self._settings.word_width:
            return 1.0
        if not self._counts.rows:
            return TYPICAL_LENGTH
        found = self._embed_documents(self._counts, self._counts.rows)
        return ROOM * float(np.sqrt(1 + (found**2).sum(axis=1).max()))


def _root(says: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the documents' half of what words say, by which a projection's noise is that of telling words."""
    root: NDArray[np.float64] = np.sqrt(np.maximum(says, LEAST_INFORMATION))
    return root
