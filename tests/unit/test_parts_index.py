"""An index of documents in two parts ranks as all of them scored by hand, whatever came, went and was saved."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cde_retriever.context.knowledge import Parts
from cde_retriever.errors import ConfigError, ContextFormatError, ContextMismatchError
from cde_retriever.search import parts_index, segment
from cde_retriever.search.hybrid import score
from cde_retriever.search.index_file import index_from_bytes, index_to_bytes, open_index, save_index
from cde_retriever.search.parts_index import PartsIndex
from cde_retriever.words.sparse import WIDTH, Sparse

QUERY = Parts(np.array([[1, 0]], np.float32), Sparse.of_rows([{7: 0.5, WIDTH - 1: 1.0}]).csr())
DOCUMENTS = Parts(
    np.array([[0.6, 0.8], [1, 0], [0, 1]], np.float32),
    Sparse.of_rows([{WIDTH - 1: 0.5}, {9: 3.0}, {7: 0.5, WIDTH - 1: 0.75}]).csr(),
)


def made(ids="abc", documents=DOCUMENTS):
    index = PartsIndex("one")
    index.add(list(ids), documents)
    return index


def drawn(seed, count):
    """Return random documents, of which many share places."""
    rng = np.random.default_rng(seed)
    places = np.array([0, 3, 7, 9, 2**31, WIDTH - 1])
    rows = [{int(p): float(rng.random()) for p in places[rng.random(6) < 0.4]} for _ in range(count)]
    return Parts(rng.normal(size=(count, 2)).astype(np.float32), Sparse.of_rows(rows).csr())


def taken(parts, rows):
    return Parts(parts.dense[rows], parts.sparse[rows])


def test_scores_by_hand_in_each_mode():
    index = made()
    assert index.search(QUERY, 3) == [("a", pytest.approx(1.1)), ("b", 1.0), ("c", pytest.approx(1.0))]
    assert index.search(QUERY, 2, mode="dense") == [("b", 1.0), ("a", pytest.approx(0.6))]
    assert index.search(QUERY, 3, mode="sparse") == [("c", 1.0), ("a", 0.5)]  # b shares no word with the query
    assert index.search(QUERY, 9, allowed={"c", "b", "x"}) == [("b", 1.0), ("c", 1.0)]
    assert index.search(QUERY, 9, allowed=[]) == []


def test_what_is_deleted_is_not_found_and_what_comes_again_is_replaced():
    index = made()
    index.delete(["a", "unknown"])
    assert [hit.id for hit in index.search(QUERY, 3)] == ["b", "c"]
    assert (len(index), "a" in index, index.ids) == (2, False, ["b", "c"])
    index.add(["b"], taken(DOCUMENTS, [2]))
    assert index.search(QUERY, 3, mode="dense") == [("c", 0), ("b", 0)]
    assert index.ids == ["c", "b"]


@pytest.mark.parametrize("text", ["hybrid", "dense", "sparse"])
def test_an_empty_index_finds_nothing(text, tmp_path):
    index = PartsIndex("one")
    assert index.search(QUERY, 5, mode=text) == []
    assert open_index(save_index(index, tmp_path), "one").search(QUERY, 5, mode=text) == []


def test_a_document_without_words_and_a_query_without_words():
    index = made("ab", Parts(DOCUMENTS.dense[:2], Sparse.of_rows([{}, {}]).csr()))
    assert [hit.id for hit in index.search(QUERY, 2)] == ["b", "a"]
    nothing = Parts(QUERY.dense, Sparse.of_rows([{}]).csr())
    assert made().search(nothing, 3, mode="sparse") == []
    assert made().search(nothing, 1) == [("b", 1.0)]


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "delete", "save"]), st.sets(st.integers(0, 30), max_size=12)), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(0, 99))
def test_any_sequence_ranks_as_all_documents_scored_anew(steps, seed):
    texts, query = drawn(seed, 31), drawn(seed + 1000, 1)
    largest, segment.LARGEST, parts_index.LARGEST = segment.LARGEST, 8, 8
    try:
        index, there = PartsIndex("one"), []
        for step, numbers in steps:
            ids = sorted(numbers)
            there = [name for name in there if step == "save" or name not in numbers]
            if step == "add":
                index.add([str(name) for name in ids], taken(texts, ids))
                there += ids
            elif step == "delete":
                index.delete([str(name) for name in ids])
            else:
                ids, segments = index.content()
                index = PartsIndex.of_content("one", ids, segments)
        assert index.ids == [str(name) for name in there]
        expected = score(query, taken(texts, there))[0] if there else np.zeros(0)
        order = np.argsort(-expected, kind="stable")[:5]
        found = index.search(query, 5)
        assert [hit.score for hit in found] == pytest.approx(expected[order].tolist(), abs=1e-6)
        assert {hit.id for hit in found} == {str(there[row]) for row in order}
    finally:
        segment.LARGEST = parts_index.LARGEST = largest


def test_single_documents_join_into_few_segments():
    index, texts = PartsIndex("one"), drawn(0, 100)
    for row in range(100):
        index.add([str(row)], taken(texts, [row]))
    assert len(index.content()[1]) <= 7
    query = drawn(1, 1)
    assert index.search(query, 100) == made([str(row) for row in range(100)], texts).search(query, 100)


def test_the_last_document_of_a_full_segment_has_its_own_number():
    count = segment.LARGEST + 1
    texts = Parts(
        np.zeros((count, 1), np.float32), Sparse.of_rows([{7: 1 + row / count} for row in range(count)]).csr()
    )
    index = made([str(row) for row in range(count)], texts)
    query = Parts(np.zeros((1, 1), np.float32), Sparse.of_rows([{7: 1.0}]).csr())
    assert [hit.id for hit in index.search(query, 2)] == [str(count - 1), str(count - 2)]
    assert [part.size for part in index.content()[1]] == [segment.LARGEST, 1]


def test_saved_and_opened(tmp_path):
    index = made(["a", "ü\ud800", ""])
    index.delete(["a"])
    save_index(index, tmp_path / "folder")
    opened = open_index(tmp_path / "folder", "one")
    assert opened.search(QUERY, 3) == [("ü\ud800", 1.0), ("", pytest.approx(1.0))]
    opened.add(["d"], taken(DOCUMENTS, [0]))
    assert opened.search(QUERY, 1) == [("d", pytest.approx(1.1))]


def test_another_context_and_damage_are_refused(tmp_path):
    file = save_index(made(), tmp_path)
    with pytest.raises(ContextMismatchError, match="was made under context one, not another"):
        open_index(tmp_path, "another")
    with pytest.raises(FileNotFoundError, match="no index at"):
        open_index(tmp_path / "elsewhere", "one")
    data = file.read_bytes()
    for damaged in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b"", data.replace(b'"sha256', b'"sha257')):
        file.write_bytes(damaged)
        with pytest.raises(ContextFormatError, match="restore it, or embed the documents again"):
            open_index(file, "one")
    file.write_bytes(data.replace(b'format_version\\": 1', b'format_version\\": 2'))
    with pytest.raises(ContextFormatError, match="has format 2, this version reads 1"):
        open_index(file, "one")


@pytest.mark.parametrize(
    "change",
    [
        {"documents": np.array([0, 0, 3, 2, 2], np.uint16)},
        {"documents": np.array([0, 2], np.uint16)},
        {"starts": np.array([0, 1, 2, 9], np.int64)},
        {"starts": np.array([1, 1, 2, 4], np.int64)},
        {"starts": np.array([0, 3, 2, 4], np.int64)},
        {"starts": np.array([0, 4], np.int64)},
        {"dense": np.zeros(3, np.float32)},
    ],
)
def test_a_file_with_numbers_out_of_range_is_refused(change):
    index = made()
    index._segments[0] = index._segments[0]._replace(**change)
    with pytest.raises(ContextFormatError, match="the arrays of segment 0 do not belong together"):
        index_from_bytes(index_to_bytes(index), "one")


def test_ids_that_do_not_fit_are_refused_when_opened():
    with pytest.raises(ValueError, match="2 ids, 2 of them distinct, do not fit the segments"):
        PartsIndex.of_content("one", ["a", "b"], made().content()[1])
    assert json.dumps(["a", "b", "c"]).encode() in index_to_bytes(made())


def test_arguments_that_cannot_be_meant_are_refused():
    index = made()
    with pytest.raises(ConfigError, match="mode is 'both', expected one of 'hybrid', 'dense', 'sparse'"):
        index.search(QUERY, 1, mode="both")
    with pytest.raises(ValueError, match="count is 0 for 1 queries"):
        index.search(QUERY, 0)
    with pytest.raises(ValueError, match="count is 1 for 3 queries"):
        index.search(DOCUMENTS, 1)
    with pytest.raises(ValueError, match="a vector has 1 dense numbers, those of the index have 2"):
        index.search(Parts(QUERY.dense[:, :1], QUERY.sparse), 1)
    with pytest.raises(ValueError, match="2 ids for 3 dense and 3 sparse vectors"):
        index.add(["d", "e"], DOCUMENTS)
    with pytest.raises(ValueError, match="an id is given twice among 3"):
        index.add(["d", "e", "d"], DOCUMENTS)
    assert index.ids == ["a", "b", "c"]
