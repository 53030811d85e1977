"""Main directions of a context: what they keep, that they are the same everywhere, and the one vector made of them."""

import numpy as np
import pytest

from cde_retriever.context.directions import Directions
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Knowledge
from cde_retriever.context.neighbours import unit
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import WordReader
from cde_retriever.words.weights import weigh_documents
from tests.tiny import documents, headed_encoder

TEXTS = documents(30, seed=1)
HEAD = {"topics": 6, "sketch": 9, "directions": 10, "levelling": 0.1}


def some_vectors(count, width=12):
    scales = np.linspace(2, 0.1, width)
    return unit((np.random.default_rng(3).normal(size=(count, width)) * scales).astype(np.float32))


def head_encoder(**settings):
    return headed_encoder(**{**HEAD, **settings})


@pytest.fixture(scope="module")
def encoder():
    encoder = head_encoder()
    encoder.fit_context(TEXTS, context_size=20)
    return encoder


def test_they_keep_what_the_first_singular_vectors_keep():
    context, others = some_vectors(60), some_vectors(9)[::-1]
    turned = Directions(context, 5, 0).of_documents(others)
    assert turned.shape == (9, 5)
    first = np.linalg.svd(context)[2][:5]
    assert turned @ turned.T == pytest.approx(others @ first.T @ first @ others.T, abs=2e-3)
    every = Directions(context, 40, 0).of_documents(others)
    assert every @ every.T == pytest.approx(others @ others.T, abs=1e-5)


def test_they_do_not_depend_on_signs_of_the_decomposition_or_order_of_documents(monkeypatch):
    context, eigh = some_vectors(60), np.linalg.eigh
    first = Directions(context, 5, 0).of_documents(context)
    assert Directions(context[::-1], 5, 0).of_documents(context) == pytest.approx(first, abs=1e-5)
    flip = np.where(np.arange(12) % 2, 1.0, -1.0)
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (lambda w, v: (w, v * flip))(*eigh(matrix)))
    assert Directions(context, 5, 0).of_documents(context) == pytest.approx(first, abs=1e-5)


def test_beyond_the_documents_the_first_numbers_come_first():
    vectors = some_vectors(4)
    assert Directions(vectors[:0], 5, 0.1).of_queries(vectors) == pytest.approx(vectors[:, :5], abs=2e-3)
    axis = np.eye(12, dtype=np.float32)[7:8]
    turned = Directions(axis, 3, 0).of_documents(vectors)
    assert turned @ turned.T == pytest.approx(vectors[:, [7, 0, 1]] @ vectors[:, [7, 0, 1]].T, abs=1e-5)


def test_a_direction_of_less_variance_counts_for_more():
    axes = np.eye(12, dtype=np.float32)
    context = axes[[0] * 16 + [1] * 4 + [2]]  # shares 16 / 21, 4 / 21, 1 / 21
    found = Directions(context, 3, 0.5)
    weights = np.diag(found.of_queries(axes[:3]) @ found.of_documents(axes[:3]).T)
    assert weights == pytest.approx([1, 2, 4], rel=0.02)
    assert np.linalg.norm(found.of_documents(axes[:3]), axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_levelled_scores_do_not_depend_on_signs_of_the_decomposition(monkeypatch):
    context, eigh = some_vectors(60), np.linalg.eigh
    first = Directions(context, 5, 0.3).of_queries(context)
    flip = np.where(np.arange(12) % 2, 1.0, -1.0)
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (lambda w, v: (w, v * flip))(*eigh(matrix)))
    assert Directions(context, 5, 0.3).of_queries(context) == pytest.approx(first, abs=1e-5)


def test_one_vector_scores_by_directions_and_words():
    """Twelve context documents give twelve of 32 topics; the other twenty places hold further directions."""
    wide = head_encoder(topics=32, sketch=0, directions=8, levelling=0)
    assert wide.dimension == 8 + 32 + 1
    texts, queries = TEXTS[:12], ["balak koron", TEXTS[3]]
    context = wide.fit_context(texts)
    one = wide.encode_queries(queries) @ wide.encode_documents(texts).T
    words = CorpusWords.of("english", WordReader("english").read(texts, "document"))
    settings = HeadSettings(topics=32, sketch=0, query_noise=0.0, word_scale=0.0)
    known = Knowledge(settings, context.vectors, words)
    counts = WordReader("english").read(queries, "query").words
    asked = known._weigh(counts, known._says(counts) ** settings.rareness)
    matches = asked.dot(weigh_documents(WordReader("english").read(texts, "document").words, known._lengths[0]))
    kept = np.linalg.svd(context.vectors)[2][:28]
    moved, plain = wide.encode_documents(texts, parts="dense"), wide.encode_queries(queries, parts="dense")
    worth = settings.topic_weight * wide._active.head.agreement.worth
    expected = plain @ kept.T @ kept @ moved.T + worth * known.spread * matches
    ratio = one / expected
    assert ratio == pytest.approx(np.repeat(ratio[:, :1], 12, axis=1), rel=2e-3)  # one scale a query


@pytest.mark.parametrize("width", [None, 20, 12, 11, 10, 4])
def test_vectors_are_unit_and_as_wide_as_said(encoder, width):
    short = encoder.fork(truncate_dim=width)
    assert short.dimension == width or (width is None and short.dimension == 10 + 6 + 9 + 1)
    for context in (encoder.context, encoder.null_context()):
        short.set_context(context)
        for vectors in (short.encode_documents([*TEXTS[:3], ""]), short.encode_queries(["koron"])):
            assert vectors.shape[1] == short.dimension
            assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(vectors)), abs=1e-5)


def test_it_is_known_which_numbers_carry_what(encoder):
    few = head_encoder()
    few.fit_context(TEXTS, context_size=4)  # four topics of six: two places more for meaning
    for one, meaning in ((encoder, 10), (few, 12)):
        places = one._active.head.places
        assert places == {"meaning": slice(meaning), "topics": slice(meaning, 16), "other words": slice(16, None)}
        documents_, queries = (
            one.encode_documents(list(one.context.texts[:3])),
            one.encode_queries([" "]),
        )  # a query without words
        assert np.abs(queries[:, places["topics"]]).max() == 0
        assert np.abs(documents_[:, places["topics"]]).max() > 0


def test_without_room_for_words_fewer_directions_rank_alone(encoder):
    short = encoder.fork(truncate_dim=8)
    short.set_context(encoder.context)
    found = Directions(encoder.context.vectors, 8, 0.1)
    moved, plain = encoder.encode_documents(TEXTS[:5], parts="dense"), encoder.encode_queries(["koron"], parts="dense")
    assert short.encode_documents(TEXTS[:5]) == pytest.approx(unit(found.of_documents(moved)), abs=1e-4)
    assert short.encode_queries(["koron"]) == pytest.approx(unit(found.of_queries(plain)), abs=1e-4)


def test_under_the_null_context_directions_are_the_encoders_first_numbers(encoder):
    alone = encoder.fork(truncate_dim=10)
    alone.set_context(encoder.null_context())
    assert alone.encode_documents(TEXTS[:3]) == pytest.approx(
        unit(encoder.encode_first_stage(TEXTS[:3])[:, :10]), abs=1e-5
    )


def test_settings_without_directions_are_written_as_before_there_were_any():
    assert {"directions", "levelling"}.isdisjoint(HeadSettings().to_dict())
    short = HeadSettings.short(10)
    assert {"query_noise", "query_neighbours", "attended"}.isdisjoint(short.to_dict())
    assert HeadSettings.from_dict(short.to_dict()) == short
