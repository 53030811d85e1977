"""Join plain vectors of a backend with what a context knows: as one vector, or as a dense and a sparse part."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.agreement import Agreement
from cde_retriever.context.context import Context
from cde_retriever.context.fitted_queries import FittedQueries
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Knowledge, Parts
from cde_retriever.context.neighbours import unit
from cde_retriever.context.sampling import hash_text
from cde_retriever.errors import ConfigError
from cde_retriever.files.forking import ThreadLock
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import TextCounts, reader
from cde_retriever.words.sparse import Sparse
from cde_retriever.words.topics import FoundTopics

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Vectors = NDArray[np.float32]

PARTS = ("one", "dense", "sparse", "both")


class CorpusHead:
    """A corpus head under one context. Safe to use from several threads.

    Args:
        settings: The head's numbers.
        context: The context, with words.
        plain_width: Numbers of a plain vector.
        dimension: Numbers of the one vector; fewer than the full number are `HeadSettings.cut`.

    Attributes:
        is_dense: Whether a document's one vector is its dense part.
    """

    def __init__(self, settings: HeadSettings, context: Context, plain_width: int, dimension: int) -> None:
        words = context.words or CorpusWords.none(settings.language)
        order = np.argsort(np.array(context.text_hashes, dtype=str), kind="stable")
        cut = settings.cut(plain_width, dimension)
        self._knowledge = Knowledge(cut, context.vectors[order], words.take(order), context.topics)
        self._order = order
        self._numbers = {context.text_hashes[place]: number for number, place in enumerate(order)}
        self._reader = reader(words.language)
        self._plain_width, self._dimension = plain_width, dimension
        self._fitted: FittedQueries | None = None
        self._preparing = ThreadLock()
        # Whether the one vector is the dense part, is more than numbers of that, and holds words.
        self.is_dense = dimension == plain_width and not settings.directions
        self._joined = dimension > settings.kept_width(plain_width)
        self._has_words = cut.word_width > 0

    @property
    def context_documents(self) -> Vectors:
        """Dense parts of the context documents under it, (J, d), in the context's order."""
        return self._knowledge.moved[np.argsort(self._order)]

    @property
    def spread(self) -> float:
        """Standard deviation of the cosines of distinct context documents."""
        return self._knowledge.spread

    @property
    def agreement(self) -> Agreement:
        """How far vectors and words agree on which context documents are near, and what words count for by it."""
        return self._knowledge.agreement

    @property
    def places(self) -> dict[str, slice]:
        """Which numbers of the one vector carry meaning, topics of words, and the other words."""
        meaning, topics = self._knowledge.within.widths(self._plain_width)
        return {
            "meaning": slice(meaning),
            "topics": slice(meaning, meaning + topics),
            "other words": slice(meaning + topics, None),
        }

    @property
    def found_topics(self) -> FoundTopics | None:
        """What a context keeps of its topics (`Context.topics`)."""
        return self._knowledge.within.found_topics

    def documents(
        self, plain: Vectors, texts: Sequence[str], parts: str, chunks_of: Sequence[Hashable] | None = None
    ) -> "Vectors | csr_array[Any] | Parts":
        """Return documents in one of the forms of `PARTS`, given their plain unit vectors, (n, d)."""
        if parts == "sparse":
            return self._document_words(texts)
        moved = self._knowledge.move(plain, self._own(texts), chunks_of)
        if parts == "one":
            if self.is_dense:
                return moved
            return unit(self._stored(moved, self._reader.read_stems(texts, "document") if self._has_words else None))
        return Parts(moved, self._document_words(texts)) if parts == "both" else moved

    def _document_words(self, texts: Sequence[str]) -> "csr_array[Any]":
        known = self._knowledge
        return known.document_words(self._reader.read(texts, "document", pairs=known.knows_pairs)).csr()

    def neighbours(self, plain: Vectors, texts: Sequence[str], count: int) -> list[list[tuple[str, float]]]:
        """Return what documents are moved towards most: sha256 and share of so many context documents each."""
        if len(self._numbers) < 2 or not self._knowledge.settings.amount:
            return [[] for _ in texts]
        hashes = list(self._numbers)
        weights = self._knowledge.attention(plain, self._own(texts))
        best = np.argsort(-weights, axis=1, kind="stable")[:, :count]
        return [[(hashes[j], float(row[j])) for j in places] for row, places in zip(weights, best, strict=True)]

    def _own(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return which context document each text is, -1 for none."""
        return np.array([self._numbers.get(hash_text(text), -1) for text in texts], np.int64)

    def queries(self, plain: Vectors, texts: Sequence[str], parts: str) -> "Vectors | csr_array[Any] | Parts":
        """Return queries in one of the forms of `PARTS`, given their plain unit vectors, (n, d)."""
        if parts == "dense":
            return plain
        known = self._knowledge
        if parts == "one":
            return self._one_vectors(plain, texts)
        sparse = known.query_words(self._query_counts(texts)).csr()
        return Parts(plain, sparse) if parts == "both" else sparse

    def _query_counts(self, texts: Sequence[str]) -> TextCounts:
        known = self._knowledge
        skip = known.settings.skip_question_words
        return self._reader.read(texts, "query", skip_question_words=skip, pairs=known.knows_pairs)

    def _one_vectors(self, plain: Vectors, texts: Sequence[str]) -> Vectors:
        """Return queries as one vector each, (n, m)."""
        known = self._knowledge
        if known.settings.query_noise:
            fitted, counts = self._prepared(), self._query_counts(texts)
            asked = None if self.is_dense else self._asked(plain, counts.words if self._has_words else None)
            return fitted.fit(plain, known.query_words(counts), asked)
        if self.is_dense:
            return plain
        skip = known.settings.skip_question_words
        stems = self._reader.read_stems(texts, "query", skip_question_words=skip) if self._has_words else None
        return unit(self._asked(plain, stems))

    def _prepared(self) -> FittedQueries:
        """Return what fits queries, prepared when the first comes: of 8,192 documents that takes a second and 80 MB."""
        known = self._knowledge
        with self._preparing:  # once, however many threads come first
            if self._fitted is None:
                stored = None
                if not self.is_dense:
                    stored = self._stored(known.moved, known.stems if self._has_words else None)
                    stored = unit(stored) * (np.linalg.norm(stored, axis=1).mean() if len(stored) else 1.0)
                self._fitted = known.fitted(stored)
        return self._fitted

    def _stored(self, moved: Vectors, stems: Sparse | None) -> Vectors:
        """Return documents as one vector each, (n, m), at their lengths, given their dense parts and word counts."""
        within = self._knowledge.within
        return within.documents(moved, stems) if self._joined else self._cut(within.turn_documents(moved))

    def _asked(self, plain: Vectors, stems: Sparse | None) -> Vectors:
        """Return queries, (n, m), before they are fitted: inner products with those are cosines and words' scores."""
        within = self._knowledge.within
        return within.queries(plain, stems) if self._joined else self._cut(within.turn_queries(plain))

    def _cut(self, turned: Vectors) -> Vectors:
        """Return vectors without words; unit ones where numbers are cut off, whose cosines come nearest to all's."""
        return turned if turned.shape[1] == self._dimension else unit(turned[:, : self._dimension])


def check_chunks(chunks_of: Sequence[Hashable], texts: int, head: HeadSettings | None, name: str) -> list[Hashable]:
    """Return what each text is a chunk of, as a list.

    Raises:
        TypeError: if it is one string, or names something that cannot be compared by hash; says which.
        ConfigError: if it names more or fewer than there are texts, or the model has no corpus head, or one that
            leaves documents alone.
    """
    if head is None:
        raise ConfigError(
            f"chunks_of is given, but model {name!r} has no corpus head, which knows neighbours; leave it out"
        )
    if not head.moves_documents:
        raise ConfigError(
            f"chunks_of is given, but the context of model {name!r} is for queries alone, and documents keep the "
            "encoder's own vectors; leave it out"
        )
    if isinstance(chunks_of, str | bytes):
        raise TypeError(f"chunks_of must name a document for each text, received one text: {chunks_of!r:.80}")
    documents = list(chunks_of)
    if len(documents) != texts:
        raise ConfigError(f"chunks_of names {len(documents)} documents for {texts} texts; give one for each")
    for number, key in enumerate(documents):
        try:
            hash(key)
        except TypeError as error:
            raise TypeError(f"chunks_of[{number}] is {key!r:.80} ({error}), expected a name such as an id") from error
    return documents


def check_parts(parts: str, has_head: bool, name: str, truncate_dim: int | None = None) -> None:
    """Refuse an unknown form, a sparse part of a model that has none, and a dense part that would have to be cut.

    Raises:
        ConfigError: naming what there is.
    """
    if parts not in PARTS:
        raise ConfigError(f"parts is {parts!r}, expected one of {', '.join(map(repr, PARTS))}")
    if parts in ("sparse", "both") and not has_head:
        raise ConfigError(
            f"parts is {parts!r}, but model {name!r} has no corpus head, which makes the sparse part; load one that "
            "has, or use parts='one'"
        )
    if parts in ("dense", "both") and has_head and truncate_dim is not None:
        raise ConfigError(
            f"truncate_dim is {truncate_dim}, and cuts texts in one vector alone; leave it out for two parts, or take "
            "one vector"
        )
