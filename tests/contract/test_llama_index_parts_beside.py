"""Both parts beside an external store rank as the encoder does, whatever came and went; no other context answers."""

import asyncio
import shutil

import pytest
import qdrant_client
from llama_index.core import Document, StorageContext
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from llama_index.vector_stores.qdrant import QdrantVectorStore

from cde_retriever.adapters.kept_parts import KeptParts, read_index
from cde_retriever.adapters.llama_index import parts_beside
from cde_retriever.adapters.llama_index.storage import embedded_text
from cde_retriever.errors import ConfigError, ContextFormatError, ContextMismatchError
from cde_retriever.llama_index import CDEEmbedding, CDERetriever, CDEVectorStoreIndex
from cde_retriever.search.hybrid import inner_products, score
from cde_retriever.search.index_file import FILE_NAME
from tests.contract.llama_index_corpus import chroma, corpus
from tests.tiny import headed_encoder

QUERY = "baron kolak 3"
MODES = ("hybrid", "dense", "sparse")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    encoder = headed_encoder()
    return encoder.save_pretrained(tmp_path_factory.mktemp("model") / "head")


@pytest.fixture(params=["chroma", "qdrant"])
def store(request):
    if request.param == "chroma":
        return chroma()
    return QdrantVectorStore("texts", client=qdrant_client.QdrantClient(":memory:"))


def build(model, store, folder, seed=0, **settings):
    storage = StorageContext.from_defaults(vector_store=store)
    embedding = CDEEmbedding(model)
    return CDEVectorStoreIndex.from_documents(
        corpus(20, seed),
        embed_model=embedding,
        storage_context=storage,
        context_dir=folder,
        parts="both",
        **settings,
    )


def expected(index, texts, mode, count=5):
    """Return texts and scores of the best ones, of vectors made anew."""
    encoder = index.embedding.encoder
    asked, made = encoder.encode_queries([QUERY], parts="both"), encoder.encode_documents(texts, parts="both")
    scores = {
        "hybrid": score(asked, made),
        "dense": asked.dense @ made.dense.T,
        "sparse": inner_products(asked.sparse, made.sparse),
    }[mode][0]
    best = sorted(zip(scores, texts, strict=True), reverse=True)[:count]
    return {text: pytest.approx(float(value), abs=1e-4) for value, text in best if mode != "sparse" or value > 0}


def found(index, mode=None, count=5, **settings):
    nodes = index.as_retriever(mode=mode, similarity_top_k=count, **settings).retrieve(QUERY)
    return {embedded_text(node.node): node.score for node in nodes}


def check(index, documents):
    texts = [embedded_text(document) for document in documents]
    for mode in MODES:
        assert found(index, mode) == expected(index, texts, mode)
    assert found(index) == found(index, "hybrid")


def test_it_follows_inserts_deletes_and_refreshes(model, store, tmp_path):
    documents = corpus(20)
    index = build(model, store, tmp_path)
    check(index, documents)
    new = Document(text="kolak kolak vexed", id_="new", metadata={"file_name": "new.txt"})
    index.insert(new)
    index.delete_ref_doc("0-3")
    changed = Document(text="kolak baron 3", id_="0-5", metadata={"file_name": "0-5.txt"})
    index.update_ref_doc(changed)
    gone = [node for node in store.get_nodes(None) if node.ref_doc_id == "0-7"]
    index.delete_nodes([node.node_id for node in gone])
    left = [document for document in documents if document.id_ not in ("0-3", "0-5", "0-7")]
    check(index, [*left, new, changed])
    assert len(index.both._kept.index) == len(left) + 2 == len(store.get_nodes(None))


async def test_asynchronously_the_same(model, tmp_path):
    index = build(model, chroma(), tmp_path)
    new = Document(text="kolak kolak vexed", id_="new")
    await index.ainsert(new)
    await index.adelete_ref_doc("0-3")
    check(index, [*(document for document in corpus(20) if document.id_ != "0-3"), new])
    assert len(index.both._kept.index) == 20
    nodes = await index.as_retriever(similarity_top_k=5).aretrieve(QUERY)
    assert {embedded_text(node.node): node.score for node in nodes} == found(index)


def test_nodes_deleted_asynchronously_are_forgotten(model, tmp_path):
    store = chroma()
    index = build(model, store, tmp_path)
    (gone,) = index.both.nodes_of("0-3")
    asyncio.run(index.adelete_nodes([gone]))
    assert sorted(KeptParts(read_index(tmp_path, index.embedding.context_fingerprint)).index.ids) == sorted(
        node.node_id for node in store.get_nodes(None)
    )


def test_filters_are_met_however_deep(model, store, tmp_path):
    index = build(model, store, tmp_path)
    wanted = ["0-1.txt", "0-12.txt", "0-18.txt"]
    chosen = [embedded_text(document) for document in corpus(20) if document.metadata["file_name"] in wanted]
    filters = MetadataFilters(filters=[MetadataFilter(key="file_name", value=wanted, operator=FilterOperator.IN)])
    for mode in MODES:
        assert found(index, mode, count=2, filters=filters) == expected(index, chosen, mode, 2)
        assert found(index, mode, doc_ids=["0-12"]).keys() <= {chosen[1]}
    assert found(index, doc_ids=["0-12"]).keys() == {chosen[1]}
    (node,) = (node for node in store.get_nodes(None) if node.ref_doc_id == "0-12")
    (only,) = CDERetriever(index, node_ids=[node.node_id]).retrieve(QUERY)
    assert only.node_id == node.node_id


def test_another_process_opens_what_an_index_wrote(model, store, tmp_path):
    index = build(model, store, tmp_path)
    embedding = CDEEmbedding.from_storage(tmp_path, model)
    opened = CDEVectorStoreIndex.from_vector_store(store, embedding, context_dir=tmp_path)
    check(opened, corpus(20))
    new = Document(text="kolak kolak vexed", id_="new")
    opened.insert(new)
    check(opened, [*corpus(20), new])
    with pytest.raises(ContextMismatchError, match="was written by another process or store since this one was opened"):
        index.insert(new)
    again = CDEVectorStoreIndex.from_vector_store(
        store, CDEEmbedding.from_storage(tmp_path, model), context_dir=tmp_path
    )
    check(again, [*corpus(20), new])


def test_nodes_that_came_past_the_index_are_noticed_when_it_is_opened(model, store, tmp_path, monkeypatch):
    monkeypatch.setattr(parts_beside, "some_nodes", lambda *_: [])  # of many nodes a look at some misses a few
    index = build(model, store, tmp_path)
    store.add(index.embedding([TextNode(text="kolak kolak vexed")]))  # as a pipeline does
    embedding = CDEEmbedding.from_storage(tmp_path, model)
    with pytest.raises(ContextMismatchError, match=r"holds 21 nodes, and the index of two parts in .* 20: some"):
        CDEVectorStoreIndex.from_vector_store(store, embedding, context_dir=tmp_path)


def test_what_the_store_lacks_is_passed_over(model, tmp_path, monkeypatch):
    """As after a process was killed between the two, or after a program deleted past the index."""
    index = build(model, chroma(), tmp_path)
    index.vector_store.delete("0-4")
    left = [document for document in corpus(20) if document.id_ != "0-4"]
    check(index, left)

    def fail(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr(type(index.vector_store), "add", fail)
    with pytest.raises(OSError, match="the disk is full"):
        index.insert(Document(text="baron kolak 3", id_="new"))
    check(index, left)


def test_what_does_not_belong_together_is_refused(model, tmp_path):
    store, folder = chroma(), tmp_path / "own"
    index = build(model, store, folder)
    other = build(model, chroma(), tmp_path / "other", seed=1)

    def opened(folder, truncate_dim=None, **settings):
        embedding = CDEEmbedding(model, context=index.embedding.context, truncate_dim=truncate_dim)
        return CDEVectorStoreIndex.from_vector_store(store, embedding, context_dir=folder, **settings)

    for mode in MODES:
        with pytest.raises(ContextMismatchError, match="not comparable"):
            found(index, mode, embed_model=other.embedding)
    with pytest.raises(ContextMismatchError, match=f"in {tmp_path / 'empty'} lacks"):
        opened(tmp_path / "empty", parts="both")
    foreign = shutil.copytree(folder, tmp_path / "foreign")
    shutil.copy(tmp_path / "other" / FILE_NAME, foreign)
    with pytest.raises(ContextMismatchError, match="was made under context"):
        opened(foreign)
    (foreign / FILE_NAME).write_bytes((folder / FILE_NAME).read_bytes()[:-9])
    with pytest.raises(ContextFormatError, match="damaged"):
        opened(foreign)
    check(opened(folder), corpus(20))
    # As an index of one vector a node: of another size, or cut to the same.
    with pytest.raises(ContextMismatchError, match=r"with the 416 numbers .*open it as it was built \(model"):
        opened(None)
    with pytest.raises(ContextMismatchError, match=r"the dense part, .* are not comparable"):
        opened(None, truncate_dim=32)


def test_a_store_that_cannot_return_nodes_is_refused(model, tmp_path, monkeypatch):
    store = chroma()
    monkeypatch.setattr(type(store), "get_nodes", BasePydanticVectorStore.get_nodes)
    with pytest.raises(ConfigError, match="ChromaVectorStore cannot return nodes by their ids"):
        build(model, store, tmp_path)
