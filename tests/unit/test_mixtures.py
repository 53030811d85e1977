"""Mixtures of BM25 and dense scores, against sums done by hand."""

import numpy as np
import pytest

from benchmarks.mixtures import MIXTURE_LABELS, MIXTURES, rank_mixture, scaled
from benchmarks.quality_table import select

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


def test_equal_scores_scale_to_one():
    assert scaled(np.full(3, 7, np.float32)).tolist() == [1, 1, 1]
    assert scaled(np.zeros(0, np.float32)).tolist() == []


def test_the_best_mixture_of_a_set_is_the_one_with_the_highest_mean():
    shared = {"set": "a", "model": "first", "dtype": "float32", "first_stage": "first"}
    results = [
        {**shared, "mode": mode, "ndcg_at_10": 0.1 * place, "ndcg_per_query": [0.1 * place]}
        for place, mode in enumerate(["plain", *MIXTURE_LABELS])
    ]
    rows = select(results, None, "float32")
    assert rows["a"]["best_mixture"] == [results[-1]]
    assert rows["a"]["best_mixture"][0]["ndcg_at_10"] == pytest.approx(0.4)
