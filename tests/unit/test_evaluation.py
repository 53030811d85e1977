"""Reading retrieval sets, ranking and measuring."""

import gzip
import json
import math
import os

import numpy as np
import pytest
from scipy.sparse import csr_array

from cde_retriever.context.knowledge import Parts
from cde_retriever.search.best_first import best_first
from cde_train.data.retrieval_sets import RetrievalSet, find_retrieval_sets, read_retrieval_set
from cde_train.evaluation.ranking import evaluate, measure, rank, rank_parts
from tests.permissions import refuse

DOCUMENTS = [
    {"id": "d1", "title": "Cats", "text": "purr"},
    {"id": "d2", "title": "", "text": "dogs bark "},
    {"id": "d3", "title": "Fish", "text": ""},
]
QUERIES = [{"id": "q1", "text": "what purrs"}, {"id": "q2", "text": "what barks"}, {"id": "q3", "text": "nothing"}]


def write_lines(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text)


def write_set(folder, *, qrels=("q1 0 d1 2", "q1 0 d3 0", "q2 0 d2 1"), documents=DOCUMENTS, queries=QUERIES):
    write_lines(folder / "corpus.jsonl.gz", documents)
    write_lines(folder / "queries.jsonl.gz", queries)
    write_lines(folder / "qrels.tsv", qrels)
    return folder


def three_documents(relevant):
    return RetrievalSet("three", ("d1", "d2", "d3"), ("a", "b", "c"), ("q",), ("query",), {"q": relevant})


def test_reads_the_development_layout(tmp_path):
    data = read_retrieval_set(write_set(tmp_path / "pets"))
    assert data.name == "pets"
    assert data.document_ids == ("d1", "d2", "d3")
    assert data.documents == ("Cats purr", "dogs bark", "Fish")
    assert (data.query_ids, data.queries) == (("q1", "q2"), ("what purrs", "what barks"))
    assert data.relevant == {"q1": {"d1": 2}, "q2": {"d2": 1}}
    assert data.unknown_judgements == 0


def test_reads_a_beir_folder(tmp_path):
    for name, rows in (("corpus", DOCUMENTS), ("queries", QUERIES)):
        write_lines(tmp_path / f"{name}.jsonl", [{"_id": r["id"], **r, "metadata": {}} for r in rows])
    write_lines(tmp_path / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", "q2\td2\t1"])
    data = read_retrieval_set(tmp_path)
    assert data.relevant == {"q2": {"d2": 1}}


def test_tabs_separate_trec_fields_whose_ids_hold_spaces(tmp_path):
    documents = [{"id": "page 1", "text": "one"}]
    data = read_retrieval_set(write_set(tmp_path / "s", documents=documents, qrels=["q1\t0\tpage 1\t1"]))
    assert data.relevant == {"q1": {"page 1": 1}}


def test_unknown_ids_are_counted_and_said(tmp_path):
    folder = write_set(tmp_path / "pets", qrels=["q1 0 d1 1", "q1 0 gone 1", "nobody 0 d2 1"])
    with pytest.warns(UserWarning, match="pets: 2 judgements .* for example 'q1 gone'"):
        data = read_retrieval_set(folder)
    assert data.unknown_judgements == 2
    assert data.relevant == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"qrels": ["q1 d1 1"]}, r"qrels.tsv, line 1: .* received 'q1 d1 1'"),
        ({"qrels": ["q1 0 d1 high"]}, r"qrels.tsv, line 1"),
        ({"qrels": ["q1 0 d1 0"]}, r"no query with a relevant document \(3 queries\)"),
        ({"documents": [*DOCUMENTS, DOCUMENTS[0]]}, r"corpus.jsonl.gz, line 4: id 'd1' is there twice"),
        ({"documents": [{"id": "d1"}]}, r"corpus.jsonl.gz, line 1: expected id and text"),
        ({"queries": ["{broken"]}, r"queries.jsonl.gz, line 1"),
    ],
)
def test_bad_files_are_named(tmp_path, fault, message):
    with pytest.raises(ValueError, match=message):
        read_retrieval_set(write_set(tmp_path / "s", **fault))


@pytest.mark.parametrize(("missing", "message"), [("corpus.jsonl.gz", "corpus"), ("qrels.tsv", "no judgements")])
def test_missing_files_are_named(tmp_path, missing, message):
    folder = write_set(tmp_path / "s")
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        read_retrieval_set(folder)


def test_sets_are_found_in_alphabetical_order(tmp_path):
    for name in ("b", "a"):
        write_set(tmp_path / name)
    (tmp_path / "other").mkdir()
    assert [folder.name for folder in find_retrieval_sets(tmp_path)] == ["a", "b"]
    assert find_retrieval_sets(tmp_path / "a") == [tmp_path / "a"]
    with pytest.raises(FileNotFoundError, match="no retrieval set"):
        find_retrieval_sets(tmp_path / "other")


def test_a_set_whose_folder_cannot_be_listed_is_named_and_not_left_out(tmp_path, monkeypatch):
    for name in ("a", "shut"):
        write_set(tmp_path / name)
    refuse(monkeypatch, os, "listdir", lambda folder: folder.name == "shut")
    for place in (tmp_path, tmp_path / "shut"):
        with pytest.raises(PermissionError, match="shut"):
            find_retrieval_sets(place)


def test_best_breaks_ties_by_position():
    scores = np.array([1.0, 3.0, 2.0, 3.0, 2.0, 2.0])
    assert best_first(scores, 4).tolist() == [1, 3, 2, 4]
    assert best_first(scores, 6).tolist() == [1, 3, 2, 4, 5, 0]
    assert best_first(scores, 100).tolist() == [1, 3, 2, 4, 5, 0]


def test_best_equals_a_full_sort():
    scores = np.random.default_rng(0).integers(0, 9, 500).astype(float)
    assert best_first(scores, 100).tolist() == sorted(range(500), key=lambda i: (-scores[i], i))[:100]


def test_rank_is_by_inner_product_and_independent_of_chunks():
    rng = np.random.default_rng(0)
    queries, documents = rng.normal(size=(7, 4)).astype(np.float32), rng.normal(size=(20, 4)).astype(np.float32)
    whole = rank(queries, documents, depth=5)
    assert [row.tolist() for row in whole] == [row.tolist() for row in rank(queries, documents, depth=5, chunk=2)]
    assert whole[3].tolist() == np.argsort(-(documents @ queries[3]))[:5].tolist()


def test_two_parts_are_ranked_by_the_sum_of_their_inner_products():
    rng = np.random.default_rng(0)
    queries, documents = (
        Parts(rng.normal(size=(n, 4)).astype(np.float32), csr_array(rng.integers(0, 2, (n, 9)).astype(np.float32)))
        for n in (7, 20)
    )
    scores = queries.dense @ documents.dense.T + (queries.sparse @ documents.sparse.T).toarray()
    expected = np.argsort(-scores, axis=1)[:, :5].tolist()
    assert [row.tolist() for row in rank_parts(queries, documents, depth=5, chunk=2)] == expected


def test_rank_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match=r"\(1, 3\), \(2, 4\)"):
        rank(np.ones((1, 3), np.float32), np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="1 document vectors are not finite, the first is 1"):
        rank(np.ones((1, 2), np.float32), np.array([[1, 1], [np.nan, 1]], np.float32))
    one, broken = (Parts(np.array([row], np.float32), csr_array((1, 9), dtype=np.float32)) for row in ([1], [np.nan]))
    with pytest.raises(ValueError, match="1 query vectors are not finite, the first is 0"):
        rank_parts(broken, one)


def test_measures_by_hand():
    # ranked d3 (0), d2 (gain 1), d1 (gain 2):  DCG = 1/log2(3) + 2/log2(4),  ideal = 2/log2(2) + 1/log2(3)
    quality = measure(three_documents({"d1": 2, "d2": 1}), [np.array([2, 1, 0])])
    expected = (1 / math.log2(3) + 1) / (2 + 1 / math.log2(3))
    assert quality.ndcg_at_10 == pytest.approx([expected])
    assert quality.mrr_at_10 == pytest.approx([0.5])
    assert quality.recall_at_100 == pytest.approx([1.0])


def test_a_relevant_document_that_was_not_retrieved_lowers_recall():
    quality = measure(three_documents({"d1": 1, "d2": 1}), [np.array([1])])
    assert quality.recall_at_100 == pytest.approx([0.5])
    assert quality.ndcg_at_10 == pytest.approx([1 / (1 + 1 / math.log2(3))])


def test_an_empty_ranking_counts_zero():
    quality = measure(three_documents({"d1": 1}), [np.array([], np.int64)])
    assert quality.means() == {"ndcg_at_10": 0.0, "recall_at_100": 0.0, "mrr_at_10": 0.0}


def test_beyond_rank_ten_ndcg_and_mrr_are_zero():
    ids = tuple(f"d{i}" for i in range(12))
    data = RetrievalSet("twelve", ids, ids, ("q",), ("query",), {"q": {"d10": 1}})
    quality = measure(data, [np.arange(12)])
    assert (quality.ndcg_at_10[0], quality.mrr_at_10[0], quality.recall_at_100[0]) == (0.0, 0.0, 1.0)


def test_our_order_is_judged_not_the_libraries_tie_rule():
    # trec_eval would put d3 before d1 among equal scores; the ranking says d1 first
    documents = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    quality = evaluate(three_documents({"d1": 1}), np.array([[1, 0]], np.float32), documents)
    assert quality.mrr_at_10 == pytest.approx([1.0])


def test_one_ranking_a_query():
    with pytest.raises(ValueError, match="0 rankings for 1 queries of three"):
        measure(three_documents({"d1": 1}), [])


def test_a_document_with_the_querys_own_id_is_left_out_unless_it_is_judged():
    """The query's own text would take rank 1; 0.63 is what rank 2 is worth."""
    ids, texts = ("a", "b"), ("the claim", "the answer")
    data = RetrievalSet("self", ids, texts, ("a",), texts[:1], {"a": {"b": 1}})
    vectors = np.array([[1, 0], [0.8, 0.6]], np.float32)
    assert evaluate(data, vectors[:1], vectors).ndcg_at_10.tolist() == [1.0]
    judged = RetrievalSet("judged", ids, texts, ("a",), texts[:1], {"a": {"a": 1}})
    assert evaluate(judged, vectors[:1], vectors).ndcg_at_10.tolist() == [1.0]
    other = RetrievalSet("other", ids, texts, ("q",), texts[:1], {"q": {"b": 1}})
    assert evaluate(other, vectors[:1], vectors).ndcg_at_10[0] == pytest.approx(1 / np.log2(3))
    many = RetrievalSet("many", tuple(map(str, range(150))), ("x",) * 150, ("0",), ("x",), {"0": {"100": 1}})
    falling = np.stack([np.cos(np.arange(150) / 200), np.sin(np.arange(150) / 200)], axis=1).astype(np.float32)
    assert evaluate(many, falling[:1], falling).recall_at_100.tolist() == [1.0], "rank 101 becomes rank 100"
