"""The guards of LlamaIndex with vectors and stamps made by hand: each door, one refusal and one answer."""

import copy
import pickle
import re

import numpy as np
import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery, VectorStoreQueryResult
from pydantic import PrivateAttr

from cde_retriever import ConfigError, ContextMismatchError
from cde_retriever.adapters.llama_index.guard import CDEContextGuard, CDERetriever
from cde_retriever.adapters.llama_index.guarded_store import (
    GuardedStore,
    check_stored,
    guard_store,
    is_empty,
    stored_stamps,
)
from cde_retriever.adapters.stamps import DIGEST, STAMP, StampedVector, digest_of
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from tests.contract.llama_index_corpus import QUERY, chroma, corpus

OWN, OTHER = "a" * 64, "b" * 64


def node(name, stamp=OWN, vector=(1.0, 0.0)):
    metadata = {} if stamp is None else {STAMP: stamp, DIGEST: digest_of(vector)}
    return TextNode(text=name, id_=name, metadata=metadata, embedding=list(vector))


def asked(vector=(1.0, 0.0), stamp=OWN):
    return VectorStoreQuery(query_embedding=StampedVector(vector, stamp), similarity_top_k=5)


class NodeStore(BasePydanticVectorStore):
    """Keeps whole nodes, as most stores do, in memory."""

    stores_text: bool = True
    _nodes: dict[str, TextNode] = PrivateAttr(default_factory=dict)

    @property
    def client(self):
        return self._nodes

    def add(self, nodes, **_):
        self._nodes |= {node.node_id: node for node in nodes}
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id, **_):
        raise NotImplementedError

    def delete_nodes(self, node_ids=None, **_):
        for node_id in node_ids:
            del self._nodes[node_id]

    def query(self, query, **_):
        def score(node):
            return float(np.dot(node.embedding, query.query_embedding))

        best = sorted(self._nodes.values(), key=score, reverse=True)[: query.similarity_top_k]
        return VectorStoreQueryResult(
            nodes=best, ids=[node.node_id for node in best], similarities=[score(node) for node in best]
        )


@pytest.fixture(params=[SimpleVectorStore, NodeStore, chroma])
def store(request):
    return request.param()


def test_a_guarded_store_is_of_its_own_class_and_answers_its_own(store):
    plain = type(store)
    guard_store(store, OWN, 2)
    assert isinstance(store, plain)
    assert isinstance(store, GuardedStore)
    assert (type(store).__name__, type(store).__module__) == (plain.__name__, plain.__module__)
    assert is_empty(store, 2)
    assert store.add([node("one"), node("two", vector=(0.0, 1.0))]) == ["one", "two"]
    assert not is_empty(store, 2)
    assert stored_stamps(store, 2) == {OWN}
    assert store.query(asked()).ids == ["one", "two"]
    check_stored(store, OWN, 2)


async def test_the_asynchronous_doors_are_the_same(store):
    guard_store(store, OWN, 2)
    assert await store.async_add([node("one")]) == ["one"]
    assert (await store.aquery(asked())).ids == ["one"]
    with pytest.raises(ContextMismatchError, match="node two was embedded under context bbbbbbbbbbbb, and"):
        await store.async_add([node("two", OTHER)])
    with pytest.raises(ContextMismatchError, match="in use has context bbbbbbbbbbbb"):
        await store.aquery(asked(stamp=OTHER))


def test_what_is_added_bears_the_stamp_and_the_vector_that_was_stamped(store):
    guard_store(store, OWN, 2)
    name = type(store).__name__
    for wrong, told in ((OTHER, "context bbbbbbbbbbbb"), (None, "an unknown context")):
        message = rf"^node one was embedded under {told}.*, and {name} holds vectors of context aaaaaaaaaaaa; add nodes"
        with pytest.raises(ContextMismatchError, match=message):
            store.add([node("zero"), node("one", wrong)])
    changed = node("one")
    changed.embedding = [0.0, 1.0]
    with pytest.raises(ContextMismatchError, match=r"node one .*another vector than the one that was stamped"):
        store.add([changed])
    assert is_empty(store, 2), "nothing of a refused list is stored"


def test_what_asks_bears_the_stamp(store):
    guard_store(store, OWN, 2)
    store.add([node("one")])
    for query in (asked(stamp=OTHER), VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=5)):
        message = (
            f"what {type(store).__name__} holds was embedded under context aaaaaaaaaaaa, the embedding in use has "
        )
        with pytest.raises(ContextMismatchError, match=message):
            store.query(query)


def test_what_is_found_bears_the_stamp(store):
    guard_store(store, OWN, 2)
    store.add([node("one")])
    type(store).__mro__[2].add(store, [node("two", OTHER)])
    with pytest.raises(ContextMismatchError, match="two was embedded under context bbbbbbbbbbbb"):
        store.query(asked())


def test_guarding_again_changes_nothing_and_under_another_stamp_needs_an_empty_store(store):
    guard_store(store, OWN, 2)
    guarded = type(store)
    guard_store(store, OWN, 2)
    assert type(store) is guarded
    store.add([node("one")])
    message = f"what {type(store).__name__} holds was embedded under context aaaa.* in use has context bbbb"
    with pytest.raises(ContextMismatchError, match=message):
        guard_store(store, OTHER, 2)
    assert type(store) is guarded
    store.delete_nodes(["one"])
    guard_store(store, OTHER, 2)
    assert store.add([node("two", OTHER)]) == ["two"]
    assert type(store).__mro__[2] is guarded.__mro__[2], "guarded once, not twice"


@pytest.mark.parametrize("stamp", [OTHER, None])
def test_a_store_that_holds_other_vectors_stays_unguarded(store, stamp):
    store.add([node("one"), node("two", stamp)])
    plain = type(store)
    with pytest.raises(ContextMismatchError, match="node two was embedded under"):
        guard_store(store, OWN, 2)
    assert type(store) is plain


def test_every_vector_in_memory_is_compared_in_stamp_digest_and_width():
    store = SimpleVectorStore()
    store.add([node("one"), node("two")])
    check_stored(store, OWN, 2)
    with pytest.raises(
        ContextMismatchError, match="node one has 2 numbers, those of context aaaaaaaaaaaa have 3; rest"
    ):
        check_stored(store, OWN, 3)
    store.data.embedding_dict["two"] = [0.0, 1.0]
    with pytest.raises(ContextMismatchError, match=r"node two .*another vector than the one that was stamped"):
        check_stored(store, OWN, 2)
    store.data.metadata_dict = {}
    with pytest.raises(ContextMismatchError, match="vector of node one was embedded under an unknown context"):
        check_stored(store, OWN, 2)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda store: pickle.loads(pickle.dumps(store))])
def test_a_copy_of_a_guarded_store_keeps_its_stamp(copied):
    store = SimpleVectorStore()
    guard_store(store, OWN, 2)
    store.add([node("one")])
    twin = copied(store)
    assert twin is not store
    assert twin.query(asked()).ids == ["one"]
    for stamp in (OTHER, None):
        with pytest.raises(ContextMismatchError, match="holds was embedded under context aaaaaaaaaaaa"):
            twin.query(asked(stamp=stamp))


# The postprocessor and the retriever


@pytest.fixture(scope="module")
def index(checkpoint):
    return CDEVectorStoreIndex.from_documents(corpus(6), embed_model=CDEEmbedding(checkpoint))


def test_a_query_s_vector_may_differ_by_rounding_alone(index):
    guard = CDEContextGuard(embed_model=index.embedding)
    vector, found = index.embedding.get_query_embedding(QUERY), [NodeWithScore(node=node("x", index.embedding.stamp))]

    def checked(embedding):
        return guard.postprocess_nodes(found, query_bundle=QueryBundle(QUERY, embedding=embedding))

    assert checked(None) == checked(vector) == checked(list(vector)) == found
    assert checked([number + 5e-5 for number in vector]) == found
    message = (
        f"^the query '{QUERY}' brings a vector that context {index.embedding.context_fingerprint[:12]} does not give; "
        "pass each retriever a QueryBundle of its own, without an embedding$"
    )
    for other in ([number + 5e-4 for number in vector], vector[:-1], [*vector, 0.0]):
        with pytest.raises(ContextMismatchError, match=message):
            checked(list(other))
    said = QueryBundle("", custom_embedding_strs=[], embedding=vector)
    assert guard.postprocess_nodes(found, query_bundle=said) == found, "its vector says what made it"
    with pytest.raises(ContextMismatchError, match="brings a vector that"):
        guard.postprocess_nodes(found, query_bundle=QueryBundle("", custom_embedding_strs=[], embedding=list(vector)))
    assert guard.postprocess_nodes(found) == found
    with pytest.raises(ContextMismatchError, match="x was embedded under context aaaaaaaaaaaa"):
        guard.postprocess_nodes([NodeWithScore(node=node("x"))])
    assert guard.class_name() == "CDEContextGuard"


async def test_a_retriever_embeds_the_text_whatever_vector_comes_with_it(index):
    retriever = CDERetriever(index, similarity_top_k=3)
    expected = [found.node_id for found in retriever.retrieve(QUERY)]
    assert len(expected) == 3
    wrong = QueryBundle(QUERY, embedding=[1.0] * 32)
    assert [found.node_id for found in retriever.retrieve(wrong)] == expected
    wrong = QueryBundle(QUERY, embedding=[1.0] * 32)
    assert [found.node_id for found in await retriever.aretrieve(wrong)] == expected
    for text_free in (
        QueryBundle("", embedding=[1.0] * 32),
        QueryBundle("", custom_embedding_strs=[], embedding=[1.0]),
    ):
        with pytest.raises(
            ContextMismatchError, match=r"^the query is a vector without text, so its context is unknown"
        ):
            retriever.retrieve(text_free)
        with pytest.raises(ContextMismatchError, match=r"is unknown; pass the text and it is embedded here$"):
            await retriever.aretrieve(text_free)


def test_an_index_of_one_vector_a_node_is_asked_by_vectors_alone(index):
    ids = [found.node_id for found in CDERetriever(index, similarity_top_k=3).retrieve(QUERY)]
    assert [found.node_id for found in CDERetriever(index, "dense", similarity_top_k=3).retrieve(QUERY)] == ids
    with pytest.raises(ConfigError, match=r"^mode is 'exact', expected one of 'hybrid', 'dense', 'sparse'$"):
        CDERetriever(index, "exact")
    for mode in ("hybrid", "sparse"):
        message = (
            f"mode is '{mode}', but the index holds one vector a node; build it anew with a model that has a corpus "
            "head and parts='both' (docs/llama_index.md), or, if it has both, open it with its context_dir"
        )
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            CDERetriever(index, mode)


def test_a_retriever_takes_our_embedding_alone(index):
    from llama_index.core import MockEmbedding

    message = "^embed_model is MockEmbedding, expected a CDEEmbedding, which knows its context; use the stock Vector"
    with pytest.raises(TypeError, match=message):
        CDERetriever(index, embed_model=MockEmbedding(embed_dim=32))
