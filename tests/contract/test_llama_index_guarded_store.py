"""Vector stores that take and return vectors of one context, whichever class of LlamaIndex holds them."""

import copy
import json
import pickle

import pytest
from llama_index.core import MockEmbedding, Settings, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from cde_retriever import ConfigError, ContextMismatchError, ContextNotFittedError
from cde_retriever.adapters.llama_index.guarded_store import GuardedStore
from cde_retriever.adapters.stamps import STAMP, StampedVector
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from tests.contract.llama_index_corpus import QUERY, chroma, corpus, ranking, text_nodes


def build(checkpoint, count: int = 12, seed: int = 0, store=None) -> CDEVectorStoreIndex:
    storage = StorageContext.from_defaults(vector_store=store)
    return CDEVectorStoreIndex.from_documents(
        corpus(count, seed), embed_model=CDEEmbedding(checkpoint), storage_context=storage
    )


def others(checkpoint) -> list:
    """Return embeddings of the same width that must get no answer: of another class, and of another context."""
    null = CDEEmbedding(checkpoint)
    null.use_null_context()
    return [MockEmbedding(embed_dim=32), null]


pytestmark = pytest.mark.filterwarnings("ignore:the vectors go to ChromaVectorStore")


@pytest.mark.parametrize("external", [False, True])
async def test_a_stock_retriever_with_another_embedding_is_refused(checkpoint, external) -> None:
    index = build(checkpoint, store=chroma() if external else None)
    own = index.embedding.context_fingerprint[:12]
    for other in others(checkpoint):
        for mode in ("default",) if external else ("default", "mmr", "svm"):
            retriever = VectorIndexRetriever(index, embed_model=other, vector_store_query_mode=mode)
            with pytest.raises(ContextMismatchError, match=f"under context {own}"):
                retriever.retrieve(QUERY)
            with pytest.raises(ContextMismatchError, match=f"under context {own}"):
                await retriever.aretrieve(QUERY)
        with pytest.raises(ContextMismatchError, match=f"under context {own}"):
            RetrieverQueryEngine.from_args(retriever, llm=MockLLM()).query(QUERY)
    stock = VectorIndexRetriever(index, embed_model=index.embedding, similarity_top_k=5)
    assert [(node.node_id, round(node.score, 5)) for node in stock.retrieve(QUERY)] == ranking(index)
    assert len(await stock.aretrieve(QUERY)) == 5


def test_stock_functions_open_an_index_as_ours_and_refuse_other_embeddings(checkpoint, tmp_path) -> None:
    index = build(checkpoint)
    index.storage_context.persist(tmp_path)
    mock, null = others(checkpoint)
    with pytest.raises(TypeError, match="embed_model is MockEmbedding"):
        load_index_from_storage(StorageContext.from_defaults(persist_dir=str(tmp_path)), embed_model=mock)
    with pytest.raises(ContextMismatchError, match=index.embedding.context_fingerprint[:12]):
        load_index_from_storage(StorageContext.from_defaults(persist_dir=str(tmp_path)), embed_model=null)
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path))
    opened = load_index_from_storage(storage, embed_model=CDEEmbedding.from_storage(storage, checkpoint))
    assert type(opened) is CDEVectorStoreIndex
    assert ranking(opened) == ranking(index)
    assert opened.index_struct.stamp == index.embedding.context_fingerprint
    stock = VectorStoreIndex(index_struct=opened.index_struct, storage_context=storage, embed_model=mock)
    with pytest.raises(ContextMismatchError, match="without a stamp"):
        stock.as_retriever().retrieve(QUERY)


def test_settings_changed_between_build_and_query_change_nothing(checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("cde_retriever.checkpoint.folder.DEFAULT_CHECKPOINT", checkpoint)
    monkeypatch.setattr(Settings, "_embed_model", CDEEmbedding())
    index = CDEVectorStoreIndex.from_documents(corpus(12))
    expected = ranking(index)
    index.storage_context.persist(tmp_path)
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(embed_dim=32))
    assert ranking(index) == expected
    assert ranking(load_index_from_storage(StorageContext.from_defaults(persist_dir=str(tmp_path)))) == expected


def test_the_same_store_object_answers_no_stock_index_of_another_embedding(checkpoint) -> None:
    store = chroma()
    index = build(checkpoint, store=store)
    for other in others(checkpoint):
        with pytest.raises(ContextMismatchError, match=index.embedding.context_fingerprint[:12]):
            VectorStoreIndex.from_vector_store(store, embed_model=other).as_retriever().retrieve(QUERY)
        with pytest.raises(ContextMismatchError, match=index.embedding.context_fingerprint[:12]):
            VectorStoreIndex.from_documents(
                corpus(12, 1), embed_model=other, storage_context=StorageContext.from_defaults(vector_store=store)
            )
    assert store.client.count() == 12


def test_vectors_written_behind_the_guard_are_met_when_found(checkpoint) -> None:
    store = chroma()
    index = build(checkpoint, store=store)
    foreign = TextNode(text="foreign", id_="foreign", embedding=index.embedding.get_query_embedding(QUERY))
    type(store).__mro__[2].add(store, [foreign])
    with pytest.raises(ContextMismatchError, match="node foreign was embedded under an unknown context"):
        VectorIndexRetriever(index, embed_model=index.embedding).retrieve(QUERY)


@pytest.mark.parametrize("other", ["another corpus", "stock class"])
def test_a_file_of_vectors_copied_from_another_index_is_refused(checkpoint, tmp_path, other) -> None:
    """Same number of vectors, same ids, another context."""
    for name, seed in (("one", 0), ("two", 1)):
        nodes = [TextNode(text=document.text, id_=f"n{i}") for i, document in enumerate(corpus(12, seed))]
        build_class = VectorStoreIndex if (name, other) == ("two", "stock class") else CDEVectorStoreIndex
        build_class(nodes, embed_model=CDEEmbedding(checkpoint)).storage_context.persist(tmp_path / name)
    file = "default__vector_store.json"
    (tmp_path / "one" / file).write_bytes((tmp_path / "two" / file).read_bytes())
    for open_index in (
        lambda: CDEVectorStoreIndex.from_storage(
            tmp_path / "one", CDEEmbedding.from_storage(tmp_path / "one", checkpoint)
        ),
        lambda: load_index_from_storage(
            StorageContext.from_defaults(persist_dir=str(tmp_path / "one")),
            embed_model=CDEEmbedding.from_storage(tmp_path / "one", checkpoint),
        ),
    ):
        with pytest.raises(ContextMismatchError, match="the vector of node n0 was embedded under"):
            open_index()


def test_every_vector_of_a_file_is_looked_at_and_its_width_too(checkpoint, tmp_path) -> None:
    index = build(checkpoint)
    index.storage_context.persist(tmp_path)
    file = tmp_path / "default__vector_store.json"
    content = json.loads(file.read_text())
    last = list(content["embedding_dict"])[-1]
    embedding = CDEEmbedding.from_storage(tmp_path, checkpoint)

    def refused(**changes) -> None:
        file.write_text(json.dumps(content | changes))
        with pytest.raises(ContextMismatchError, match=f"node {last} (was embedded under|has)"):
            CDEVectorStoreIndex.from_storage(tmp_path, embedding)

    refused(metadata_dict={**content["metadata_dict"], last: {**content["metadata_dict"][last], STAMP: "f" * 64}})
    refused(metadata_dict={key: value for key, value in content["metadata_dict"].items() if key != last})
    vector, undigested = content["embedding_dict"][last], {STAMP: index.embedding.context_fingerprint}
    refused(embedding_dict={**content["embedding_dict"], last: vector[:31]})
    refused(embedding_dict={**content["embedding_dict"], last: [-vector[0], *vector[1:]]})
    refused(
        embedding_dict={**content["embedding_dict"], last: vector[:31]},
        metadata_dict={**content["metadata_dict"], last: undigested},  # as version 0.1.0 wrote it
    )
    file.write_text(json.dumps(content))
    assert len(ranking(CDEVectorStoreIndex.from_storage(tmp_path, embedding))) == 5


def test_a_guarded_store_takes_vectors_of_its_context_only(checkpoint) -> None:
    index = build(checkpoint)
    store = index.vector_store
    _, null = others(checkpoint)
    unstamped = TextNode(text="x", embedding=index.embedding.get_text_embedding("x"))
    for node in (unstamped, *null(text_nodes(2))):
        with pytest.raises(ContextMismatchError, match="add nodes through CDEVectorStoreIndex"):
            store.add([node])
    own = index.embedding(text_nodes(2))
    assert store.add(own) == ["n0-0", "n0-1"]
    assert store.data.metadata_dict["n0-0"][STAMP] == index.embedding.context_fingerprint


@pytest.mark.parametrize("external", [False, True])
def test_nodes_of_ours_embedded_anew_by_others_are_refused(checkpoint, tmp_path, external) -> None:
    """Their metadata still say what the vector was made by that they had before."""
    index = build(checkpoint, store=chroma() if external else None)
    nodes = [found.node for found in index.as_retriever(similarity_top_k=12).retrieve(QUERY)]
    assert {node.metadata[STAMP] for node in nodes} == {index.embedding.context_fingerprint}
    mock = MockEmbedding(embed_dim=32)
    with pytest.raises(ContextMismatchError, match="another vector than the one that was stamped"):
        VectorStoreIndex(nodes, embed_model=mock, storage_context=index.storage_context)
    with pytest.raises(ContextMismatchError, match="another vector than the one that was stamped"):
        index.insert_nodes(mock([node.model_copy() for node in nodes]))
    VectorStoreIndex(nodes, embed_model=mock).storage_context.persist(tmp_path)
    with pytest.raises(ContextMismatchError, match="another vector than the one that was stamped"):
        CDEVectorStoreIndex.from_storage(tmp_path, index.embedding)
    assert len(ranking(CDEVectorStoreIndex(nodes, embed_model=CDEEmbedding(checkpoint)))) == 5


def test_a_query_without_a_vector_is_no_matter_of_contexts(checkpoint) -> None:
    store = build(checkpoint, store=chroma()).vector_store
    with pytest.raises(ContextMismatchError, match="without a stamp"):
        store.query(VectorStoreQuery(query_embedding=[1.0] * 32))
    found = store.query(VectorStoreQuery(query_str="baron", mode=VectorStoreQueryMode.TEXT_SEARCH)).nodes
    assert len(found) == 1


def test_copies_of_a_guarded_store_are_guarded(checkpoint) -> None:
    store = build(checkpoint).vector_store
    for duplicate in (copy.deepcopy(store), pickle.loads(pickle.dumps(store)), store.model_copy()):
        assert isinstance(duplicate, GuardedStore)
        assert duplicate.data.embedding_dict == store.data.embedding_dict
        with pytest.raises(ContextMismatchError, match="without a stamp"):
            duplicate.query(VectorStoreQuery(query_embedding=[1.0] * 32))


def test_an_emptied_store_may_serve_another_context(checkpoint) -> None:
    store = chroma()
    first = build(checkpoint, store=store)
    with pytest.raises(ContextNotFittedError, match=first.embedding.context_fingerprint[:12]):
        build(checkpoint, seed=1, store=store)
    store.clear()
    second = build(checkpoint, seed=1, store=store)
    assert second.embedding.context_fingerprint != first.embedding.context_fingerprint
    assert len(ranking(second)) == 5
    with pytest.raises(ContextMismatchError, match=second.embedding.context_fingerprint[:12]):
        first.as_retriever().retrieve(QUERY)


def test_stamped_vectors_are_lists_and_their_copies_keep_the_stamp(checkpoint) -> None:
    embedding = CDEEmbedding(checkpoint)
    embedding.fit([document.text for document in corpus(12)])
    vectors = [
        embedding.get_query_embedding(QUERY),
        embedding.get_agg_embedding_from_queries([QUERY, "misim"]),
        *embedding.get_text_embedding_batch(["a", "b"]),
    ]
    for vector in vectors:
        assert isinstance(vector, StampedVector)
        for duplicate in (vector, copy.copy(vector), copy.deepcopy(vector), pickle.loads(pickle.dumps(vector))):
            assert duplicate.stamp == embedding.context_fingerprint
            assert duplicate == list(vector)
    assert json.loads(json.dumps(vectors[0])) == list(vectors[0])


@pytest.mark.parametrize("name", ["model_name", "revision", "device", "dtype", "backend", "truncate_dim"])
def test_what_decides_the_vectors_stays_as_it_was_made(checkpoint, name) -> None:
    embedding = CDEEmbedding(checkpoint)
    value = {"backend": "onnx", "truncate_dim": 16}.get(name, "other")
    before = getattr(embedding, name)
    with pytest.raises(ConfigError, match=f"{name} cannot be set to {value!r}"):
        setattr(embedding, name, value)
    with pytest.raises(ConfigError, match=f"{name} cannot be set to {value!r}"):
        embedding.model_copy(update={name: value})
    assert getattr(embedding, name) == before
    setattr(embedding, name, before)
    embedding.embed_batch_size = 7
    assert embedding.model_copy(update={"embed_batch_size": 9}).embed_batch_size == 9


@pytest.mark.parametrize("documents", [corpus(1), corpus(1) * 4], ids=["one", "copies of one"])
def test_one_document_is_a_corpus_when_it_is_all_there_is(checkpoint, documents) -> None:
    index = CDEVectorStoreIndex.from_documents(documents, embed_model=CDEEmbedding(checkpoint))
    assert index.embedding.context.size == 1
    assert index.as_retriever().retrieve(QUERY)[0].node.ref_doc_id == documents[0].id_
