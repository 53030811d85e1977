"""Ways to choose a context's documents."""

import dataclasses
import json
import re

import numpy as np
import pytest
from langchain_core.documents import Document as LangChainDocument
from llama_index.core import Document
from llama_index.core.schema import TextNode

from benchmarks import selection as benchmark
from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.index import CDEVectorStoreIndex
from cde_retriever.context.context import Context
from cde_retriever.context.sampling import Choice, sample_documents
from cde_retriever.context.selection import SELECTIONS, choose, cluster_centres, far_apart, kinds_of, sample_kinds
from cde_retriever.errors import ConfigError, ContextError, ContextMismatchError
from tests.tiny import documents, headed_encoder, tiny_encoder
from tests.unit.test_quality import write_sets


def circle(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_centres_stand_for_the_groups_there_are():
    """Three groups on a circle; each gives its middle, although all first centres are of one group."""
    vectors = circle(0, 2, 4, 119, 120, 121, 239, 240, 241)
    assert cluster_centres(vectors, 3).tolist() == [1, 4, 7]


def test_equal_vectors_give_as_many_rows_as_asked():
    assert cluster_centres(circle(*[7] * 6), 4).tolist() == [0, 1, 2, 3]
    assert sorted(set(far_apart(circle(*[7] * 6), 4).tolist())) == far_apart(circle(*[7] * 6), 4).tolist()


def test_each_is_farthest_from_those_before():
    vectors = circle(0, 10, 20, 30, 40, 90, 190)
    assert far_apart(vectors, 1).tolist() == [3], "nearest to the mean"
    assert far_apart(vectors, 2).tolist() == [3, 6]
    assert far_apart(vectors, 3).tolist() == [3, 5, 6]


def test_vectors_are_asked_of_four_times_as_many_documents_once():
    corpus, asked = documents(300), []

    def embed(texts):
        asked.append(texts)
        return np.eye(len(texts), dtype=np.float32)

    for selection in ("kmeans", "k-center"):
        sample, vectors = choose(iter(corpus), Choice(3, 10, selection), None, embed)
        assert asked.pop() == sample_documents(corpus, 40, 3).texts
        assert (len(set(sample.texts)), sample.documents_seen, sample.choice) == (10, 300, Choice(3, 10, selection))
        assert vectors.argmax(axis=1).tolist() == [
            sample_documents(corpus, 40, 3).texts.index(text) for text in sample.texts
        ]
    assert choose(corpus, Choice(3, 10), None, embed).sample == sample_documents(corpus, 10, 3)
    assert asked == []
    assert len(choose(corpus[:6], Choice(3, 10, "kmeans"), None, embed).sample.texts) == 6


def test_kinds_give_their_share_and_one_at_least():
    corpus = [f"a {i}" for i in range(600)] + [f"b {i}" for i in range(300)] + ["c", "c", " "]
    kinds = [text[0] for text in corpus]
    sample = sample_kinds(corpus, kinds, 20, 5)
    found = [text[0] for text in sample.texts]
    assert {kind: found.count(kind) for kind in "abc"} == {"a": 12, "b": 7, "c": 1}
    assert sample.documents_seen == 903
    order = np.random.default_rng(0).permutation(903)
    again = sample_kinds([corpus[i] for i in order], (kinds[i] for i in order), 20, 5)
    assert again.texts == sample.texts
    assert sample_kinds(corpus, kinds, 20, 6).texts != sample.texts


def test_a_kind_that_is_none_is_the_kind_of_those_that_do_not_say_theirs():
    assert kinds_of([{"kind": None}, {}, {"kind": 0}, {"kind": "None"}], "kind") == ["", "", "0", "None"]
    with pytest.raises(ConfigError, match="none of the 2 documents has the field 'kind'"):
        kinds_of([{"kind": None}, {}], "kind")


def test_kinds_of_few_distinct_texts_leave_their_room_to_others():
    corpus = ["same"] * 50 + [f"b {i}" for i in range(50)]
    sample = sample_kinds(corpus, ["a"] * 50 + ["b"] * 50, 10, 0)
    assert len(set(sample.texts)) == 10
    assert "same" in sample.texts


def test_useless_kinds_and_unknown_selections_are_refused():
    def refused(match, selection, kinds, corpus=("a", "b", "c"), error=ConfigError):
        with pytest.raises(error, match=match):
            choose(corpus, Choice(0, 2, selection), kinds, lambda _: pytest.fail("embedded"))

    refused("selection is 'best', expected one of 'random', ", "best", None)
    refused("'stratified' needs to know each document's kind", "stratified", None)
    refused("'kmeans' reads no kinds", "kmeans", ["x", "y", "x"])
    refused("more than 2 kinds .the last is 'z'", "stratified", ["x", "y", "z"])
    refused("none of the 3 documents has the field", "stratified", ["", "", ""])
    refused("only 2 kinds, fewer than the others", "stratified", ["x", "y"])
    refused("none of the 1 documents has any text", "stratified", ["x"], [" "], ContextError)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_context_says_how_it_was_chosen_and_only_the_texts_make_its_fingerprint(selection, tmp_path):
    encoder = tiny_encoder()
    kinds = ["x", "y"] * 60 if selection == "stratified" else None
    context = encoder.fit_context(documents(120), context_size=6, seed=2, selection=selection, kinds=kinds)
    again = tiny_encoder().fit_context(documents(120), context_size=6, seed=2, selection=selection, kinds=kinds)
    assert context.fingerprint == again.fingerprint
    assert (context.selection, context.size, context.seed) == (selection, 6, 2)
    stored = Context.load(context.save(tmp_path))
    assert stored.choice == context.choice == Choice(2, 6, selection)
    np.testing.assert_array_equal(stored.vectors, context.vectors)
    np.testing.assert_allclose(context.vectors, tiny_encoder().list_context(context.texts).vectors, atol=1e-5)
    assert dataclasses.replace(context, choice=Choice()).fingerprint == context.fingerprint
    assert (b"selection" in context.to_bytes()) == (selection != "random"), "random contexts are stored as ever"


def test_a_context_without_vectors_cannot_be_chosen_by_them():
    encoder = tiny_encoder(context_attention="late", context_moments=False, share_backbone=True, term_statistics=True)
    with pytest.raises(ConfigError, match="selection is 'kmeans', which compares vectors"):
        encoder.fit_context(documents(99), selection="kmeans")


def test_the_benchmark_compares_at_equal_size(tmp_path, monkeypatch):
    head = headed_encoder()
    folder, sets, output = head.save_pretrained(tmp_path / "model"), write_sets(tmp_path / "sets"), tmp_path / "s.json"
    monkeypatch.setattr(benchmark, "MERGED", ("a", "b"))
    shared = ["--cache", str(tmp_path / "cache"), "--dtype", "float32", "--output", str(output)]
    benchmark.main([str(folder), str(sets), "--sizes", "3", "--seeds", "0", "1", *shared])
    results = json.loads(output.read_text())["results"]
    chosen = {(row["set"], row["selection"]) for row in results}
    assert {name for name, selection in chosen if selection == "stratified"} == {"merged"}
    assert {name for name, selection in chosen if selection == "k-center"} > {"a", "b", "merged"}
    of = [row["ndcg_at_10"] for row in results if row["set"] == "merged" and row["selection"] == "kmeans"]
    page = output.with_suffix(".md").read_text()
    assert len(of) == 4, "two seeds, two forms"
    assert f"| kmeans | {100 * (of[0] + of[2]) / 2:.2f} ± {100 * abs(of[0] - of[2]) / 2**0.5:.2f} |" in page


# Adapters


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_encoder().save_pretrained(tmp_path_factory.mktemp("tiny"))


CORPUS = [*((text, "rare") for text in documents(3, seed=1)), *((text, "usual") for text in documents(200, seed=2))]


def rare(context):
    return len({*context.texts} & {text for text, kind in CORPUS if kind == "rare"})


def test_llama_index_takes_kinds_from_metadata(checkpoint):
    how = {"device": "cpu", "context_size": 5, "selection": "stratified", "kind_field": "source"}
    nodes = [
        TextNode(text=text, metadata={"source": kind}, excluded_embed_metadata_keys=["source"]) for text, kind in CORPUS
    ]
    index = CDEVectorStoreIndex(nodes, embed_model=CDEEmbedding(checkpoint, **how))
    assert (rare(index.embedding.context), index.embedding.context.selection) == (1, "stratified")
    embedding = CDEEmbedding(checkpoint, **how)
    embedding(nodes)
    assert embedding.context_fingerprint == index.embedding.context_fingerprint
    embedding.fit([text for text, _ in CORPUS], kinds=[kind for _, kind in CORPUS])
    with pytest.raises(ConfigError, match="none of the 1 documents has the field"):
        CDEVectorStoreIndex.from_documents([Document(text="a")], embed_model=CDEEmbedding(checkpoint, **how))


def test_langchain_takes_kinds_from_metadata_in_one_pass(checkpoint):
    how = {"device": "cpu", "context_size": 5, "selection": "stratified", "kind_field": "source"}
    corpus = [LangChainDocument(page_content=text, metadata={"source": kind}) for text, kind in CORPUS]
    context = CDEEmbeddings(model_name=checkpoint, **how).fit(iter(corpus))
    assert (rare(context), context.selection) == (1, "stratified")
    with pytest.raises(ConfigError, match="selection 'stratified' needs"):
        CDEEmbeddings(model_name=checkpoint, selection="stratified").fit(corpus)


def test_a_second_fit_compares_what_the_same_selection_gives(checkpoint):
    embedding = CDEEmbeddings(model_name=checkpoint, selection="kmeans", context_size=4)
    context = embedding.fit(documents(50))
    assert embedding.fit(documents(50)) is context
    with pytest.raises(ContextMismatchError, match=re.escape(context.fingerprint[:12])):
        embedding.fit(documents(50, seed=1))
