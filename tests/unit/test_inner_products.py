"""Encoders that compare by inner product: a corpus's own context is above plain vectors as it is for cosines."""

import numpy as np
import pytest

from benchmarks.head_ranking import PlainTexts, fit_on_kept, one_vectors, rank_plain, rank_with_head
from benchmarks.inner_products import TIMES, lengthened
from benchmarks.languages import quality
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.neighbours import unit
from cde_train.evaluation.ranking import rank
from tests.tiny import WORDS, tiny_encoder

TOPICS, DOCUMENTS, WIDTH = 20, 200, 64
LONGEST = 8.0
"""What lengths are divided by (`cde_retriever.model.projection.Lengths`)."""


def corpus(rng):
    """Return documents of topics, a query for each of three of its words, and unit vectors of both."""
    words = [first + second for first in WORDS for second in WORDS[:10]]
    topics = rng.standard_normal((TOPICS, WIDTH))[np.arange(DOCUMENTS) % TOPICS]
    of_words = rng.standard_normal((450, WIDTH))
    documents, queries, parts = [], [], []
    for number in range(DOCUMENTS):
        places = [*(number % TOPICS * 20 + rng.integers(0, 20, 12)), *(400 + rng.integers(0, 50, 6))]
        documents.append(" ".join(words[place] for place in places))
        queries.append(" ".join(words[places[row]] for row in (0, 1, 14)))
        parts.append(of_words[places].sum(axis=0))
    vectors = topics + 0.2 * np.array(parts)
    return documents, queries, unit(vectors), unit(vectors + 4 * rng.standard_normal(topics.shape))


@pytest.mark.parametrize("varied", [None, 0.0, 0.1, 0.3])
def test_own_context_is_above_plain_vectors(varied):
    rng = np.random.default_rng(0)
    documents, queries, vectors, asked = corpus(rng)
    if varied is not None:  # lengths of 3, more or less; the others are for cosines
        lengths = np.clip(3 * (1 + varied * rng.standard_normal((DOCUMENTS, 1))), 0.5, LONGEST) / LONGEST
        vectors = np.concatenate([lengths * vectors, np.sqrt(1 - lengths**2)], axis=1)
        asked = np.concatenate([asked, np.zeros((DOCUMENTS, 1))], axis=1)
    texts = PlainTexts(documents, queries, vectors.astype(np.float32), asked.astype(np.float32))
    encoder = tiny_encoder(context_attention="late", context_moments=False, corpus_head=HeadSettings().to_dict())
    own = fit_on_kept(encoder, texts, language="none")
    plain = quality(rank_plain(texts))
    assert quality(rank_with_head(encoder, texts, own, "both")) > plain + 10
    made, found = one_vectors(encoder, texts, own, texts.document_vectors.shape[1])
    assert quality(rank(found, made)) > plain + 3  # as for cosines: a vector holds some of the words


def test_lengthened_vectors_keep_their_cosines_and_know_their_length():
    documents, queries, vectors, asked = corpus(np.random.default_rng(0))
    made = lengthened(PlainTexts(documents, queries, vectors, asked))
    np.testing.assert_allclose(np.linalg.norm(made.document_vectors, axis=1), 1, atol=1e-6)
    scores = made.query_vectors @ made.document_vectors.T
    np.testing.assert_allclose(LONGEST / 2 * scores, TIMES / 2 * (asked @ vectors.T), atol=1e-5)
