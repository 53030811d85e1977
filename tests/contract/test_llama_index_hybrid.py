"""Indexes in two parts rank as the encoder does, whatever came and went, in memory, on the disk and in Qdrant."""

import shutil

import pytest
import qdrant_client
from llama_index.core import (
    Document,
    MockEmbedding,
    StorageContext,
    SummaryIndex,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.schema import QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from llama_index.vector_stores.qdrant import QdrantVectorStore

from cde_retriever.adapters.llama_index.storage import embedded_text
from cde_retriever.errors import ConfigError, ContextFormatError, ContextMismatchError, ContextNotFittedError
from cde_retriever.llama_index import CDEEmbedding, CDERetriever, CDEVectorStoreIndex, sparse_functions
from cde_retriever.search.hybrid import inner_products, score
from tests.contract.llama_index_corpus import chroma, corpus
from tests.tiny import headed_encoder

QUERY = "baron kolak 3"
MODES = ("hybrid", "dense", "sparse")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    encoder = headed_encoder()
    return encoder.save_pretrained(tmp_path_factory.mktemp("model") / "head")


@pytest.fixture
def index(model):
    return CDEVectorStoreIndex.from_documents(corpus(40), embed_model=CDEEmbedding(model))


def expected(index, nodes, mode, query=QUERY, count=5):
    """Return ids and scores of the best nodes, of vectors made anew."""
    encoder = index.embedding.encoder
    asked = encoder.encode_queries([query], parts="both")
    made = encoder.encode_documents([embedded_text(node) for node in nodes], parts="both")
    by_mode = {
        "hybrid": score(asked, made),
        "dense": asked.dense @ made.dense.T,
        "sparse": inner_products(asked.sparse, made.sparse),
    }
    scored = sorted(zip(by_mode[mode][0], (node.node_id for node in nodes), strict=True), key=lambda pair: -pair[0])
    return {name: pytest.approx(float(value), abs=1e-4) for value, name in scored[:count]}


def found(index, mode=None, query=QUERY, count=5, **settings):
    retriever = index.as_retriever(mode=mode, similarity_top_k=count, **settings)
    return {node.node_id: node.score for node in retriever.retrieve(query)}


def check(index, nodes=None):
    nodes = list(index.docstore.docs.values()) if nodes is None else nodes
    for mode in MODES:
        assert found(index, mode) == expected(index, nodes, mode)


def test_each_mode_ranks_as_the_encoder_does_and_hybrid_is_the_default(index):
    check(index)
    assert found(index) == found(index, "hybrid") != found(index, "dense")
    assert found(index, vector_store_query_mode="default") == found(index, "dense")
    assert isinstance(index.as_retriever(), CDERetriever)
    assert index.embedding.dimension == 32
    answer = index.as_query_engine(llm=MockLLM(), similarity_top_k=3, mode="sparse").query(QUERY)
    assert {node.node_id: node.score for node in answer.source_nodes} == expected(
        index, list(index.docstore.docs.values()), "sparse", count=3
    )


def weighed(index, alpha, nodes=None, count=5):
    """Return ids and scores of the best nodes, a cosine counting 2 alpha and words 2 (1 - alpha)."""
    nodes, encoder = list(index.docstore.docs.values()) if nodes is None else nodes, index.embedding.encoder
    asked = encoder.encode_queries([QUERY], parts="both")
    made = encoder.encode_documents([embedded_text(node) for node in nodes], parts="both")
    words = 2 * (1 - alpha) * inner_products(asked.sparse, made.sparse)
    scored = zip((2 * alpha * asked.dense @ made.dense.T + words)[0], (node.node_id for node in nodes), strict=True)
    return {name: pytest.approx(float(value), abs=1e-4) for value, name in sorted(scored, reverse=True)[:count]}


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_alpha_weighs_vectors_beside_words(index, alpha):
    assert found(index, alpha=alpha) == found(index, "hybrid", alpha=alpha) == weighed(index, alpha)
    assert (found(index, alpha=alpha) == found(index)) == (alpha == 0.5)
    engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=5, alpha=alpha)
    assert {node.node_id: node.score for node in engine.query(QUERY).source_nodes} == weighed(index, alpha)


def test_alpha_where_nothing_is_mixed_is_refused(index, model):
    for mode in ("dense", "sparse"):
        with pytest.raises(ConfigError, match=f"alpha is 0.3, but this retriever searches by '{mode}'"):
            index.as_retriever(mode=mode, alpha=0.3)
    one = CDEVectorStoreIndex.from_documents(corpus(9), embed_model=CDEEmbedding(model), parts="one")
    with pytest.raises(ConfigError, match=r"alpha is 0\.3, but this retriever searches by one vector a node"):
        one.as_retriever(alpha=0.3)
    with pytest.raises(ConfigError, match="alpha is 2, expected from 0"):
        index.as_retriever(alpha=2)


@pytest.mark.parametrize("mode", MODES)
async def test_asynchronously_the_same(index, mode):
    nodes = await index.as_retriever(mode=mode, similarity_top_k=5).aretrieve(QUERY)
    assert {node.node_id: node.score for node in nodes} == found(index, mode)


def test_it_follows_inserts_deletes_and_refreshes(index):
    index.insert(Document(text="kolak kolak vexed", id_="new", metadata={"file_name": "new.txt"}))
    index.delete_ref_doc("0-3", delete_from_docstore=True)
    index.refresh_ref_docs([Document(text="kolak baron 3", id_="0-5", metadata={"file_name": "0-5.txt"})])
    index.delete_nodes([index.docstore.get_ref_doc_info("0-7").node_ids[0]], delete_from_docstore=True)
    names = {node.ref_doc_id for node in index.docstore.docs.values()}
    assert {"new", "0-5"} <= names
    assert not {"0-3", "0-7"} & names
    check(index)


async def test_it_follows_asynchronous_changes(index):
    await index.ainsert(Document(text="kolak kolak vexed", id_="new"))
    await index.adelete_ref_doc("0-3", delete_from_docstore=True)
    check(index)


def test_filters_restrict_each_mode(index):
    filters = MetadataFilters(filters=[MetadataFilter(key="file_name", value=f"0-{i}.txt") for i in (1, 2, 8)])
    filters.condition = "or"
    chosen = [node for node in index.docstore.docs.values() if node.ref_doc_id in {"0-1", "0-2", "0-8"}]
    assert chosen
    for mode in MODES:
        some = {name: value for name, value in expected(index, chosen, mode).items() if mode != "sparse" or value != 0}
        assert found(index, mode, filters=filters) == some
    assert found(index, doc_ids=["0-2"]).keys() == {node.node_id for node in chosen if node.ref_doc_id == "0-2"}


@pytest.mark.parametrize("write", ["persist", "storage_context.persist"])
def test_it_is_persisted_with_the_index(index, model, tmp_path, write):
    before = {mode: found(index, mode) for mode in MODES}
    if write == "persist":
        index.persist(tmp_path / "index")
    else:
        index.storage_context.persist(str(tmp_path / "index"))
    embedding = CDEEmbedding.from_storage(tmp_path / "index", model)
    opened = CDEVectorStoreIndex.from_storage(tmp_path / "index", embedding)
    assert {mode: found(opened, mode) for mode in MODES} == before
    opened.insert(Document(text="kolak kolak vexed", id_="new"))
    opened.delete_ref_doc("0-3", delete_from_docstore=True)
    check(opened)
    opened.persist(tmp_path / "index")
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path / "index"))
    check(load_index_from_storage(storage, embed_model=CDEEmbedding.from_storage(storage, model)))


def test_a_file_of_other_words_or_vectors_is_refused(index, model, tmp_path):
    def opened():
        return CDEVectorStoreIndex.from_storage(folder, CDEEmbedding(model, context=index.embedding.context))

    folder = index.persist(tmp_path / "index")
    file = folder / "cde_parts__vector_store.json"
    good = file.read_text()
    other = CDEVectorStoreIndex.from_documents(corpus(12, 1), embed_model=CDEEmbedding(model))
    shutil.copy(other.persist(tmp_path / "other") / file.name, folder)
    with pytest.raises(ContextMismatchError, match="was made under context"):
        opened()
    same = CDEEmbedding(model, context=index.embedding.context)
    nodes = [node.model_copy(update={"text": f"other {node.text}"}) for node in index.docstore.docs.values()]
    with pytest.warns(UserWarning, match="none of the documents"):
        twin = CDEVectorStoreIndex(nodes, embed_model=same)
    for changed in (twin, index):
        changed.delete_ref_doc("0-3", delete_from_docstore=True)
        shutil.copy(changed.persist(tmp_path / "twin") / file.name, folder)
        with pytest.raises(ContextMismatchError, match="hold different nodes"):
            opened()
    file.write_text(good.replace('"index": "', '"index": "AAAA'))
    with pytest.raises(ContextFormatError, match="damaged"):
        opened()
    file.write_text(good)
    check(opened())


def test_words_of_another_context_and_unknown_vectors_are_refused(index, model):
    other = CDEEmbedding(model)
    other.fit([document.text for document in corpus(12, 1)])
    for mode in MODES[:2]:
        with pytest.raises(ContextMismatchError, match="the dense part"):
            found(index, mode, embed_model=other.dense_part())
    with pytest.raises(ContextMismatchError, match="not comparable"):  # nodes are compared where no vector is asked for
        found(index, "sparse", embed_model=other.dense_part())
    with pytest.raises(ContextMismatchError, match="a vector without text"):
        index.as_retriever().retrieve(QueryBundle("", embedding=[0.0] * 32))
    with pytest.raises(ContextMismatchError, match="the dense part"):  # one vector under the same context
        found(index, embed_model=CDEEmbedding(model, context=index.embedding.context))


def test_nodes_that_come_past_the_index_are_noticed(index):
    past = index.embedding([node.model_copy(update={"id_": "past"}) for node in list(index.docstore.docs.values())[:1]])
    index.vector_store.delete("0-4")
    gone = {node.node_id for node in index.docstore.docs.values() if node.ref_doc_id == "0-4"}
    assert gone
    assert not gone & found(index, count=99).keys()
    index.vector_store.add(past)
    with pytest.raises(
        ContextMismatchError, match="1 nodes, such as past, were put into the vector store past the index"
    ):
        found(index)


def test_a_write_that_fails_leaves_no_words(index, monkeypatch):
    def fail(*_, **__):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(type(index.vector_store), "add", fail)
        with pytest.raises(OSError, match="the disk is full"):
            index.insert(Document(text="kolak kolak vexed", id_="new"))
    check(index)


def test_which_form_an_index_gets(index, model, checkpoint, tmp_path):
    def built(model=model, settings=None, **arguments):
        return CDEVectorStoreIndex.from_documents(
            corpus(12), embed_model=CDEEmbedding(model, **(settings or {})), **arguments
        ).embedding

    assert (index.embedding.parts, index.embedding.dimension) == ("dense", 32)
    assert built(parts="one").parts == "one"
    assert built(checkpoint).parts == "one"
    assert built(settings={"truncate_dim": 20}).dimension == 20
    external = StorageContext.from_defaults(vector_store=chroma())
    assert built(storage_context=external, context_dir=tmp_path / "context").parts == "one"
    folder = CDEVectorStoreIndex.from_documents(corpus(12), embed_model=CDEEmbedding(model), parts="one").persist(
        tmp_path / "one"
    )
    one = CDEVectorStoreIndex.from_storage(folder, CDEEmbedding.from_storage(folder, model))
    assert one.embedding.parts == "one"
    assert found(one) == found(one, "dense")
    with pytest.raises(ConfigError, match="mode is 'hybrid', but the index holds one vector a node"):
        one.as_retriever(mode="hybrid")
    with pytest.raises(ConfigError, match="mode is 'exact', expected one of 'hybrid', 'dense', 'sparse'"):
        one.as_retriever(mode="exact")
    with pytest.raises(ConfigError, match="parts is 'two', expected one of 'one', 'both'"):
        built(parts="two")
    for place in (None, tmp_path / "context.safetensors"):
        with pytest.raises(
            ConfigError, match=r"ChromaVectorStore keeps no sparse vectors, and context_dir is .*; give a"
        ):
            built(parts="both", storage_context=external, context_dir=place)
    with pytest.raises(ConfigError, match="truncate_dim is 20, and cuts texts in one vector alone"):
        built(parts="both", settings={"truncate_dim": 20})
    with pytest.raises(ConfigError, match="has no corpus head"):
        built(checkpoint, parts="both")
    with pytest.raises(ConfigError, match="has no corpus head"):
        CDEEmbedding(checkpoint, parts="dense")


def test_an_index_that_begins_empty(model):
    """An answer without nodes cannot be wrong; the same retriever searches both parts once there are some."""
    storage = StorageContext.from_defaults(
        vector_store=chroma()
    )  # memory knows at the start which nodes it is asked for
    for settings in ({}, {"storage_context": storage}):
        index = CDEVectorStoreIndex([], embed_model=CDEEmbedding(model), **settings)
        assert found(index) == found(index, "dense") == {}
        assert index.as_query_engine(llm=MockLLM()).query(QUERY).source_nodes == []
    retriever = index.as_retriever(similarity_top_k=5)
    index.insert_nodes(corpus(12))
    assert {node.node_id: node.score for node in retriever.retrieve(QUERY)} == found(index)
    asked = CDEVectorStoreIndex(corpus(12), embed_model=CDEEmbedding(model))
    with pytest.raises(ContextNotFittedError):
        asked.as_retriever(embed_model=CDEEmbedding(model)).retrieve(QUERY)


def test_of_nodes_with_one_id_the_last_is_found(index):
    index.insert_nodes([TextNode(text="baron kolak 3", id_="same"), TextNode(text="vexed zebra", id_="same")])
    check(index)
    assert index.docstore.get_node("same").text == "vexed zebra"


def test_fewer_than_one_node_are_refused_by_the_name_of_the_setting(index):
    for mode in MODES:
        with pytest.raises(ValueError, match="similarity_top_k is 0, expected at least 1"):
            found(index, mode, count=0)


def test_other_indexes_in_one_storage_context_are_passed_over(index, model, tmp_path):
    SummaryIndex.from_documents(corpus(3, 1), storage_context=index.storage_context)
    index.storage_context.persist(tmp_path)
    assert found(CDEVectorStoreIndex.from_storage(tmp_path, CDEEmbedding.from_storage(tmp_path, model))) == found(index)


def test_nodes_that_a_pipeline_embedded_keep_their_form(model):
    one, dense = CDEEmbedding(model), CDEEmbedding(model, parts="dense")
    in_one, in_dense = (IngestionPipeline(transformations=[e]).run(documents=corpus(20)) for e in (one, dense))
    with_one = CDEVectorStoreIndex(in_one, embed_model=one)
    assert with_one.embedding.parts == "one"
    assert len(found(with_one)) == 5
    with pytest.raises(ContextMismatchError, match=r"the dense part, .*give both one form: parts='dense'"):
        CDEVectorStoreIndex(corpus(20), embed_model=CDEEmbedding(model, context=one.context)).insert_nodes(in_one)
    for embed in (dense, CDEEmbedding(model, context=dense.context)):
        check(CDEVectorStoreIndex(in_dense, embed_model=embed))


def qdrant(embedding, client, name="texts"):
    return QdrantVectorStore(name, client=client, enable_hybrid=True, **sparse_functions(embedding))


def test_qdrant_keeps_both_parts_itself(model, tmp_path):
    client = qdrant_client.QdrantClient(path=str(tmp_path / "qdrant"))
    embedding = CDEEmbedding(model)
    storage = StorageContext.from_defaults(vector_store=qdrant(embedding, client))
    index = CDEVectorStoreIndex.from_documents(
        corpus(40), embed_model=embedding, storage_context=storage, context_dir=tmp_path / "context"
    )
    nodes = index.vector_store.get_nodes()
    assert len(nodes) >= 40
    check(index, nodes)
    index.insert(Document(text="kolak kolak vexed", id_="new"))
    index.delete_ref_doc("0-3")
    check(index, index.vector_store.get_nodes())
    again = CDEEmbedding.from_storage(tmp_path / "context", model)
    opened = CDEVectorStoreIndex.from_vector_store(qdrant(again, client), again)
    assert {mode: found(opened, mode) for mode in MODES} == {mode: found(index, mode) for mode in MODES}
    all_nodes = {"similarity_top_k": 60, "sparse_top_k": 60, "hybrid_top_k": 5}
    stock = VectorIndexRetriever(index, vector_store_query_mode="hybrid", **all_nodes).retrieve(QUERY)
    assert {node.node_id: node.score for node in stock} == found(index)
    stock = VectorIndexRetriever(index, vector_store_query_mode="hybrid", alpha=0.2, **all_nodes).retrieve(QUERY)
    left = index.vector_store.get_nodes()
    assert {node.node_id: node.score for node in stock} == found(index, alpha=0.2) == weighed(index, 0.2, left)
    other = CDEEmbedding(model)
    other.fit([document.text for document in corpus(12, 1)])
    with pytest.raises(ContextMismatchError):
        CDEVectorStoreIndex.from_vector_store(qdrant(other, client), other)
    with pytest.raises(ContextMismatchError):
        found(index, embed_model=other.dense_part())
    stock = VectorStoreIndex.from_vector_store(index.vector_store, embed_model=MockEmbedding(32))
    with pytest.raises(ContextMismatchError):
        stock.as_retriever(vector_store_query_mode="hybrid").retrieve(QUERY)
    client.close()


def test_a_pipeline_fills_qdrant_with_both_parts(model):
    client, embedding = qdrant_client.QdrantClient(":memory:"), CDEEmbedding(model)
    store = qdrant(embedding, client)
    steps = [embedding.sentence_splitter(), embedding]
    IngestionPipeline(transformations=steps, vector_store=store).run(documents=corpus(40))
    check(CDEVectorStoreIndex.from_vector_store(store, embedding), store.get_nodes())
    one_vector = QdrantVectorStore("texts", client=client)
    with pytest.raises(ContextMismatchError, match=r"with the 416 numbers .*open it as it was built \(model"):
        IngestionPipeline(transformations=steps, vector_store=one_vector).run(documents=corpus(1))
    cut = CDEEmbedding(model, context=embedding.context, truncate_dim=32)
    with pytest.raises(ContextMismatchError, match=r"the dense part, .* are not comparable"):
        IngestionPipeline(transformations=[cut.sentence_splitter(), cut], vector_store=one_vector).run(
            documents=corpus(1)
        )
    client.close()
