"""Whether vectors and words agree on what is near: planted answers, ranks counted one by one, what queries do."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cde_retriever.context.agreement import COMPARED, MOST, READ_FROM, TYPICAL, TYPICAL_AS_MANY_AS, Agreement
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Knowledge
from cde_retriever.context.neighbours import unit
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import reader
from cde_retriever.words.sparse import Sparse
from tests.tiny import documents

LENGTH = 12.0


def counts_of(texts):
    return reader("none").read(texts, "document").words


def say_alike(places):
    return np.ones(len(places))


def vectors_of_words(counts, width=256, seed=0):
    """Vectors that hold what words stand in each document, by a random direction a word."""
    rng = np.random.default_rng(seed)
    directions = {int(place): rng.normal(size=width) for place in np.unique(counts.indices)}
    rows = [sum(directions[int(place)] for place in counts.row(row)[0]) for row in range(counts.rows)]
    return unit(np.array(rows, np.float32))


def noise(rows, width=256, seed=1):
    return unit(np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32))


def by_hand(vectors, counts, length):
    """The formula of the module, a document and a neighbour at a time."""
    bags = []
    for row in range(counts.rows):
        places, values = counts.row(row)
        room = 1.2 * (0.25 + 0.75 * values.sum() / length)
        bags.append({int(place): value / (value + room) for place, value in zip(places, values, strict=True)})

    def cosine(one, other):
        inner = sum(value * other.get(place, 0.0) for place, value in one.items())
        return inner / math.sqrt(sum(v * v for v in one.values()) * sum(v * v for v in other.values()))

    above, below = 0.0, 0.0
    for i, bag in enumerate(bags):
        likeness = {j: cosine(bag, other) for j, other in enumerate(bags) if j != i}
        best = max(likeness.values())
        as_like = {j for j in likeness if likeness[j] > best - 1e-6}
        cosines = {j: float(vectors[i] @ vectors[j]) for j in likeness}
        place = 1 + sum(cosines[j] > max(cosines[k] for k in as_like) for j in set(likeness) - as_like)
        above += best * math.log(place)
        below += best * sum(math.log(r) for r in range(1, len(bags))) / (len(bags) - 1)
    return 1 - above / below


@pytest.mark.parametrize("read", [True, False])
def test_agreement_is_that_of_ranks_counted_one_by_one(read):
    counts = counts_of(documents(40, seed=3))
    vectors = vectors_of_words(counts, 48) if read else noise(40)
    found = Agreement(vectors, counts, say_alike, LENGTH).value
    expected = by_hand(vectors, counts, LENGTH)
    assert found == pytest.approx((40 * expected + TYPICAL_AS_MANY_AS * TYPICAL) / (40 + TYPICAL_AS_MANY_AS), abs=1e-5)


def test_vectors_that_hold_the_words_agree_with_them_and_noise_does_not():
    counts = counts_of(documents(400, seed=4))
    reads = Agreement(vectors_of_words(counts), counts, say_alike, LENGTH)
    blind = Agreement(noise(400), counts, say_alike, LENGTH)
    assert reads.value > 0.7
    assert reads.worth == 1
    assert blind.value < 0.2
    assert blind.worth == pytest.approx(min((READ_FROM / blind.value) ** 3, MOST))


def test_vectors_that_say_the_contrary_of_words_are_worth_as_little_as_can_be():
    counts = counts_of(documents(200, seed=5))
    held = vectors_of_words(counts, 1024).astype(np.float64)
    likeness = held @ held.T
    most = np.linalg.eigvalsh(likeness).max()
    contrary = np.linalg.cholesky(1.01 * most * np.eye(200) - likeness).astype(np.float32)
    found = Agreement(unit(contrary), counts, say_alike, LENGTH)
    assert found.value < 0
    assert found.worth == MOST


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 10])
def test_a_few_documents_are_no_reason_to_doubt(rows):
    counts = counts_of(documents(10, seed=6)).take(np.arange(rows))
    assert Agreement(noise(10)[:rows], counts, say_alike, LENGTH).worth == 1


@pytest.mark.parametrize("texts", [[f"w{number}" for number in range(300)], ["same words here"] * 300, [""] * 300])
def test_documents_without_words_in_common_or_without_others_are_no_reason_to_doubt(texts):
    counts = counts_of(texts)
    vectors = noise(300) if texts[0] != texts[1] else np.repeat(noise(1), 300, axis=0)
    assert Agreement(vectors, counts, say_alike, LENGTH).worth == 1


def test_vectors_that_are_all_the_same_tell_nothing():
    counts = counts_of(documents(300, seed=7))
    assert Agreement(np.repeat(noise(1), 300, axis=0), counts, say_alike, LENGTH).worth > 3


def test_no_more_documents_are_compared_than_said():
    counts = counts_of(documents(COMPARED + 200, seed=8))
    vectors = vectors_of_words(counts)
    vectors[COMPARED:] = noise(200)
    first = Agreement(vectors[:COMPARED], counts.take(np.arange(COMPARED)), say_alike, LENGTH)
    assert Agreement(vectors, counts, say_alike, LENGTH).value == first.value


@pytest.mark.parametrize("size", [0, 64])
def test_words_of_queries_count_for_more_where_vectors_are_noise_and_documents_stay(size):
    texts = documents(200, seed=9)
    words = reader("none")
    read = words.read(texts, "document")
    kept = CorpusWords.of("none", read)
    settings = replace(HeadSettings(language="none", sketch=size), query_neighbours=32)
    blind = Knowledge(settings, noise(200, 64), kept)
    trusting = Knowledge(settings, noise(200, 64), kept)
    trusting.agreement.__dict__["worth"] = 1.0
    asked = words.read([" ".join(text.split()[:4]) for text in texts[:20]], "query")
    worth = blind.agreement.worth
    assert worth > 2
    np.testing.assert_allclose(blind.query_words(asked).values, worth * trusting.query_words(asked).values, rtol=1e-5)
    np.testing.assert_array_equal(blind.document_words(read).values, trusting.document_words(read).values)
    if size:
        queries = noise(20, 64, seed=2)
        one, other = (known.within.queries(queries, asked.words) for known in (blind, trusting))
        np.testing.assert_array_equal(one[:, :64], other[:, :64])
        np.testing.assert_allclose(one[:, 64:], worth * other[:, 64:], rtol=1e-5)
        made = (known.within.documents(noise(200, 64), read.words) for known in (blind, trusting))
        np.testing.assert_array_equal(*made)


def test_the_null_context_weighs_words_as_usual():
    known = Knowledge(HeadSettings(), np.zeros((0, 8), np.float32), CorpusWords.none("none"))
    assert known.agreement.worth == 1
    assert isinstance(known.query_words(reader("none").read(["a word"], "query")), Sparse)
