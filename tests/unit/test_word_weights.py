"""Words: how texts are split and numbered, what words say, and sums of weights done by hand."""

import math

import numpy as np
import pytest
import snowballstemmer

from cde_retriever.errors import ConfigError
from cde_retriever.words import reading
from cde_retriever.words.reading import LEAD, WordReader, grams_of, hash_word, split
from cde_retriever.words.sparse import WIDTH, Sparse
from cde_retriever.words.statistics import RAREST, WordPrior, WordStatistics, load_prior
from cde_retriever.words.stop_words import CODES, question_words
from cde_retriever.words.weights import weigh_documents, weigh_queries

PRIOR = WordPrior(words=np.array([3, 7]), shares=np.array([0.5, 0.01], np.float32), unseen=0.001, mean_length=10.0)


def hash_words(words):
    return np.array([hash_word(word) for word in words], np.int64)


def rows(*mappings):
    return Sparse.of_rows(mappings)


# Reading


def test_words_are_lower_case_stems_without_stop_words():
    words = list(WordReader("english").words("The Running DOGS of node_modules, and 42!"))
    assert words == ["run", "dog", "node_modul", "42"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Straße ÉTÉ", ["straße", "été"]),
        ("ﬁve \uff15", ["five", "5"]),  # compatibility folding
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # marks belong to the letters they stand on
        ("東京都へ行く", ["東京", "京都", "都へ", "へ行", "行く"]),
        ("使用Python語", ["使用", "python", "語"]),
        ("", []),
        ("\x00!?", []),
    ],
)
def test_split(text, words):
    assert split(text) == words


def test_a_language_that_has_no_stemmer_keeps_its_words():
    assert list(WordReader("none").words("the running dogs")) == ["the", "running", "dogs"]
    with pytest.raises(ConfigError, match="language is 'klingon', which Snowball has no stemmer for"):
        WordReader("klingon")


def test_german_is_stemmed():
    assert list(WordReader("german").words("Häusern Haus")) == ["haus", "haus"]


def test_numbers_are_bits_of_blake2b():
    # printf dog | b2sum -l 32
    assert hash_word("dog") == int.from_bytes(bytes.fromhex("f73e71a0"), "little")
    assert hash_word("\ud800") < WIDTH  # half a surrogate pair, which UTF-8 has no form for


def counted(texts, role="query"):
    counts = WordReader("english").read(texts, role)
    return counts.words, counts.grams


def test_counts_are_of_whole_texts():
    words, grams = counted(["dog dogs cat", "", "the of"])
    assert words.rows == grams.rows == 3
    assert dict(zip(*map(list, words.row(0)), strict=True)) == {hash_word("dog"): 2, hash_word("cat"): 1}
    assert len(words.row(1)[0]) == len(words.row(2)[0]) == len(grams.row(2)[0]) == 0
    assert counted(["dog " * 5000])[0].values.tolist() == [5000]


def test_the_first_words_of_a_document_count_twice():
    words, _ = counted(["dog " * 20 + "cat"], "document")
    assert dict(zip(*map(list, words.row(0)), strict=True)) == {hash_word("dog"): 20 + LEAD, hash_word("cat"): 1}


def test_grams_are_runs_of_four_of_the_marked_word():
    assert [gram[1:] for gram in grams_of("wings")] == ["^win", "wing", "ings", "ngs$"]
    assert [gram[1:] for gram in grams_of("a")] == ["^a$"]
    _, grams = counted(["wings the wing"])
    assert grams.values.sum() == 4 + 3  # stop words have none
    assert grams.values.max() == 2  # both words begin alike
    assert set(hash_words(grams_of("wing"))).isdisjoint(hash_words(["wing", "^win"]))


@pytest.mark.parametrize(
    ("language", "question", "left"),
    [
        ("english", "What does the tower weigh?", "tower weigh"),
        ("german", "Was wiegt denn der Eiffelturm?", "wiegt Eiffelturm"),
        ("french", "Qu'est-ce que la relativité ?", "relativité"),
        ("russian", "Что такое энтропия?", "энтропия"),
        ("none", "Was wiegt denn der Eiffelturm?", "Was wiegt denn der Eiffelturm"),
    ],
)
def test_queries_leave_out_the_words_of_a_question(language, question, left):
    reader = WordReader(language)
    asked = reader.read([question], "query", skip_question_words=True)
    said = reader.read([left], "query")
    assert all(one.indices.tolist() == other.indices.tolist() for one, other in zip(asked, said, strict=True))
    assert len(said.words.indices) == len(left.split())
    alone = question.split()[0]
    assert len(reader.read([alone], "query", skip_question_words=True).words.indices) > 0  # a text has no others


def test_documents_keep_the_words_of_a_question_but_for_english():
    assert len(WordReader("german").read(["Was wiegt denn der Eiffelturm?"], "document").words.indices) == 5
    assert len(WordReader("english").read(["What does the tower weigh?"], "document").words.indices) == 4


def test_lists_of_words_are_there_for_snowballs_languages():
    known = set(snowballstemmer.algorithms())
    assert known >= set(CODES)
    assert known - set(CODES) == {"english", "porter", "nepali", "serbian", "tamil", "yiddish"}
    assert all(len(question_words(language)) > 20 for language in [*CODES, "english"])


def test_stems_alone_are_read_without_grams():
    reader = WordReader("english")
    texts = ["What is a dog? Dogs, cats", "", "dog " * 20 + "cat"]
    for role, skip in (("query", True), ("query", False), ("document", False)):
        stems = reader.read_stems(texts, role, skip_question_words=skip)
        assert not reader._grams
        both = WordReader("english").read(texts, role, skip_question_words=skip)
        assert [part.tolist() for part in stems] == [part.tolist() for part in both.words]
        assert dict(zip(*map(list, stems.row(2)), strict=True))[hash_word("dog")] == (20 if role == "query" else 36)


def test_a_reader_forgets_words_but_not_their_numbers(monkeypatch):
    monkeypatch.setattr(reading, "KNOWN_WORDS", 3)
    reader = WordReader("english")
    text = " ".join(f"word{i}" for i in range(10))
    first, again = reader.read([text], "query").words, reader.read([text], "query").words
    assert len(reader._stems) <= 3
    assert len(reader._grams) <= 3
    assert first.indices.tolist() == again.indices.tolist()
    assert first.indices.tolist() == sorted(hash_words(f"word{i}" for i in range(10)).tolist())


# Sparse vectors


def test_inner_products_by_hand():
    left = rows({5: 1.0, WIDTH - 1: 2.0}, {}, {9: 4.0})
    right = rows({WIDTH - 1: 0.5, 7: 3.0}, {5: 2.0, 9: 1.0})
    assert left.dot(right).tolist() == [[1.0, 2.0], [0.0, 0.0], [0.0, 4.0]]
    assert left.csr().shape == (3, WIDTH)
    assert rows().dot(right).shape == (0, 2)
    assert left.dot(rows({})).tolist() == [[0.0], [0.0], [0.0]]


def test_rows_are_put_together_and_back():
    parts = [rows({5: 1.0}, {}), rows({3: 2.0, 4: 1.0})]
    joined = Sparse.joined(parts)
    assert joined.starts.tolist() == [0, 1, 1, 3]
    assert joined.indices.tolist() == [5, 3, 4]
    assert Sparse.of_csr(joined.csr()).values.tolist() == [1.0, 2.0, 1.0]
    assert Sparse.joined([]).rows == 0
    assert Sparse.joined([rows(), parts[0], rows(), parts[1]]).starts.tolist() == [0, 1, 1, 3], "some hold no row"
    taken = joined.take(np.array([2, 1, 0, 2]))
    assert taken.starts.tolist() == [0, 2, 2, 3, 5]
    assert taken.indices.tolist() == [3, 4, 5, 3, 4]
    assert taken.values.tolist() == [2.0, 1.0, 1.0, 2.0, 1.0]


# Statistics and weights


def test_information_by_hand():
    statistics = WordStatistics.of(rows({3: 2.0}, {3: 1.0, 5: 1.0}))
    assert (statistics.documents, statistics.mean_length) == (2, 2.0)
    says = statistics.information(np.array([3, 5, 7, 8]), PRIOR, 8)
    shares = [(2 + 8 * 0.5) / 10, (1 + 8 * 0.001) / 10, 8 * 0.01 / 10, 1 / (2 + RAREST)]
    assert says == pytest.approx([-math.log(share) for share in shares])


def test_the_null_context_says_what_the_prior_says():
    says = WordStatistics().information(np.array([3, 7, 8]), PRIOR, 8)
    assert says == pytest.approx([math.log(2), math.log(100), math.log(RAREST)])
    assert WordStatistics().length(PRIOR, 8) == 10.0


def test_lengths_are_smoothed_by_the_prior():
    assert WordStatistics.of(rows({1: 4.0}, {1: 4.0})).length(PRIOR, 2) == 7.0


def test_a_document_is_weighed_by_saturated_counts():
    weights = weigh_documents(rows({3: 2.0, 5: 1.0}, {}), mean_length=6.0)
    room = 1.2 * (0.25 + 0.75 * 3 / 6)
    assert weights.values == pytest.approx([2 / (2 + room), 1 / (1 + room)])
    assert weights.rows == 2


def test_a_query_shares_out_one():
    statistics = WordStatistics.of(rows({3: 1.0}, {7: 1.0}, {7: 1.0}))
    counts = rows({3: 5.0, 7: 1.0}, {9: 1.0}, {})
    shares = weigh_queries(counts, statistics.information(counts.indices, PRIOR, 1))
    says = [math.log(4 / 1.5), math.log(4 / 2.01)]
    assert shares.values == pytest.approx([says[0] / sum(says), says[1] / sum(says), 1.0])


def test_powers_of_what_words_say():
    statistics = WordStatistics.of(rows({3: 1.0}, {7: 1.0}, {7: 1.0}))
    counts = rows({3: 5.0, 7: 1.0})
    says = statistics.information(counts.indices, PRIOR, 1)
    values = weigh_queries(counts, says**1.5, sharing=0.5).values
    powers = [math.log(4 / 1.5) ** 1.5, math.log(4 / 2.01) ** 1.5]
    assert values == pytest.approx([power / math.sqrt(sum(powers)) for power in powers])


def test_the_share_of_a_document_that_says_all_is_below_one():
    counts = counted(["lift of a swept wing"])[0]
    query = weigh_queries(counts, WordStatistics().information(counts.indices, load_prior("english"), 16))
    document = weigh_documents(counted(["wing " * 50 + "swept " * 50 + "lift " * 50])[0], 150)
    assert 0.95 < float(query.dot(document)[0, 0]) < 1


def test_the_prior_of_english_knows_common_words_from_rare_ones():
    prior = load_prior("english")
    common, rare, unknown = prior.of(hash_words(["use", "haemoglobin", "qwzx"]))
    assert common > 0.05 > rare
    assert unknown == pytest.approx(prior.unseen)
    assert np.all(np.diff(prior.words) > 0)
    with pytest.raises(ConfigError, match="no word prior 'latin'; this version has english"):
        load_prior("latin")
