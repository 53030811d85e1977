"""Rank documents as a corpus head does, given plain vectors that were made once: under their own context or another."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.context import Context, make_context
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Parts
from cde_retriever.context.sampling import sample_documents
from cde_retriever.encoder.corpus_head import CorpusHead
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.search.hybrid import search
from cde_train.evaluation.ranking import DEPTH, Ranking, rank

SEED = 0

Vectors = NDArray[np.float32]


class PlainTexts(NamedTuple):
    """Texts of a corpus and its queries, and their plain unit vectors, (n, d) and (q, d)."""

    documents: list[str]
    queries: list[str]
    document_vectors: Vectors
    query_vectors: Vectors


def own_context(encoder: ContextualEncoder, texts: PlainTexts, language: str | None = None) -> Context:
    """Return the context that `fit_context` would make of the corpus."""
    sample = sample_documents(texts.documents, encoder.config.context_size, SEED)
    place = {text: row for row, text in enumerate(texts.documents)}
    return make_context(
        sample,
        texts.document_vectors[[place[text] for text in sample.texts]],
        encoder.identity,
        store_texts=False,
        needs=None,
        words=encoder.count_words(sample.texts, language),
    )


def rank_plain(texts: PlainTexts) -> Ranking:
    """Rank by the plain vectors."""
    return rank(texts.query_vectors, texts.document_vectors)


def rank_headed(encoder: ContextualEncoder, texts: PlainTexts, context: Context, parts: str) -> Ranking:
    """Rank under a context, by ``"both"`` parts or ``"one"`` vector."""
    settings = HeadSettings.from_dict(encoder.config.corpus_head or {})
    head = CorpusHead(settings, context, texts.document_vectors.shape[1], encoder.dimension)
    documents = head.documents(texts.document_vectors, texts.documents, parts)
    queries = head.queries(texts.query_vectors, texts.queries, parts)
    if isinstance(queries, Parts) and isinstance(documents, Parts):
        return list(search(queries, documents, DEPTH).positions)
    return rank(queries, documents)
