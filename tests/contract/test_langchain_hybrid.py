"""Hybrid search in LangChain: the exact order of both parts, as documents come, change and go, in every store."""

import asyncio
import pickle
import shutil
import uuid
import warnings

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore

from cde_retriever import langchain as cde
from cde_retriever.adapters.langchain import store_parts
from cde_retriever.adapters.langchain.store_parts import parts_of
from cde_retriever.encoder.text_runner import TextRunner
from cde_retriever.errors import ConfigError, ContextFormatError, ContextMismatchError
from cde_retriever.search.hybrid import inner_products, search, sparse_vectors
from cde_retriever.search.index_file import FILE_NAME
from tests.contract.langchain_corpus import FAISS, corpus, load_faiss, texts_of
from tests.tiny import headed_encoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from langchain_chroma import Chroma
    from langchain_qdrant import QdrantVectorStore, RetrievalMode
    from qdrant_client import models

QUERIES = ["baron kolak mi", "zevex ludor 12", "ratul"]
STORES = [InMemoryVectorStore, FAISS, Chroma, QdrantVectorStore]
SUM = models.FormulaQuery(
    formula=models.SumExpression(sum=["$score[0]", "$score[1]"]), defaults={"$score[0]": 0.0, "$score[1]": 0.0}
)


@pytest.fixture(scope="module")
def headed(tmp_path_factory):
    """Folder of a tiny checkpoint with a corpus head."""
    return headed_encoder().save_pretrained(tmp_path_factory.mktemp("headed") / "model")


def named(seed, count=12):
    """Return documents with ids, as Qdrant takes them."""
    return [
        document.model_copy(update={"id": str(uuid.uuid5(uuid.NAMESPACE_OID, document.page_content))})
        for document in corpus(seed, count)
    ]


@pytest.fixture
def embedding(headed):
    made = cde.CDEEmbeddings(model_name=headed)
    made.fit(named(0))
    return made


def build(store_class, documents, embedding, folder):
    places = {
        Chroma: {"collection_name": "hybrid", "persist_directory": str(folder / "chroma")},
        QdrantVectorStore: {"collection_name": "hybrid", "path": str(folder / "qdrant")},
    }
    settings = places.get(store_class, {})
    return cde.from_documents(
        store_class, documents, embedding, context_dir=folder / "context", hybrid=True, **settings
    )


def expected(documents, query, embedding, count):
    texts = texts_of(documents)
    parts = embedding.encoder.encode_documents(texts, parts="both")
    positions = search(embedding.encoder.encode_queries([query], parts="both"), parts, count).positions[0]
    return [texts[position] for position in positions]


def found(store, query, embedding, k=12, **settings):
    return texts_of(cde.CDERetriever(store=store, embedding=embedding, k=k, **settings).invoke(query))


def assert_hybrid(store, documents, embedding):
    for query in QUERIES:
        assert found(store, query, embedding) == expected(documents, query, embedding, 12)
        assert found(store, query, embedding, k=3, mode="hybrid") == expected(documents, query, embedding, 3)


@pytest.mark.parametrize("store_class", STORES)
def test_a_store_follows_adds_changes_and_deletes(store_class, embedding, tmp_path):
    documents = named(0)
    store = build(store_class, documents, embedding, tmp_path)
    assert isinstance(store, store_class)
    assert_hybrid(store, documents, embedding)
    more = named(1, 6)
    assert store.add_documents(more) == [document.id for document in more]
    assert_hybrid(store, documents + more, embedding)
    store.delete([more[2].id, documents[0].id])
    left = documents[1:] + more[:2] + more[3:]
    assert_hybrid(store, left, embedding)
    text = "zevex ludor 12 baron kolak"
    store.add_texts([text], [{"source": "new"}], ids=[str(uuid.uuid4())])
    assert_hybrid(store, [*left, Document(text)], embedding)


@pytest.mark.parametrize("store_class", STORES)
def test_alpha_weighs_vectors_beside_words(store_class, embedding, tmp_path):
    documents = named(0)
    store = build(store_class, documents, embedding, tmp_path)
    orders = set()
    for alpha in (0.05, 0.5, 1.0):
        assert_alpha(store, documents, embedding, alpha)
        orders.add(tuple(found(store, QUERIES[0], embedding, alpha=alpha)))
    assert len(orders) > 1
    assert found(store, QUERIES[0], embedding, alpha=0.5) == found(store, QUERIES[0], embedding)


def assert_alpha(store, documents, embedding, alpha):
    texts = texts_of(documents)
    made = embedding.encoder.encode_documents(texts, parts="both")
    for query in QUERIES:
        asked = embedding.encoder.encode_queries([query], parts="both")
        words = 2 * (1 - alpha) * inner_products(asked.sparse, made.sparse)[0]
        scores = 2 * alpha * (made.dense @ asked.dense[0]) + words
        best = [texts[row] for row in np.argsort(-scores, kind="stable")]
        assert found(store, query, embedding, alpha=alpha) == best


def test_alpha_where_nothing_is_mixed_is_refused(embedding, tmp_path):
    store = build(InMemoryVectorStore, named(0), embedding, tmp_path)
    for mode in ("dense", "sparse"):
        with pytest.raises(ConfigError, match=f"alpha is 0.3, but this retriever searches by '{mode}'"):
            cde.CDERetriever(store=store, embedding=embedding, mode=mode, alpha=0.3)
    one = cde.from_documents(InMemoryVectorStore, named(0), embedding)
    with pytest.raises(ConfigError, match=r"alpha is 0\.3, but this retriever searches by one vector a document"):
        cde.CDERetriever(store=one, embedding=embedding, alpha=0.3)
    with pytest.raises(ConfigError, match=r"alpha is 2\.0, expected from 0"):
        cde.CDERetriever(store=store, embedding=embedding, alpha=2)


@pytest.mark.parametrize("store_class", [InMemoryVectorStore, Chroma])
def test_a_document_that_is_written_again_is_found_by_its_new_text_alone(store_class, embedding, tmp_path):
    documents = named(0)
    store = build(store_class, documents, embedding, tmp_path)
    changed = documents[4].model_copy(update={"page_content": "ratul tiron ratul"})
    store.add_documents([changed], ids=[documents[4].id])
    assert_hybrid(store, [*documents[:4], *documents[5:], changed], embedding)


def test_the_model_runs_once_for_what_is_fitted_on_and_written(headed, tmp_path, monkeypatch):
    rows = []
    run = TextRunner.run
    monkeypatch.setattr(
        TextRunner, "run", lambda self, ids, *rest, **more: rows.append(len(ids)) or run(self, ids, *rest, **more)
    )
    embedding = cde.CDEEmbeddings(model_name=headed)
    embedding.fit(named(0))
    store = build(InMemoryVectorStore, named(0), embedding, tmp_path)
    store.add_documents(named(1, 5))
    assert [count for count in rows if count > 1] == [12, 5]


def test_modes(embedding, tmp_path):
    documents = named(0)
    store = build(FAISS, documents, embedding, tmp_path)
    dense = embedding.encoder.encode_documents(texts_of(documents), parts="dense")
    scores = dense @ embedding.encoder.encode_queries([QUERIES[0]], parts="dense")[0]
    by_vector = [documents[row].page_content for row in np.argsort(-scores, kind="stable")]
    assert found(store, QUERIES[0], embedding, mode="dense") == by_vector
    parts = embedding.encoder.encode_documents(texts_of(documents), parts="both")
    query = embedding.encoder.encode_queries(["zevex"], parts="both")
    query.dense[:] = 0
    words = search(query, parts, 12)
    by_words = [
        documents[row].page_content for row, score in zip(words.positions[0], words.scores[0], strict=True) if score > 0
    ]
    assert 0 < len(by_words) < 12
    assert found(store, "zevex", embedding, mode="sparse") == by_words


def test_filters_are_met_however_deep(embedding, tmp_path):
    documents = named(0) + named(1)
    store = build(Chroma, documents, embedding, tmp_path)
    for wanted in (3, 11):
        of_source = [document for document in documents if document.metadata["source"] == wanted]
        order = [text for text in expected(documents, QUERIES[0], embedding, 24) if text in texts_of(of_source)]
        assert len(order) == 2
        for fits in ({"source": wanted}, lambda document, wanted=wanted: document.metadata["source"] == wanted):
            assert found(store, QUERIES[0], embedding, k=2, search_kwargs={"filter": fits}) == order
    assert found(store, QUERIES[0], embedding, search_kwargs={"filter": {"source": "none"}}) == []
    with pytest.raises(ConfigError, match=r"filter is .*\$gt.*; hybrid and sparse search take a mapping"):
        found(store, QUERIES[0], embedding, search_kwargs={"filter": {"source": {"$gt": 3}}})
    with pytest.raises(ConfigError, match=r"search_kwargs has \['score_threshold'\]"):
        found(store, QUERIES[0], embedding, search_kwargs={"score_threshold": 1})
    for mode in ("hybrid", "dense"):
        with pytest.raises(ConfigError, match="search_kwargs has k=3; give it to the retriever itself, as k="):
            cde.CDERetriever(store=store, embedding=embedding, mode=mode, search_kwargs={"k": 3})


def test_filters_in_a_stores_own_language_work_by_vector(embedding, tmp_path):
    documents = named(0)
    store = build(Chroma, documents, embedding, tmp_path)
    retriever = cde.CDERetriever(
        store=store, embedding=embedding, mode="dense", k=12, search_kwargs={"filter": {"source": {"$gt": 7}}}
    )
    chosen = texts_of([document for document in documents if document.metadata["source"] > 7])
    dense = embedding.encoder.encode_documents(chosen, parts="dense")
    scores = dense @ embedding.encoder.encode_queries([QUERIES[0]], parts="dense")[0]
    order = [chosen[row] for row in np.argsort(-scores)]
    assert len(order) == 4
    assert texts_of(retriever.invoke(QUERIES[0])) == texts_of(asyncio.run(retriever.ainvoke(QUERIES[0]))) == order


@pytest.mark.parametrize("store_class", STORES)
def test_async_ways(store_class, embedding, tmp_path):
    documents, more = named(0), named(1, 4)
    store = build(store_class, documents, embedding, tmp_path)

    async def use():
        await store.aadd_documents(more)
        await store.adelete([documents[0].id])
        return await cde.CDERetriever(store=store, embedding=embedding, k=5).ainvoke(QUERIES[0])

    assert texts_of(asyncio.run(use())) == expected(documents[1:] + more, QUERIES[0], embedding, 5)


def test_another_process_opens_what_a_store_wrote(headed, embedding, tmp_path):
    documents, more = named(0), named(1, 3)
    store = build(Chroma, documents, embedding, tmp_path)
    store.add_documents(more)
    opened = cde.open(
        lambda e: Chroma("hybrid", e, persist_directory=str(tmp_path / "chroma")),
        tmp_path / "context",
        model_name=headed,
    )
    assert_hybrid(opened, documents + more, embedding)
    opened.delete([more[0].id])
    with pytest.raises(
        ContextMismatchError, match=r"was written by another process or store since this one was opened"
    ):
        store.delete([more[1].id])


def test_a_store_in_memory_is_saved_and_opened_with_its_index(headed, embedding, tmp_path):
    documents = named(0)
    store = build(FAISS, documents, embedding, tmp_path)
    assert not (tmp_path / "context" / FILE_NAME).exists()
    cde.save_local(store, tmp_path / "index")
    store.add_documents(named(1, 3))
    opened = cde.open(lambda e: load_faiss(tmp_path / "index", e), tmp_path / "index", model_name=headed)
    assert_hybrid(opened, documents, embedding)
    opened.delete([documents[0].id])
    assert_hybrid(
        cde.open(lambda e: load_faiss(tmp_path / "index", e), tmp_path / "index", model_name=headed),
        documents,
        embedding,
    )
    cde.save_local(opened, tmp_path / "index")
    assert_hybrid(
        cde.open(lambda e: load_faiss(tmp_path / "index", e), tmp_path / "index", model_name=headed),
        documents[1:],
        embedding,
    )
    assert_hybrid(pickle.loads(pickle.dumps(opened)), documents[1:], embedding)


def test_a_store_of_one_vector_takes_the_place_of_a_hybrid_one(headed, embedding, tmp_path):
    documents = named(0)
    cde.save_local(build(FAISS, documents, embedding, tmp_path), tmp_path / "index")
    cde.save_local(cde.from_documents(FAISS, documents, embedding), tmp_path / "index")
    assert not (tmp_path / "index" / FILE_NAME).exists()
    opened = cde.open(lambda e: load_faiss(tmp_path / "index", e), tmp_path / "index", model_name=headed)
    assert parts_of(opened) is None
    assert len(opened.similarity_search(QUERIES[0], k=12)) == 12


def test_the_indexing_api_with_deletes(embedding, tmp_path):
    documents = corpus(0)
    embedding.save_context(tmp_path / "context")
    dense = embedding.dense_part()
    chroma = Chroma("nightly", dense, persist_directory=str(tmp_path / "chroma"))
    store = cde.guard(chroma, dense, parts_dir=tmp_path / "context")
    records = InMemoryRecordManager(dense.record_namespace("nightly"))
    assert records.namespace.endswith("/dense")

    def run(given):
        done = index(given, records, store, cleanup="full", source_id_key="source", key_encoder="sha256", batch_size=5)
        return done["num_added"], done["num_deleted"]

    assert run(documents) == (12, 0)
    assert_hybrid(store, documents, embedding)
    assert run(documents[2:] + corpus(1, 2)) == (2, 2)
    assert sorted(found(store, QUERIES[0], embedding, k=20)) == sorted(texts_of(documents[2:] + corpus(1, 2)))


def test_a_write_that_fails_leaves_no_document_behind(embedding, tmp_path, monkeypatch):
    documents = named(0)
    store = build(Chroma, documents, embedding, tmp_path)

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(store._collection, "upsert", fail)
    with pytest.raises(OSError, match="disk full"):
        store.add_documents(named(1, 3))
    assert parts_of(store).index.ids == [document.id for document in documents]
    assert_hybrid(store, documents, embedding)


def test_what_only_the_index_knows_is_passed_over(embedding, tmp_path):
    """As after a process was killed between the two, or after a program deleted past the guarded store."""
    documents = named(0)
    store = build(Chroma, documents, embedding, tmp_path)
    best = expected(documents, QUERIES[0], embedding, 1)
    gone = [document.id for document in documents if document.page_content in best]
    store._collection.delete(ids=gone)
    assert found(store, QUERIES[0], embedding, k=3) == expected(documents, QUERIES[0], embedding, 4)[1:]
    store.delete(where={"source": documents[5].metadata["source"]})
    assert len(parts_of(store).index) == len(documents) - len({*gone, documents[5].id})


def test_what_was_added_past_the_store_is_noticed_when_it_is_opened(headed, embedding, tmp_path, monkeypatch):
    build(Chroma, named(0), embedding, tmp_path)
    collection = Chroma("hybrid", persist_directory=str(tmp_path / "chroma"))._collection
    one = collection.get(limit=1, include=["embeddings", "metadatas", "documents"])
    collection.add(ids=["late"], **{key: one[key] for key in ("embeddings", "metadatas", "documents")})
    monkeypatch.setattr(store_parts, "some_documents", lambda *_: [])  # of many documents a look at some misses a few
    with pytest.raises(ContextMismatchError, match="holds 13 documents, and its index of two parts 12: some"):
        cde.open(
            lambda e: Chroma("hybrid", e, persist_directory=str(tmp_path / "chroma")),
            tmp_path / "context",
            model_name=headed,
        )


def test_what_does_not_belong_together_is_refused(headed, embedding, checkpoint, tmp_path):
    documents = named(0)
    store = build(Chroma, documents, embedding, tmp_path)

    def opened(context, **settings):
        return cde.open(
            lambda e: Chroma("hybrid", e, persist_directory=str(tmp_path / "chroma")),
            context,
            model_name=headed,
            **settings,
        )

    other = cde.CDEEmbeddings(model_name=headed)
    other.fit(corpus(5))
    with pytest.raises(ContextMismatchError, match=f"embedded under context {embedding.context_fingerprint[:12]}"):
        found(store, QUERIES[0], other)
    # One vector a text, the store holds dense parts: of another size, or cut to the same.
    with pytest.raises(
        ContextMismatchError, match=r"another number of numbers; open it as .* \(model, one vector or both"
    ):
        opened(embedding.context)
    with pytest.raises(ContextMismatchError, match=r"the dense part, .* are not comparable"):
        opened(embedding.context, truncate_dim=32)
    foreign = shutil.copytree(tmp_path / "context", tmp_path / "foreign")
    build(Chroma, named(0), other, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "context" / FILE_NAME, foreign)
    with pytest.raises(ContextMismatchError, match=f"was made under context {other.context_fingerprint[:12]}"):
        opened(foreign)
    (foreign / FILE_NAME).write_bytes((foreign / FILE_NAME).read_bytes()[:-9])
    with pytest.raises(ContextFormatError, match="is damaged"):
        opened(foreign)
    (foreign / FILE_NAME).unlink()
    dense = embedding.dense_part()
    with pytest.raises(ContextMismatchError, match="which its index of two parts lacks"):
        cde.guard(Chroma("hybrid", dense, persist_directory=str(tmp_path / "chroma")), dense, parts_dir=foreign)
    for use in (
        lambda: build(Chroma, documents, cde.CDEEmbeddings(model_name=checkpoint), tmp_path / "no head"),
        lambda: cde.from_documents(Chroma, documents, embedding, hybrid=True),
        lambda: build(FAISS, documents, cde.CDEEmbeddings(model_name=embedding.model_name, truncate_dim=9), tmp_path),
        lambda: cde.guard(InMemoryVectorStore(embedding), embedding, parts_dir=tmp_path),
        lambda: cde.CDERetriever(store=InMemoryVectorStore(embedding), embedding=embedding, mode="hybrid"),
    ):
        with pytest.raises(
            ConfigError, match=r"has no corpus head|give context_dir|truncate_dim is 9|parts='dense'|hybrid=True"
        ):
            use()
    with pytest.raises(ValueError, match="has no corpus head"):  # in pydantic's words
        cde.CDEEmbeddings(model_name=checkpoint, parts="dense")
    merged = build(FAISS, documents, embedding, tmp_path)
    with pytest.raises(TypeError, match="merge_from brings no sparse parts"):
        merged.merge_from(build(FAISS, named(1), embedding, tmp_path))


# Qdrant, which takes sparse vectors itself


def test_sparse_embeddings_are_the_sparse_part(embedding):
    words = cde.CDESparseEmbeddings(embedding)
    texts = texts_of(corpus(0, 3))
    for made, vector in zip(
        words.embed_documents(texts),
        sparse_vectors(embedding.encoder.encode_documents(texts, parts="sparse")),
        strict=True,
    ):
        assert (made.indices, made.values) == vector
    (vector,) = sparse_vectors(embedding.encoder.encode_queries([QUERIES[0]], parts="sparse"))
    made = words.embed_query(QUERIES[0])
    assert (made.indices, made.values) == vector


def test_qdrant_adds_the_scores_if_it_is_told_to(headed, tmp_path):
    documents = named(0)
    dense = cde.CDEEmbeddings(model_name=headed, parts="dense")
    settings = {"sparse_embedding": cde.CDESparseEmbeddings(dense), "retrieval_mode": RetrievalMode.HYBRID}
    store = cde.from_documents(QdrantVectorStore, documents, dense, location=":memory:", **settings)
    for query in QUERIES:
        summed = store.similarity_search(query, k=12, hybrid_fusion=SUM)
        assert texts_of(summed) == expected(documents, query, dense, 12)
        for given in (dense, cde.CDEEmbeddings(model_name=headed, context=dense.context)):
            for mode in (None, "hybrid"):
                assert found(store, query, given, mode=mode) == texts_of(summed)
            assert found(store, query, given, mode="dense") == texts_of(
                store.similarity_search_by_vector(dense.embed_query(query), k=12)
            )
            words = inner_products(
                dense.encoder.encode_queries([query], parts="sparse"),
                dense.encoder.encode_documents(texts_of(documents), parts="sparse"),
            )[0]
            with_words = {text for text, value in zip(texts_of(documents), words, strict=True) if value > 0}
            by_words = found(store, query, given, mode="sparse")
            assert set(by_words) == with_words
            assert by_words[:1] == [texts_of(documents)[int(np.argmax(words))]][: len(with_words)]
    assert_alpha(store, documents, dense, 0.2)
    only = models.Filter(must=[models.FieldCondition(key="metadata.source", match=models.MatchValue(value=3))])
    assert len(found(store, QUERIES[0], dense, search_kwargs={"filter": only})) == 1
    by_ranks = [texts_of(store.similarity_search(query, k=12)) for query in QUERIES]
    assert by_ranks != [expected(documents, query, dense, 12) for query in QUERIES]
    other = cde.CDEEmbeddings(model_name=headed, parts="dense")
    other.fit(corpus(5))
    store._sparse_embeddings = cde.CDESparseEmbeddings(other)
    with pytest.raises(ContextMismatchError, match="the store embeds under context"):
        store.similarity_search(QUERIES[0])
    with pytest.raises(ContextMismatchError, match="the store embeds under context"):
        found(store, QUERIES[0], other)
