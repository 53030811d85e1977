"""Scores of vectors in two parts, by hand; and that what a store is given ranks alike."""

import numpy as np
import pytest

from cde_retriever.context.knowledge import Parts
from cde_retriever.errors import ConfigError
from cde_retriever.search.hybrid import inner_products, score, search, sparse_vectors, weigh
from cde_retriever.words.sparse import WIDTH, Sparse
from tests.tiny import documents, headed_encoder

QUERIES = Parts(np.array([[1, 0], [0, 1]], np.float32), Sparse.of_rows([{7: 0.5, WIDTH - 1: 1.0}, {}]).csr())
DOCUMENTS = Parts(
    np.array([[0.6, 0.8], [1, 0], [0, 1]], np.float32),
    Sparse.of_rows([{WIDTH - 1: 0.5}, {9: 3.0}, {7: 0.5, WIDTH - 1: 0.75}]).csr(),
)


def test_scores_by_hand():
    assert inner_products(QUERIES.sparse, DOCUMENTS.sparse).tolist() == [[0.5, 0, 1.0], [0, 0, 0]]
    assert score(QUERIES, DOCUMENTS) == pytest.approx(np.array([[1.1, 1.0, 1.0], [0.8, 0, 1.0]]))


def test_the_best_come_first_and_the_earlier_of_equal_ones():
    found = search(QUERIES, DOCUMENTS, 2)
    assert found.positions.tolist() == [[0, 1], [2, 0]]
    assert found.scores == pytest.approx(np.array([[1.1, 1.0], [1.0, 0.8]]))
    assert search(QUERIES, DOCUMENTS, 9).positions.shape == (2, 3)
    with pytest.raises(ValueError, match="count is 0, expected at least 1"):
        search(QUERIES, DOCUMENTS, 0)


def test_alpha_weighs_meaning_and_words_by_hand():
    assert weigh(QUERIES, None) is QUERIES
    for alpha, scores in (
        (0.0, [[1.0, 0, 2.0], [0, 0, 0]]),
        (0.25, [[0.3 + 0.75, 0.5, 1.5], [0.4, 0, 0.5]]),
        (0.5, [[1.1, 1.0, 1.0], [0.8, 0, 1.0]]),
        (1.0, [[1.2, 2.0, 0], [1.6, 0, 2.0]]),
    ):
        weighed = weigh(QUERIES, alpha)
        assert score(weighed, DOCUMENTS) == pytest.approx(np.array(scores))
        assert weighed.dense.dtype == weighed.sparse.dtype == np.float32
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"alpha is .*, expected from 0 \(words alone\) to 1"):
            weigh(QUERIES, wrong)


def test_rows_as_indices_and_values():
    rows = list(sparse_vectors(DOCUMENTS.sparse))
    assert rows[2] == ([7, WIDTH - 1], [0.5, 0.75])
    assert list(sparse_vectors(QUERIES.sparse))[1] == ([], [])


def test_parts_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="queries have 1 dense numbers and documents 2"):
        score(Parts(QUERIES.dense[:, :1], QUERIES.sparse), DOCUMENTS)
    with pytest.raises(ValueError, match="documents have 2 dense and 3 sparse vectors"):
        score(QUERIES, Parts(DOCUMENTS.dense[:2], DOCUMENTS.sparse))


def test_an_exact_word_is_found_where_vectors_do_not_tell():
    encoder = headed_encoder()
    texts = [*documents(40), "mitul zedor rare17"]
    encoder.fit_context(texts, context_size=16)
    made = encoder.encode_documents(texts, parts="both")
    asked = encoder.encode_queries(["rare17"], parts="both")
    assert search(asked, made, 1).positions.tolist() == [[40]]


def test_a_store_of_sparse_vectors_ranks_alike():
    qdrant = pytest.importorskip("qdrant_client")
    models = qdrant.models
    client = qdrant.QdrantClient(":memory:")
    client.create_collection("texts", vectors_config={}, sparse_vectors_config={"words": models.SparseVectorParams()})
    vectors = [models.SparseVector(indices=row.indices, values=row.values) for row in sparse_vectors(DOCUMENTS.sparse)]
    client.upsert("texts", [models.PointStruct(id=i, vector={"words": v}) for i, v in enumerate(vectors)])
    asked = next(sparse_vectors(QUERIES.sparse))
    query = models.SparseVector(indices=asked.indices, values=asked.values)
    points = client.query_points("texts", query=query, using="words", limit=3).points
    assert [(point.id, point.score) for point in points] == [(2, pytest.approx(1.0)), (0, pytest.approx(0.5))]
