"""Several contexts, one index: which contexts are near, and what is found through them."""

import asyncio
import re
from typing import Any

import chromadb
import numpy as np
import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document as LangChainDocument
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Document
from llama_index.core.llms import MockLLM
from llama_index.core.schema import QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters

from cde_retriever import langchain as cde
from cde_retriever.adapters.langchain.store_parts import parts_of
from cde_retriever.adapters.routes_folder import RECORD
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.neighbours import unit
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.one_pass import one_pass
from cde_retriever.encoder.routes import NEAREST, Routes, sort
from cde_retriever.errors import ConfigError, ContextError, ContextMismatchError, OutputError
from cde_retriever.lifecycle.collection import Collection
from cde_retriever.lifecycle.refit import refit, undo_refit
from cde_retriever.llama_index import CDEEmbedding, CDERoutedIndex, CDEVectorStoreIndex
from tests.tiny import HEADED, documents, tiny_encoder
from tests.unit.test_drift import topic

KINDS = {"ka": topic(1, 20, "ka"), "mo": topic(2, 20, "mo"), "ze": topic(3, 20, "ze")}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_encoder(**HEADED).save_pretrained(tmp_path_factory.mktemp("model") / "head")


def corpus():
    return [
        Document(text=text, metadata={"kind": kind}, excluded_embed_metadata_keys=["kind"], id_=f"{kind}{i}")
        for kind, texts in KINDS.items()
        for i, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def index(model):
    return CDERoutedIndex.from_documents(corpus(), kind_field="kind", embed_model=CDEEmbedding(model))


# Core


def test_a_context_is_as_near_as_its_nearest_documents():
    encoder = tiny_encoder(**HEADED)
    contexts = {name: encoder.fork().fit_context(texts, context_size=12) for name, texts in KINDS.items()}
    routes = Routes(contexts)
    encoder.set_context(encoder.null_context())
    plain = encoder.encode_queries([texts[3] for texts in KINDS.values()], parts="dense")
    for vector, found in zip(plain, routes.nearest(plain, 3), strict=True):
        near = {
            name: np.sort(context.vectors @ vector)[-NEAREST:].mean(dtype=np.float64)
            for name, context in contexts.items()
        }
        assert found == sorted(near, key=lambda name: -near[name])
    assert [row[0] for row in routes.nearest(plain, 1)] == list(KINDS)


def test_contexts_that_cannot_be_compared_are_refused():
    encoder, other = tiny_encoder(**HEADED), tiny_encoder(seed=1, **HEADED)
    own = encoder.fit_context(KINDS["ka"])
    with pytest.raises(ContextError, match="2 contexts are of no one model"):
        Routes({"a": own, "b": other.fit_context(KINDS["mo"])})
    with pytest.raises(ContextError, match="there are no contexts"):
        Routes({})
    with pytest.raises(ContextError, match="context 'b' has no documents"):
        Routes({"a": own, "b": encoder.null_context()})
    with pytest.raises(ConfigError, match="model of context 'a' has no corpus head"):
        Routes({"a": tiny_encoder().fit_context(documents(9))})


def test_a_document_is_of_the_kind_that_a_query_like_it_is_led_to():
    """Twelve subjects, three kinds: the borders of clusters go through subjects, where 19 % are led elsewhere."""
    rng = np.random.default_rng(0)
    subjects = unit(rng.normal(size=(12, 16)))
    plain = unit(np.repeat(subjects, 40, axis=0) + 0.3 * rng.normal(size=(480, 16))).astype(np.float32)
    kinds = np.array(sort(plain, 3, seed=0))
    cosines = plain @ plain.T
    np.fill_diagonal(cosines, -1)
    near = np.stack([np.sort(cosines[:, kinds == kind])[:, -NEAREST:].mean(axis=1) for kind in np.unique(kinds)])
    led = np.unique(kinds)[near.argmax(axis=0)]
    assert len(set(kinds)) == 3
    assert np.mean(led == kinds) > 0.99


def test_clusters_sort_a_corpus_without_kinds():
    angles = np.radians([0, 120, 240])[:, None] + np.linspace(0, 0.1, 30)
    plain = np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(-1, 2).astype(np.float32)
    found = sort(plain, 3, seed=0)
    assert [len(set(found[start : start + 30])) for start in (0, 30, 60)] == [1, 1, 1]
    assert len(set(found)) == 3
    with pytest.raises(ConfigError, match="kinds is 91 for 90 documents"):
        sort(plain, 91, 0)


def test_in_one_pass_the_model_runs_once_a_text_and_vectors_are_those_of_each_context(model):
    encoder = ContextualEncoder.from_pretrained(model, device="cpu")
    first, second = encoder.fork(), encoder.fork()
    first.fit_context(KINDS["ka"])
    second.fit_context(KINDS["mo"])
    texts = ["baron kolak", "zevex"]
    expected = [e.encode_queries(texts, parts="one") for e in (first, second)]
    document = second.encode_documents(texts)
    ran = []
    real = encoder.backend.embed
    encoder.backend.embed = lambda *args: ran.append(len(args[0])) or real(*args)
    with one_pass():
        for _ in range(2):
            for e, vectors in zip((first, second), expected, strict=True):
                np.testing.assert_allclose(e.encode_queries(texts, parts="one"), vectors, atol=1e-6)
        assert sum(ran) == 2
        np.testing.assert_allclose(second.encode_documents(texts), document, atol=1e-6)
        assert sum(ran) == 4, "a document is not a query"
    first.encode_queries(texts)
    assert sum(ran) == 6, "nothing is shared after the block"


# LlamaIndex


def test_each_document_is_under_its_own_context_and_a_query_under_the_nearest(index):
    assert index.indexes.keys() == KINDS.keys()
    for name, own in index.indexes.items():
        assert len({*own.embedding.context.texts} & {*KINDS[name]}) == own.embedding.context.size == 16
        assert {node.text for node in own.docstore.docs.values()} == {*KINDS[name]}
    query = KINDS["mo"][7]
    one = index.as_retriever(contexts=1, similarity_top_k=4).retrieve(query)
    alone = index.indexes["mo"].as_retriever(similarity_top_k=4).retrieve(query)
    assert [(node.node_id, node.score) for node in one] == [(node.node_id, node.score) for node in alone]
    assert one[0].text == query
    found = index.as_retriever(contexts=3, similarity_top_k=60).retrieve(query)
    every = [n for own in index.indexes.values() for n in own.as_retriever(similarity_top_k=20).retrieve(query)]
    assert sorted(n.node_id for n in found) == sorted(n.node_id for n in every)
    assert [n.score for n in found] == sorted((n.score for n in every), reverse=True)


@pytest.mark.parametrize("contexts", [1, 2])
def test_a_filter_by_kind_finds_its_documents_wherever_the_query_leads(index, stores, contexts):
    """A kind of which the filter leaves nothing does not take the place of one that is asked."""
    query = KINDS["mo"][7]
    only = MetadataFilters(filters=[MetadataFilter(key="kind", value="ze")])
    found = index.as_retriever(contexts=contexts, similarity_top_k=4, filters=only).retrieve(query)
    alone = index.indexes["ze"].as_retriever(similarity_top_k=4).retrieve(query)
    assert [node.node_id for node in found] == [node.node_id for node in alone]
    retriever = cde.CDERoutedRetriever(stores=stores, contexts=contexts, search_kwargs={"filter": {"kind": "ze"}})
    assert [document.page_content for document in retriever.invoke(query)] == [node.text for node in alone]
    none = MetadataFilters(filters=[MetadataFilter(key="kind", value="none")])
    assert index.as_retriever(contexts=contexts, filters=none).retrieve(query) == []


def test_the_model_runs_once_a_query(index, monkeypatch):
    backend = index.indexes["ka"].embedding.encoder.backend
    ran, real = [], type(backend).embed
    monkeypatch.setattr(type(backend), "embed", lambda *args: ran.append(1) or real(*args))
    assert len(index.as_retriever(similarity_top_k=5).retrieve("a query asked once")) == 5
    assert len(ran) == 1


def test_it_answers_asynchronously_and_through_an_engine(index):
    query = KINDS["ze"][2]
    expected = [n.node_id for n in index.as_retriever(similarity_top_k=3).retrieve(query)]
    found = asyncio.run(index.as_retriever(similarity_top_k=3).aretrieve(query))
    assert [n.node_id for n in found] == expected
    answer = index.as_query_engine(llm=MockLLM(), similarity_top_k=3).query(query)
    assert [n.node_id for n in answer.source_nodes] == expected


def test_persisted_it_is_the_same_and_goes_on(index, model, tmp_path):
    folder = index.persist(tmp_path / "routed")
    opened = CDERoutedIndex.from_storage(folder, model)
    query = KINDS["ka"][5]
    expected = [(n.node_id, n.score) for n in index.as_retriever(similarity_top_k=9).retrieve(query)]
    found = [(n.node_id, n.score) for n in opened.as_retriever(similarity_top_k=9).retrieve(query)]
    assert [name for name, _ in found] == [name for name, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-5)
    opened.insert(Document(text="kabab kacac new", metadata={"kind": "ka"}, id_="new"))
    assert {name: drift.added for name, drift in opened.drift.items()} == {"ka": 1, "mo": 0, "ze": 0}
    assert (opened.drift.whole.documents_seen, opened.drift.whole.added) == (60, 1)
    assert opened.as_retriever(similarity_top_k=1).retrieve("kabab kacac new")[0].node.ref_doc_id == "new"
    opened.delete_ref_doc("new")
    assert "new" not in {n.node.ref_doc_id for n in opened.as_retriever(similarity_top_k=99).retrieve("new")}
    opened.persist(folder)
    assert len(CDERoutedIndex.from_storage(folder, model).indexes["ka"].index_struct.nodes_dict) == 20
    (folder / RECORD).write_text("{}")
    with pytest.raises(OutputError, match=f"{RECORD} is damaged"):
        CDERoutedIndex.from_storage(folder, model)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(OutputError, match="holds something else than an index of several contexts"):
        index.persist(tmp_path / "other")


def test_kinds_are_made_by_clusters_where_documents_do_not_say_theirs(model):
    index = CDERoutedIndex.from_documents(corpus(), kinds=2, embed_model=CDEEmbedding(model))
    sizes = [len(own.index_struct.nodes_dict) for own in index.indexes.values()]
    assert len(sizes) == 2
    assert sum(sizes) == 60
    index.insert_nodes([TextNode(text=KINDS["ka"][0] + " again", id_="again")])
    assert sum(len(own.index_struct.nodes_dict) for own in index.indexes.values()) == 61
    assert index.as_retriever(similarity_top_k=1).retrieve(KINDS["ka"][0] + " again")[0].node_id == "again"


def test_what_cannot_be_routed_is_refused(index, model):
    with pytest.raises(ConfigError, match="kind_field is None, kinds is None"):
        CDERoutedIndex.from_documents(corpus(), embed_model=CDEEmbedding(model))
    with pytest.raises(ConfigError, match="none of the 60 documents has the field 'knid'"):
        CDERoutedIndex.from_documents(corpus(), kind_field="knid", embed_model=CDEEmbedding(model))
    with pytest.raises(FileNotFoundError, match="no index of several contexts at nowhere"):
        CDERoutedIndex.from_storage("nowhere", model)
    with pytest.raises(ConfigError, match=r"no context is of the kinds \['other'\]"):
        index.insert(Document(text="a", metadata={"kind": "other"}))
    with pytest.raises(ConfigError, match="contexts must be at least 1, received 0"):
        index.as_retriever(contexts=0)
    one = CDEVectorStoreIndex.from_documents(corpus()[:9], embed_model=CDEEmbedding(model), parts="one")
    with pytest.raises(ConfigError, match="kind 'x' holds one vector a node"):
        CDERoutedIndex({"x": one})
    with pytest.raises(ContextError, match=re.escape("the query is a vector without text")):
        index.as_retriever().retrieve(QueryBundle("", embedding=[0.0] * 32))


def test_nodes_of_another_context_are_refused_as_in_any_index(index, model, tmp_path):
    folder = index.persist(tmp_path / "routed")
    ka, mo = (folder / place for place in ("kind-0000", "kind-0001"))
    (ka / "default__vector_store.json").write_bytes((mo / "default__vector_store.json").read_bytes())
    with pytest.raises(ContextMismatchError):
        CDERoutedIndex.from_storage(folder, model)


# LangChain


@pytest.fixture(scope="module")
def stores(model):
    made = [LangChainDocument(text, metadata={"kind": kind}) for kind, texts in KINDS.items() for text in texts]
    return cde.from_documents_by_kind(InMemoryVectorStore, made, "kind", cde.CDEEmbeddings(model_name=model))


def test_stores_of_several_contexts_are_searched_as_one(stores, index):
    for query in (KINDS["mo"][7], KINDS["ka"][3][:24] + KINDS["ze"][3][:24]):
        for contexts in (1, 2, 3):
            retriever = cde.CDERoutedRetriever(stores=stores, contexts=contexts, k=6)
            found = [document.page_content for document in retriever.invoke(query)]
            nodes = index.as_retriever(contexts=contexts, similarity_top_k=6).retrieve(query)
            assert found == [node.text for node in nodes], "as LlamaIndex finds them"
            later = asyncio.run(retriever.ainvoke(query))
            assert [document.page_content for document in later] == found
    only = cde.CDERoutedRetriever(stores=stores, search_kwargs={"filter": {"kind": "ze"}}).invoke(KINDS["mo"][7])
    assert {document.metadata["kind"] for document in only} == {"ze"}


def found_in(stores) -> list[str]:
    return [document.page_content for document in cde.CDERoutedRetriever(stores=stores, k=6).invoke(KINDS["mo"][7])]


def load(embedding, place):
    return InMemoryVectorStore.load(str(place / "store.json"), embedding)


def test_stores_of_several_contexts_are_saved_and_opened_as_one(stores, model, tmp_path, monkeypatch):
    folder = cde.save_routed(stores, tmp_path / "routed")
    opened = cde.open_routed(load, folder, model_name=model)
    assert opened.keys() == stores.keys()
    assert found_in(opened) == found_in(stores)
    opened["ka"].add_documents([LangChainDocument("kabab kacac new", metadata={"kind": "ka"})])
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("cde_retriever.adapters.routes_folder.record_routes", full)
    with pytest.raises(OSError, match="no space left"):
        cde.save_routed(opened, folder)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} == before
    cde.save_routed(opened, folder)
    assert len(cde.open_routed(load, folder, model_name=model)["ka"].store) == len(KINDS["ka"]) + 1
    (folder / "kind-0000" / "store.json").write_bytes((folder / "kind-0001" / "store.json").read_bytes())
    with pytest.raises(ContextMismatchError):
        cde.open_routed(load, folder, model_name=model)
    (folder / RECORD).write_text("{}")
    with pytest.raises(OutputError, match=f"{RECORD} is damaged"):
        cde.open_routed(load, folder, model_name=model)
    with pytest.raises(OutputError, match="holds something else"):
        cde.save_routed(stores, tmp_path)
    with pytest.raises(FileNotFoundError, match="no index of several contexts at"):
        cde.open_routed(load, tmp_path, model_name=model)


def test_drift_is_told_of_each_store_and_of_all(model, tmp_path):
    made = [LangChainDocument(text, metadata={"kind": kind}) for kind, texts in KINDS.items() for text in texts]
    stores = cde.from_documents_by_kind(InMemoryVectorStore, made, "kind", cde.CDEEmbeddings(model_name=model))
    foreign = [LangChainDocument(text, metadata={"kind": "mo"}) for text in topic(4, 30, "pu")]
    stores["mo"].add_documents(foreign)
    stores["ka"].add_texts(topic(5, 10, "ka"))
    opened = cde.open_routed(load, cde.save_routed(stores, tmp_path / "routed"), model_name=model)
    for drifts in (cde.drift(stores), cde.drift(opened)):
        assert {name: (one.added, one.detected) for name, one in drifts.items()} == {
            "ka": (10, False), "mo": (30, True), "ze": (0, False),
        }  # fmt: skip
        assert (drifts.whole.documents_seen, drifts.whole.added, drifts.whole.detected) == (60, 40, True)
        assert drifts["mo"] == cde.drift(stores["mo"])


def test_stores_that_write_by_themselves_are_opened_as_one(stores, model, tmp_path):
    made = [LangChainDocument(text, metadata={"kind": kind}) for kind, texts in KINDS.items() for text in texts]
    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
    built = cde.from_documents_by_kind(
        Chroma, made, "kind", cde.CDEEmbeddings(model_name=model), context_dir=tmp_path / "shelves",
        kwargs_of=lambda place: {"collection_name": f"shelves-{place}"}, client=client,
    )  # fmt: skip
    opened = cde.open_routed(
        lambda e, place: Chroma(f"shelves-{place.name}", e, client=client), tmp_path / "shelves", model_name=model
    )
    assert opened.keys() == KINDS.keys()
    assert found_in(opened) == found_in(built) == found_in(stores)
    with pytest.raises(TypeError):
        cde.save_routed(opened, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_kinds_join_and_leave_stores_that_write_by_themselves(model, tmp_path):
    client, folder = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False)), tmp_path / "shelves"

    def join(*kinds):
        made = [LangChainDocument(text, metadata={"kind": kind}) for kind in kinds for text in KINDS[kind]]
        return cde.from_documents_by_kind(
            Chroma, made, "kind", cde.CDEEmbeddings(model_name=model), context_dir=folder, client=client,
            kwargs_of=lambda place: {"collection_name": f"joined-{place}"},
        )  # fmt: skip

    def opened():
        name = lambda place: cde.collection_in(place, f"joined-{place.name}")  # noqa: E731
        return cde.open_routed(lambda e, place: Chroma(name(place), e, client=client), folder, model_name=model)

    def held():
        return {kind: {*store.get()["documents"]} for kind, store in opened().items()}

    join("mo", "ze")
    assert join("ka").keys() == {"ka"}
    assert held() == {kind: {*texts} for kind, texts in KINDS.items()}
    assert cde.CDERoutedRetriever(stores=opened(), k=1).invoke(KINDS["ka"][3])[0].page_content == KINDS["ka"][3]
    more = topic(4, 20, "pu")
    opened()["ze"].add_texts(more, metadatas=[{"kind": "ze"}] * 20)
    collection = Collection(client, "joined-kind-0001")
    done = refit(folder / "kind-0001", collection=collection, model=ModelSpec(str(model)))
    assert parts_of(opened()["ze"]).embedding.context_fingerprint == done.new != done.old
    assert held()["ze"] == {*KINDS["ze"], *more}
    with pytest.raises(OutputError, match=r"not confirmed keeps \['.*kind-0001.refit'\]"):
        cde.forget_kind(folder, "mo")
    assert undo_refit(folder / "kind-0001", collection=collection)
    opened()["ze"].delete(opened()["ze"].get(where_document={"$contains": "pu"})["ids"])
    place = cde.forget_kind(folder, "mo")
    client.delete_collection(f"joined-{place}")
    assert held() == {kind: {*KINDS[kind]} for kind in ("ze", "ka")}
    assert not (folder / place).exists()
    with pytest.raises(ConfigError, match=r"no kind 'mo' is in .*, which has \['ka', 'ze'\]"):
        cde.forget_kind(folder, "mo")
    join("mo")
    assert held() == {kind: {*texts} for kind, texts in KINDS.items()}


def test_the_model_runs_once_a_query_of_several_stores(stores, monkeypatch):
    backend = parts_of(stores["ka"]).embedding.encoder.backend
    ran, real = [], type(backend).embed
    monkeypatch.setattr(type(backend), "embed", lambda *args: ran.append(1) or real(*args))
    assert len(cde.CDERoutedRetriever(stores=stores).invoke("a query asked once of all")) == 4
    assert len(ran) == 1


def test_stores_that_cannot_be_routed_are_refused(stores, model):
    fitted = cde.CDEEmbeddings(model_name=model)
    one = cde.from_documents(InMemoryVectorStore, [LangChainDocument("a b")], fitted)
    with pytest.raises(ConfigError, match=r"stores \['x'\] keep one vector a document"):
        cde.CDERoutedRetriever(stores={**stores, "x": one})
    with pytest.raises(ConfigError, match="has a context already"):
        cde.from_documents_by_kind(InMemoryVectorStore, [LangChainDocument("a")], "kind", fitted)
    with pytest.raises(ConfigError, match="none of the 1 documents has the field 'kind'"):
        cde.from_documents_by_kind(
            InMemoryVectorStore, [LangChainDocument("a")], "kind", cde.CDEEmbeddings(model_name=model)
        )


def test_a_document_of_another_context_in_a_store_is_refused(stores, model):
    made = [LangChainDocument(text) for text in KINDS["ka"]]
    store = cde.from_documents(InMemoryVectorStore, made, cde.CDEEmbeddings(model_name=model), hybrid=True)
    other = parts_of(stores["mo"]).embedding.stamp
    for entry in store.store.values():
        entry["metadata"]["cde_context"] = other
    with pytest.raises(ContextMismatchError):
        cde.CDERoutedRetriever(stores={"ka": store}).invoke("kab")
