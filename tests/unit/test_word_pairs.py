"""Pairs of words: which there are, what they say beyond their words, and scores summed up by hand from strings."""

from collections import Counter
from itertools import pairwise
from math import log, sqrt

import numpy as np
import pytest

from cde_retriever.context.context import Context
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Knowledge
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.mixing import mix
from cde_retriever.words.pairs import KnownPairs, count_pairs, fold, pairs_of, telling
from cde_retriever.words.reading import LEAD, WordReader, hash_word
from cde_retriever.words.sparse import WIDTH, Sparse
from cde_retriever.words.statistics import WordStatistics, load_prior
from tests.tiny import documents, headed_encoder

BANKS = [
    "the federal reserve bank raised rates",
    "a reserve of the federal kind",  # the other order
    "federal courts and reserve troops",
    "the federal courts",
    "a river bank",
]


def pair(first: str, second: str) -> int:
    return int(pairs_of([hash_word(first), hash_word(second)])[0])


def counted(text: str, role: str = "query", language: str = "none") -> Counter[int]:
    indices, values = WordReader(language).read([text], role, skip_question_words=role == "query").pairs.row(0)
    return Counter(dict(zip(indices.tolist(), values.tolist(), strict=True)))


def known(texts: list[str]) -> tuple[WordStatistics, WordStatistics]:
    counts = WordReader("english").read(texts, "document")
    words = WordStatistics.of(counts.words)
    return telling(counts.pairs, words), words


# Which there are


def test_a_pair_is_two_neighbours_in_either_order():
    assert counted("red fox red") == {pair("red", "fox"): 2}
    assert pair("red", "fox") == pair("fox", "red")
    assert len({pair(a, b) for a in "abcd" for b in "abcd" if a < b}) == 6


def test_a_word_beside_itself_and_a_word_alone_are_none():
    assert counted("fox fox fox") == counted("fox") == counted("") == Counter()


def test_stop_words_and_question_words_are_passed_over():
    reserve, york = hash_word("reserv"), hash_word("york")
    assert counted("What is the reserve of York?", language="english") == {int(pairs_of([reserve, york])[0]): 1}


def test_the_first_words_of_a_document_count_twice():
    text = " ".join(["red fox"] * LEAD)
    assert counted(text, "document") == {pair("red", "fox"): 2 * LEAD - 1 + LEAD - 1}


def test_no_pair_reaches_into_the_next_text():
    counts = WordReader("none").read(["red fox", "", "blue fox"], "query").pairs
    assert [counts.row(row)[0].tolist() for row in range(3)] == [[pair("red", "fox")], [], [pair("blue", "fox")]]


def test_numbers_of_stems_above_two_to_the_31_are_kept_apart():
    high = [WIDTH - 1, 2**31, 5]
    first, second = pairs_of(high).tolist()
    assert first == (2**31 << 32 | WIDTH - 1) - 2**64  # signed
    assert second == 5 << 32 | 2**31


def test_pairs_are_counted_on_demand():
    counts = WordReader("none").read(["red fox", "blue"], "document", pairs=False)
    assert (counts.pairs.rows, len(counts.pairs.indices)) == (2, 0)
    assert counts.words.rows == 2


def test_bits_are_mixed_as_splitmix64_does():
    """The first numbers of SplitMix64 started at 0, as its authors' program prints them."""
    gamma = 0x9E3779B97F4A7C15
    states = np.array([gamma, 2 * gamma % 2**64, 3 * gamma % 2**64], np.uint64)
    assert mix(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert fold(np.array([gamma - 2**64])).tolist() == [0xE220A839]


# What they say


def test_a_pair_says_how_surprising_one_word_is_beside_the_other():
    pairs, words = known(BANKS)
    kept, says = KnownPairs(pairs, words).keep(WordReader("english").read(["federal reserve"], "query").pairs)
    # "reserve" is the rarer, in three documents; beside "federal" it stands in two
    assert says.tolist() == [pytest.approx(log(3 / 2))]
    assert kept.indices.tolist() == fold(np.array([pair("feder", "reserv")])).tolist()


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("river bank", "it stands wherever its rarer word does"),
        ("federal bank", "no document holds it"),
        ("zebra bank", "no document holds one of the words"),
    ],
)
def test_a_pair_that_says_nothing_here_is_not_known(asked, why):
    pairs, words = known(BANKS)
    kept, says = KnownPairs(pairs, words).keep(WordReader("english").read([asked], "query").pairs)
    assert (len(kept.indices), len(says)) == (0, 0), why


def test_pairs_that_say_nothing_are_not_kept():
    pairs, _ = known(BANKS)
    numbers = {
        pair(*two): two for two in [("feder", "reserv"), ("feder", "court"), ("river", "bank"), ("rais", "rate")]
    }
    kept = dict(zip(pairs.words.tolist(), pairs.documents_with.tolist(), strict=True))
    assert {numbers[number]: count for number, count in kept.items() if number in numbers} == {("feder", "reserv"): 2}


def test_without_a_context_no_pair_is_known():
    none = KnownPairs(WordStatistics(), WordStatistics())
    kept, says = none.keep(count_pairs([[[1, 2, 3]], [[4]]]))
    assert (len(none), kept.rows, len(kept.indices), len(says)) == (0, 2, 0, 0)


# Scores


def by_hand(query: str, document: str, corpus: list[str], settings: HeadSettings) -> float:
    """Return what pairs add to a score in spreads, out of strings alone."""
    stems = WordReader("english").words

    def neighbours(text: str) -> list[frozenset[str]]:
        return [frozenset(two) for two in pairwise(stems(text)) if two[0] != two[1]]

    holds, beside = [set(stems(text)) for text in corpus], [set(neighbours(text)) for text in corpus]
    prior, worth, count = load_prior("english"), settings.prior_documents, len(corpus)

    def says(stem: str) -> float:
        share = (sum(stem in held for held in holds) + worth * prior.of(np.array([hash_word(stem)]))[0]) / (
            count + worth
        )
        return -log(min(max(share, 1 / (count + 512)), 1))

    def beyond(two: frozenset[str]) -> float:
        together = sum(two in held for held in beside)
        return log(min(sum(stem in held for held in holds) for stem in two) / together) if together else 0.0

    twice = neighbours(document) + neighbours(" ".join(document.split()[:LEAD]))
    words = [len(list(stems(text))) + len(list(stems(" ".join(text.split()[:LEAD])))) for text in corpus]
    mean = (sum(words) + worth * prior.mean_length) / (count + worth)
    room = 1.2 * (1 - 0.75 + 0.75 * len(twice) / mean)
    asked = set(neighbours(query))
    together = sum(says(stem) ** 1.5 for stem in set(stems(query))) + sum(beyond(two) ** 1.5 for two in asked)
    total = sum(beyond(two) ** 1.5 * twice.count(two) / (twice.count(two) + room) for two in asked)
    return settings.pair_weight * total / sqrt(together)


@pytest.mark.parametrize("query", ["federal reserve bank rates", "courts of the federal reserve", "a bank"])
def test_pairs_add_to_a_score_what_a_sum_by_hand_gives(query):
    texts = [*BANKS, "federal reserve federal reserve troops troops reserve bank " + "filler words " * 20]
    reader, vectors = WordReader("english"), np.eye(len(texts), 8, dtype=np.float32)
    words = CorpusWords.of("english", reader.read(texts, "document"))
    settings = HeadSettings()
    with_pairs = Knowledge(settings, vectors, words)
    asked, found = reader.read([query], "query"), reader.read(texts, "document")
    scores = with_pairs.query_words(asked).dot(with_pairs.document_words(found))[0] / with_pairs.spread
    without = Knowledge(settings, vectors, CorpusWords(words.language, words.counts, words.grams))
    plain = without.query_words(asked).dot(without.document_words(found))[0] / without.spread
    expected = [by_hand(query, text, texts, settings) for text in texts]
    assert scores - plain == pytest.approx(np.array(expected), abs=1e-5)
    assert (max(expected) > 0.03) == (query != "a bank")


def test_pairs_of_words_that_say_nothing_stay_finite():
    texts = [*["red fox"] * 2, *["fox beside red"] * 30, *["fox likes cold red"] * 30]  # both words in every document
    reader = WordReader("none")
    words = CorpusWords.of("none", reader.read(texts, "document"))
    knowledge = Knowledge(HeadSettings(language="none"), np.eye(len(texts), 8, dtype=np.float32), words)
    unit = knowledge.spread * knowledge.agreement.worth
    weights = knowledge.query_words(reader.read(["red fox"], "query")).values / unit
    assert 0 < weights.max() < 2


# In a model


def test_of_two_documents_of_the_same_words_the_one_with_the_pair_is_first():
    texts = documents(40, seed=1)
    encoder = headed_encoder()
    encoder.fit_context([*texts, "baron kolak", "kolak ron", "baron ron kolak"])

    def both() -> list[float]:
        found = encoder.encode_documents(["kolak ron sold baron", "ron sold baron kolak"], parts="sparse")
        query = encoder.encode_queries(["baron kolak"], parts="sparse")
        scores: list[float] = Sparse.of_csr(query).dot(Sparse.of_csr(found))[0].tolist()
        return scores

    apart, beside = both()
    assert beside > apart
    encoder.set_context(encoder.null_context())
    apart, beside = both()
    assert beside == pytest.approx(apart)


def test_a_context_keeps_its_pairs_and_they_are_part_of_its_fingerprint():
    encoder = headed_encoder()
    context = encoder.fit_context(documents(30, seed=1))
    back = Context.from_bytes(context.to_bytes())
    assert len(back.words.pairs.words) > 20
    assert back.words.pairs.words.tolist() == context.words.pairs.words.tolist()
    assert back.words.pairs.documents_with.tolist() == context.words.pairs.documents_with.tolist()
    fewer = CorpusWords(context.words.language, context.words.counts, context.words.grams)
    assert fewer.fingerprint != context.words.fingerprint


def test_a_model_stored_before_there_were_pairs_has_none():
    before = {"word_weight": 0.31, "gram_weight": 0.31, "rareness": 1.5, "sharing": 0.5, "skip_question_words": True}
    settings = HeadSettings.from_dict(before)
    assert settings.pair_weight == 0
    assert "pair_weight" not in settings.to_dict()
    encoder = headed_encoder(**before)
    context = encoder.fit_context(documents(30, seed=1))
    assert len(context.words.pairs.words) == 0
    assert not any("pairs" in name for name in context.words.arrays())


def test_pairs_out_of_order_are_refused():
    words = CorpusWords.of("english", WordReader("english").read(BANKS, "document"))
    arrays = words.arrays()
    assert CorpusWords.of_arrays("english", arrays).pairs.words.tolist() == words.pairs.words.tolist()
    with pytest.raises(ValueError, match="pairs and their counts"):
        CorpusWords.of_arrays("english", arrays | {"words_pairs": arrays["words_pairs"][::-1]})
    with pytest.raises(ValueError, match="pairs and their counts"):
        CorpusWords.of_arrays("english", arrays | {"words_pairs_with": arrays["words_pairs_with"][1:]})


def test_counts_of_some_texts_are_taken_with_their_pairs():
    counts = WordReader("none").read(["red fox", "blue", "red dog ran"], "query")
    some = counts.take(np.array([2, 0]))
    assert [len(some.pairs.row(row)[0]) for row in (0, 1)] == [2, 1]
    assert isinstance(some.pairs, Sparse)
