"""Rank under a corpus head by kept plain vectors: no text is encoded, so that a context costs seconds.

| mode | ranks by | context |
| --- | --- | --- |
| ``null``, ``foreign``, ``corpus`` | one vector | none, another corpus's, the corpus's own |
| ``hybrid_null``, ``hybrid_foreign``, ``hybrid`` | two parts, dense and exact sparse | the same |

A context is what `ContextualEncoder.fit_context` makes of the same sample, with kept vectors in place of encoded ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.context import Context, make_context
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.sampling import sample_documents
from cde_retriever.encoder.corpus_head import CorpusHead
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.search.hybrid import search
from cde_retriever.words.reading import TextCounts, WordReader, reader
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.evaluation.ranking import DEPTH, Ranking, rank

HYBRID_MODES = ("hybrid_null", "hybrid_foreign", "hybrid")
HYBRID_LABELS = {
    "hybrid_null": "two parts, null context",
    "hybrid_foreign": "two parts, foreign context",
    "hybrid": "two parts, corpus context",
}
QUERIES_AT_ONCE = 100

Vectors = NDArray[np.float32]


@lru_cache(maxsize=40)
def _read_once(language: str, texts: tuple[str, ...], role: str, skip: bool) -> TextCounts:
    return reader(language).read(texts, role, skip_question_words=skip)


class _KeptReader(WordReader):
    """Reads the texts of a set once, for all its contexts: it is most of what a ranking takes."""

    def read(self, texts: Iterable[str], role: str, *, skip_question_words: bool = False) -> TextCounts:
        return _read_once(self.language, tuple(texts), role, skip_question_words)


class _KeptHead(CorpusHead):
    def __init__(self, settings: HeadSettings, context: Context, plain_width: int, dimension: int) -> None:
        super().__init__(settings, context, plain_width, dimension)
        self._reader = _KeptReader(self._reader.language)


@dataclass(frozen=True)
class PlainSet:
    """A judged set with its texts' plain vectors, (n, d) and (q, d)."""

    data: RetrievalSet
    documents: Vectors
    queries: Vectors


def fit_on_kept(encoder: ContextualEncoder, plain: PlainSet, seed: int, size: int | None) -> Context:
    """Return the context that the encoder would fit to a set's documents, out of their kept vectors."""
    sample = sample_documents(plain.data.documents, size or encoder.config.context_size, seed)
    rows = {text: row for row, text in enumerate(plain.data.documents)}
    vectors = plain.documents[[rows[text] for text in sample.texts]]
    words = encoder.count_words(sample.texts, None)
    return make_context(sample, vectors, encoder.identity, store_texts=False, needs=None, words=words)


def rank_with_head(encoder: ContextualEncoder, plain: PlainSet, context: Context, *, parts: bool) -> Ranking:
    """Rank by one vector, or by two parts; queries of parts by hundreds, to bound memory."""
    settings = HeadSettings.from_dict(encoder.config.corpus_head or {})
    head = _KeptHead(settings, context, plain.documents.shape[1], encoder.dimension)
    texts = plain.data.queries
    if not parts:
        one = head.documents(plain.documents, plain.data.documents, "one")
        return rank(np.asarray(head.queries(plain.queries, texts, "one")), np.asarray(one))
    documents = head.documents(plain.documents, plain.data.documents, "both")
    ranking: Ranking = []
    for first in range(0, len(texts), QUERIES_AT_ONCE):
        last = first + QUERIES_AT_ONCE
        queries = head.queries(plain.queries[first:last], texts[first:last], "both")
        ranking += list(search(queries, documents, DEPTH).positions)
    return ranking
