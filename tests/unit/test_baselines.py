"""BM25 and the corpus adaptations of plain vectors."""

import numpy as np
import pytest

from cde_retriever.search.bm25 import WordSearch
from cde_train.evaluation.baselines import (
    ADAPTATIONS,
    all_but_the_top,
    centring,
    rank_bm25,
    rank_mixture,
    shrunk_whitening,
    soft_whitening,
    whitening,
)
from cde_train.evaluation.comparison import rank_plain
from cde_train.evaluation.results import PLAIN_MODES


def skewed(count=500, width=12, seed=0):
    """Return vectors of unequal variances, correlated, away from the origin."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, width)) * np.linspace(0.1, 2, width) @ rng.normal(size=(width, width)) + 3
    return vectors.astype(np.float32)


def projected_by(adaptation, vectors):
    """Map vectors as an adaptation does before it gives them unit length."""
    return (vectors.astype(np.float64) - adaptation.mean) @ adaptation.matrix


def covariance(vectors):
    return np.cov(vectors, rowvar=False, bias=True)


def test_bm25_finds_stems_and_ignores_stop_words():
    documents = ["The cat sleeps on a mat.", "Dogs were barking loudly.", "The of and is."]
    cats, dogs, nothing = rank_bm25(WordSearch(documents), ["sleeping cats", "does the dog bark", "the and of"])
    assert cats.tolist() == [0]
    assert dogs.tolist() == [1]
    assert nothing.tolist() == []


def test_bm25_prefers_the_rare_word():
    documents = ["common rare", "common words", "common words", "common things"]
    assert rank_bm25(WordSearch(documents), ["common rare"])[0].tolist() == [0, 1, 2, 3]


def test_the_mixture_adds_both_scaled_and_leaves_out_what_neither_finds():
    """Words find documents 0 and 1 (0 better, scaled 1 and 0), vectors all three: 0.4 · words + 0.6 · vectors."""
    documents = ["red apple", "red things of other kinds", "nothing"]
    vectors = np.array([[0.0, 1.0], [0.5, 0.0], [1.0, 0.0]], np.float32)  # cosines 0, 0.5, 1 to the query below
    (row,) = rank_mixture(WordSearch(documents), ["red apple"], (np.array([[1.0, 0.0]], np.float32), vectors))
    assert row.tolist() == [2, 0, 1]  # 0.6, 0.4, 0.3
    many = ["red apple", *["blank"] * 150]
    far = np.linspace(1, 0, 151, dtype=np.float32)[:, None] * [[1.0, 0.0]]
    (row,) = rank_mixture(WordSearch(many), ["apple"], (np.array([[1.0, 0.0]], np.float32), far.astype(np.float32)))
    assert row.tolist() == list(range(100)), "a hundred of each list, as the systems people use take"


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_adapted_vectors_have_unit_length(name):
    vectors = skewed()
    adapted = ADAPTATIONS[name](vectors)(vectors)
    assert adapted.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(adapted, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_documents_are_centred_before_they_are_normalised(name):
    vectors = skewed()
    np.testing.assert_allclose(projected_by(ADAPTATIONS[name](vectors), vectors).mean(axis=0), 0, atol=1e-5)


def test_centring_by_hand():
    adaptation = centring(np.array([[1, 0], [3, 0]], np.float32))
    np.testing.assert_allclose(adaptation(np.array([[2, 5], [5, 4]], np.float32)), [[0, 1], [0.6, 0.8]], atol=1e-7)


def test_whitened_documents_have_identity_covariance():
    vectors = skewed()
    np.testing.assert_allclose(covariance(projected_by(whitening(vectors), vectors)), np.eye(12), atol=1e-4)


def test_whitening_keeps_only_directions_the_documents_span():
    vectors = skewed(count=5)
    projected = projected_by(whitening(vectors), vectors)
    assert projected.shape == (5, 4)  # five points span four directions
    np.testing.assert_allclose(covariance(projected), np.eye(4), atol=1e-4)


def test_shrunk_whitening_keeps_every_direction():
    vectors = skewed(count=5)
    assert projected_by(shrunk_whitening(vectors), vectors).shape == (5, 12)


def test_shrunk_whitening_approaches_whitening_with_many_documents():
    vectors = skewed(count=50_000, width=4)
    np.testing.assert_allclose(covariance(projected_by(shrunk_whitening(vectors), vectors)), np.eye(4), atol=0.03)


def test_soft_whitening_halves_the_power():
    # variances 1 and 16 become 1 and 4, up to the shrinkage
    vectors = np.random.default_rng(0).normal(size=(100_000, 2)).astype(np.float32) * np.array([1, 4], np.float32)
    np.testing.assert_allclose(covariance(projected_by(soft_whitening(vectors), vectors)), [[1, 0], [0, 4]], atol=0.05)


def test_all_but_the_top_removes_a_planted_direction():
    rng = np.random.default_rng(0)
    direction = np.array([3, 4, 0, 0]) / 5
    vectors = rng.normal(size=(300, 4)) * 0.1 + rng.normal(size=(300, 1)) * 5 * direction
    projected = projected_by(all_but_the_top(vectors.astype(np.float32)), vectors)
    assert np.abs(projected @ direction).max() < 0.05 * np.abs(vectors @ direction).max()
    assert np.linalg.matrix_rank(projected, tol=1e-6) == 3


def test_all_but_the_top_removes_a_hundredth_of_the_width():
    vectors = np.random.default_rng(0).normal(size=(500, 384)).astype(np.float32)
    assert np.linalg.matrix_rank(all_but_the_top(vectors).matrix, tol=1e-6) == 380


@pytest.mark.parametrize("mode", PLAIN_MODES)
def test_queries_do_not_influence_the_fit(mode):
    """A query finds the same whatever queries are ranked beside it, and what a fit on the documents alone finds."""
    documents, others = skewed(count=40), 100 * skewed(count=40, seed=1)
    fitted = ADAPTATIONS[mode](documents) if mode != "plain" else lambda vectors: vectors
    query = skewed(count=41)[40:]
    expected = np.argsort(-(fitted(query) @ fitted(documents).T)[0])
    for queries in (query, np.concatenate([query, others])):
        np.testing.assert_array_equal(rank_plain(mode, queries, documents)[0], expected)


def test_a_vector_at_the_mean_stays_finite():
    adaptation = centring(np.array([[1, 0], [3, 0]], np.float32))
    np.testing.assert_array_equal(adaptation(np.array([[2, 0]], np.float32)), [[0, 0]])


def test_faulty_input_is_refused():
    with pytest.raises(ValueError, match=r"at least two document vectors, \(n, d\), received \(1, 3\)"):
        whitening(np.ones((1, 3), np.float32))
