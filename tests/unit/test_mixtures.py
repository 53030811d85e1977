"""Mixtures of BM25 and dense scores, against sums done by hand."""

import numpy as np
import pytest

from benchmarks.mixtures import MIXTURE_LABELS, MIXTURES, rank_mixture
from benchmarks.quality_table import select
from cde_retriever.search.mixture import mixed

WORDS = [np.array([0, 4, 2, 0], np.float32)]
QUERY = np.array([[1, 0]], np.float32)
DOCUMENTS = np.array([[0.9, 0], [0.1, 0], [0.5, 0], [0.7, 0]], np.float32)


def test_a_convex_mixture_scales_each_list_to_one():
    # words: documents 1 and 2 at 1 and 0; dense: 1, 0, 0.5, 0.75
    assert rank_mixture("convex_50", WORDS, QUERY, DOCUMENTS)[0].tolist() == [0, 1, 3, 2]
    assert rank_mixture("convex_30", WORDS, QUERY, DOCUMENTS)[0].tolist() == [0, 3, 2, 1]


def test_reciprocal_ranks_reward_both_lists():
    # document 2: second by words, third by vectors; document 1: first by words, last by vectors; 0 and 3: vectors alone
    sums = {0: 1 / 61, 1: 1 / 61 + 1 / 64, 2: 1 / 62 + 1 / 63, 3: 1 / 62}
    expected = sorted(sums, key=lambda number: -sums[number])
    assert rank_mixture("rrf", WORDS, QUERY, DOCUMENTS)[0].tolist() == expected


def test_a_query_without_words_ranks_by_vectors():
    nothing = [np.zeros(4, np.float32)]
    for mode in MIXTURES:
        assert rank_mixture(mode, nothing, QUERY, DOCUMENTS)[0].tolist() == [0, 3, 2, 1]


def test_equal_scores_scale_to_one_and_what_neither_list_has_is_not_found():
    same = np.full(4, 7, np.float32)
    assert mixed(np.array([0, 3, 3, 0], np.float32), same, 0.25).tolist() == [0.75, 1, 1, 0.75]
    by_words = np.r_[np.zeros(110), [1.0]].astype(np.float32)  # the last by vectors, beyond the 100 best
    scores = mixed(by_words, np.arange(111, 0, -1).astype(np.float32), 0.25)
    assert np.flatnonzero(np.isneginf(scores)).tolist() == list(range(100, 110))
    assert scores[[0, 99, 110]].tolist() == [0.75, 0, 0.25]


def test_the_best_mixture_of_a_set_is_the_one_with_the_highest_mean():
    shared = {"set": "a", "model": "first", "dtype": "float32", "first_stage": "first"}
    results = [
        {**shared, "mode": mode, "ndcg_at_10": 0.1 * place, "ndcg_per_query": [0.1 * place]}
        for place, mode in enumerate(["plain", *MIXTURE_LABELS])
    ]
    rows = select(results, None, "float32")
    assert rows["a"]["best_mixture"] == [results[-1]]
    assert rows["a"]["best_mixture"][0]["ndcg_at_10"] == pytest.approx(0.4)
