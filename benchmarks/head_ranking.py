"""Rank under a corpus head by kept plain vectors: no text is encoded, so that a context costs seconds.

| mode | ranks by | context |
| --- | --- | --- |
| ``null``, ``foreign``, ``corpus`` | one vector | none, another corpus's, the corpus's own |
| ``hybrid_null``, ``hybrid_foreign``, ``hybrid`` | two parts, dense and exact sparse | the same |

A context is what `ContextualEncoder.fit_context` makes of the same sample, with kept vectors in place of encoded ones.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from cde_retriever.checkpoint.reading import QUERIES
from cde_retriever.context.context import Context
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Parts
from cde_retriever.context.making import make_context
from cde_retriever.context.sampling import Choice
from cde_retriever.context.selection import choose
from cde_retriever.encoder.corpus_head import CorpusHead
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.words.reading import TextCounts, WordReader, reader
from cde_train.evaluation.ranking import Ranking, rank, rank_parts

HYBRID_MODES = ("hybrid_null", "hybrid_foreign", "hybrid")
HYBRID_LABELS = {
    "hybrid_null": "two parts, null context",
    "hybrid_foreign": "two parts, foreign context",
    "hybrid": "two parts, corpus context",
}
QUERIES_AT_ONCE = 100
SEED = 0

Vectors = NDArray[np.float32]


@lru_cache(maxsize=4)  # documents and queries of one set, for all its contexts
def _read_once(language: str, texts: tuple[str, ...], role: str, skip: bool, pairs: bool) -> TextCounts:
    return reader(language).read(texts, role, skip_question_words=skip, pairs=pairs)


class KeptReader(WordReader):
    """Reads the texts of a set once, for all its contexts: it is most of what a ranking takes."""

    def read(
        self, texts: Iterable[str], role: str, *, skip_question_words: bool = False, pairs: bool = True
    ) -> TextCounts:
        """Return what `WordReader.read` does."""
        return _read_once(self.language, tuple(texts), role, skip_question_words, pairs)


class _KeptHead(CorpusHead):
    def __init__(self, settings: HeadSettings, context: Context, plain_width: int, dimension: int) -> None:
        super().__init__(settings, context, plain_width, dimension)
        self._reader = KeptReader(self._reader.language)


class PlainTexts(NamedTuple):
    """Texts of a corpus and its queries, and their plain unit vectors, (n, d) and (q, d)."""

    documents: Sequence[str]
    queries: Sequence[str]
    document_vectors: Vectors
    query_vectors: Vectors


def fit_on_kept(
    encoder: ContextualEncoder,
    texts: PlainTexts,
    *,
    seed: int = SEED,
    size: int | None = None,
    language: str | None = None,
    selection: str = "random",
    kinds: Sequence[str] | None = None,
) -> Context:
    """Return the context that `fit_context` would fit to the documents, out of their kept vectors."""
    rows = {text: row for row, text in enumerate(texts.documents)}

    def kept(chosen: Sequence[str]) -> Vectors:
        return texts.document_vectors[[rows[text] for text in chosen]]

    choice = Choice(seed, size or encoder.config.context_size, selection)
    sample = choose(texts.documents, choice, kinds, kept).sample
    words = encoder.count_words(sample.texts, language)
    return make_context(sample, kept(sample.texts), encoder.identity, words=words)


def rank_plain(texts: PlainTexts) -> Ranking:
    """Rank by the plain vectors."""
    return rank(texts.query_vectors, texts.document_vectors)


def one_vectors(
    encoder: ContextualEncoder,
    texts: PlainTexts,
    context: Context,
    dimension: int | None = None,
    settings: HeadSettings | None = None,
) -> tuple[Vectors, Vectors]:
    """Return documents and queries as one vector each under a context, (n, m) and (q, m); None for all numbers."""
    head = kept_head(encoder, texts, context, dimension, settings)
    return (
        np.asarray(head.documents(texts.document_vectors, texts.documents, "one")),
        np.asarray(head.queries(texts.query_vectors, texts.queries, "one")),
    )


def rank_with_head(encoder: ContextualEncoder, texts: PlainTexts, context: Context, parts: str) -> Ranking:
    """Rank under a context, by ``"both"`` parts or ``"one"`` vector, or as with ``context_for="queries"``."""
    if parts in ("one", QUERIES):
        width, settings = None, None
        if parts == QUERIES:
            width = texts.document_vectors.shape[1]
            settings = HeadSettings.from_dict(encoder.config.corpus_head or {}).for_queries()
        documents, queries = one_vectors(encoder, texts, context, width, settings)
        return rank(queries, documents)
    head = kept_head(encoder, texts, context)
    asked = cast(Parts, head.queries(texts.query_vectors, texts.queries, parts))
    made = cast(Parts, head.documents(texts.document_vectors, texts.documents, parts))
    return rank_parts(asked, made, chunk=QUERIES_AT_ONCE)


def kept_head(
    encoder: ContextualEncoder,
    texts: PlainTexts,
    context: Context,
    dimension: int | None = None,
    settings: HeadSettings | None = None,
) -> CorpusHead:
    """Return a model's corpus head, or one of other settings, under a context; it reads the texts of a set once."""
    settings = settings or HeadSettings.from_dict(encoder.config.corpus_head or {})
    return _KeptHead(settings, context, texts.document_vectors.shape[1], dimension or encoder.dimension)
