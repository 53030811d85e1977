"""A sample of a corpus keeps answers and near documents, and its error is what other rankers gain."""

from dataclasses import replace

import numpy as np
import pytest

from cde_retriever.search.bm25 import WordSearch
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.evaluation import sampled_corpus
from cde_train.evaluation.baselines import rank_bm25
from cde_train.evaluation.ranking import evaluate, measure
from cde_train.evaluation.sampled_corpus import sample_corpus, trusted_sample


class Vectors:
    """Documents on a circle, a degree apart; a query lies three tenths of a degree beside its answer."""

    def take(self, texts):
        angles = np.radians([int(text.split()[0][1:]) + (0.3 if text[0] == "q" else 0.0) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.fixture
def data():
    """360 documents that share words by threes; 8 queries with a word of their answer and of two others."""
    documents = tuple(f"d{i} group{i % 120} word" for i in range(360))
    answers = range(7, 360, 47)
    return RetrievalSet(
        "circle",
        tuple(str(i) for i in range(360)),
        documents,
        tuple(f"q{i}" for i in answers),
        tuple(f"q{i} group{i % 120}" for i in answers),
        {f"q{i}": {str(i): 1} for i in answers},
    )


def test_a_sample_has_the_answers_and_what_is_near_and_measures_as_the_whole(data):
    sample = sample_corpus(data, Vectors(), 100)
    kept = set(sample.data.document_ids)
    assert (len(kept), sample.whole, sample.data.queries) == (100, 360, data.queries)
    for query in data.query_ids:
        answer = int(query[1:])
        assert {str(answer), str((answer + 120) % 360), str((answer + 240) % 360)} <= kept, "by words"
        assert {str((answer + step) % 360) for step in (-1, 1)} <= kept, "by vectors"
    whole, part = (evaluate(s, Vectors().take(s.queries), Vectors().take(s.documents)) for s in (data, sample.data))
    assert part.ndcg_at_10.tolist() == whole.ndcg_at_10.tolist()


def test_the_error_is_what_a_ranker_without_a_part_in_the_choice_gains(data):
    """BM25 has three equal documents for a query; a sample by vectors alone leaves most of the two others out."""
    sample = sample_corpus(data, Vectors(), 60)
    whole = measure(data, rank_bm25(WordSearch(data.documents), data.queries)).ndcg_at_10.mean()
    assert 0.2 < sample.error == pytest.approx(1 - whole), "in the sample every answer comes first"
    assert f"{100 * sample.error:.2f} nDCG@10" in sample.sentence
    assert sample_corpus(data, Vectors(), 360).error == pytest.approx(0)


def test_queries_without_room_for_their_answers_are_left_out(data):
    sample = sample_corpus(data, Vectors(), 20)
    assert sample.data.queries == data.queries[:5]
    assert sample.data.relevant.keys() == set(data.query_ids[:5])
    assert len(sample.data.documents) == 20


def test_the_seed_decides(data):
    one, same, other = (set(sample_corpus(data, Vectors(), 100, seed=s).data.document_ids) for s in (0, 0, 1))
    assert one == same != other


def test_a_small_sample_is_taken_if_it_says_as_much_as_the_whole(data):
    """A word of its own in each document, and no ranker gains by a sample; 20 documents leave queries out."""
    own_words = replace(
        data,
        documents=tuple(f"d{i} own{i} word" for i in range(360)),
        queries=tuple(f"{query} own{query[1:]}" for query in data.query_ids),
    )
    sample = trusted_sample(own_words, Vectors(), 60)
    assert (len(sample.data.documents), sample.data.queries, sample.error) == (60, own_words.queries, 0.0)
    assert trusted_sample(own_words, Vectors(), 20).data is own_words
    assert trusted_sample(data, Vectors(), 60).data is data, "its error is large"


def test_a_sample_of_a_large_corpus_that_says_little_is_made_larger(data, monkeypatch):
    monkeypatch.setattr(sampled_corpus, "FEWEST_DOCUMENTS", 200)
    sample = trusted_sample(data, Vectors(), 60)
    assert (len(sample.data.documents), sample.whole) == (200, 360)
    assert len(trusted_sample(data, Vectors(), 250).data.documents) == 250
