"""A guarded LangChain store answers under one context, whatever is swapped, copied, cached or merged around it."""

import asyncio
import copy
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from cde_retriever import langchain as cde
from cde_retriever.adapters.stamps import STAMP
from cde_retriever.errors import ContextMismatchError
from cde_retriever.langchain import CDEEmbeddings, CDERetriever, from_documents, guard, stamp
from tests.contract.langchain_corpus import FAISS, QUERY, corpus, fitted_on, load_faiss, texts_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from langchain_chroma import Chroma
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_classic.storage import LocalFileStore
    from langchain_community.vectorstores import SKLearnVectorStore
    from langchain_qdrant import QdrantVectorStore

ATTRIBUTE = {
    InMemoryVectorStore: "embedding",
    FAISS: "embedding_function",
    Chroma: "_embedding_function",
    QdrantVectorStore: "_embeddings",
    SKLearnVectorStore: "_embedding_function",
}
"""Where each store keeps what it embeds with."""


@pytest.fixture
def fitted(checkpoint: Path) -> Callable[..., CDEEmbeddings]:
    return lambda seed, **settings: fitted_on(checkpoint, seed, **settings)


def build(store_class: Any, documents: list[Document], embedding: CDEEmbeddings, **settings: Any) -> Any:
    if store_class is QdrantVectorStore:
        settings = {"location": ":memory:"} | settings
    return from_documents(store_class, documents, embedding, **settings)


def found_by(store: VectorStore, k: int = 12) -> list[str]:
    return texts_of(store.similarity_search(QUERY, k=k))


# What a store embeds with


def others(fitted: Any) -> dict[str, Any]:
    return {
        "another context": fitted(1),
        "another embedding": DeterministicFakeEmbedding(size=32),
        "fewer numbers": fitted(0, truncate_dim=12),
        "a method": fitted(1).embed_query,
        "a function": lambda text: [0.5] * 32,  # noqa: ARG005
    }


@pytest.mark.parametrize("store_class", ATTRIBUTE)
@pytest.mark.parametrize("other", ["another context", "another embedding", "fewer numbers", "a method", "a function"])
def test_a_swapped_embedding_neither_searches_nor_writes(store_class, other, fitted):
    embedding = fitted(0)
    store = build(store_class, corpus(0), embedding)
    expected = found_by(store)
    setattr(store, ATTRIBUTE[store_class], others(fitted)[other])
    for use in (
        lambda: store.similarity_search(QUERY),
        lambda: store.similarity_search_with_score(QUERY),
        lambda: store.max_marginal_relevance_search(QUERY),
        lambda: store.as_retriever().invoke(QUERY),
        lambda: asyncio.run(store.as_retriever(search_type="mmr").ainvoke(QUERY)),
        lambda: store.add_texts(["ba ko"]),
        lambda: store.add_documents(corpus(1, 2)),
        lambda: asyncio.run(store.aadd_documents(corpus(1, 2))),
    ):
        with pytest.raises(ContextMismatchError, match="the store embeds"):
            use()
    setattr(store, ATTRIBUTE[store_class], embedding)
    assert found_by(store) == expected


@pytest.mark.parametrize("store_class", [InMemoryVectorStore, FAISS])
@pytest.mark.parametrize("copied", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy, copy.copy])
def test_a_swapped_embedding_is_refused_in_copies_too(store_class, copied, fitted):
    store = copied(build(store_class, corpus(0), fitted(0)))
    assert len(found_by(store)) == 12
    setattr(store, ATTRIBUTE[store_class], fitted(1))
    with pytest.raises(ContextMismatchError, match="the store embeds under"):
        store.similarity_search(QUERY)


def test_documents_changed_in_place_are_embedded_and_stamped_by_the_store(fitted):
    embedding, other = fitted(0), fitted(1)
    store = build(Chroma, corpus(0, 3), embedding, ids=["a", "b", "c"], collection_name="changed")
    foreign = stamp([Document("ze ra")], other)[0]
    store.update_document("b", foreign)
    store.update_documents(["c"], [Document("ti no")])
    found = store.similarity_search(QUERY, k=10)
    assert {d.metadata[STAMP] for d in found} == {embedding.stamp}
    assert {"ze ra", "ti no"} < set(texts_of(found))
    store._embedding_function = other
    with pytest.raises(ContextMismatchError):
        store.update_document("a", Document("lu mi"))


def test_a_store_that_hides_its_embedding_is_refused_with_the_way_out(fitted):
    class Hidden(InMemoryVectorStore):
        """Keeps its embedding out of sight."""

        def __init__(self, embedding: Embeddings) -> None:
            super().__init__(embedding)
            del self.embedding
            self.inner = (embedding,)

        @property
        def embeddings(self) -> None:
            return None

        def add_documents(self, documents: Any, ids: Any = None, **kwargs: Any) -> Any:
            self.embedding = self.inner[0]
            try:
                return super().add_documents(documents, ids, **kwargs)
            finally:
                del self.embedding

    with pytest.raises(ContextMismatchError, match=r"Hidden does not show what it embeds with.*CDERetriever\("):
        from_documents(Hidden, corpus(0), fitted(0))
    embedding = fitted(0)
    plain = Hidden.from_documents(stamp(corpus(0), embedding), embedding)
    assert len(CDERetriever(store=plain, embedding=embedding, k=30).invoke(QUERY)) == 12


def test_a_refused_guard_leaves_the_store_unguarded(fitted):
    embedding, other = fitted(0), fitted(1)
    store = InMemoryVectorStore.from_documents(stamp(corpus(1), other), embedding)
    with pytest.raises(ContextMismatchError):
        guard(store, embedding)
    assert type(store) is InMemoryVectorStore
    store.embedding = other
    assert len(found_by(guard(store, other))) == 12


# Vectors as queries


@pytest.mark.parametrize("store_class", [InMemoryVectorStore, FAISS, Chroma, QdrantVectorStore])
def test_a_vector_is_a_query_if_it_says_what_made_it(store_class, fitted):
    embedding, other = fitted(0), fitted(1)
    store = build(store_class, corpus(0), embedding)
    own = embedding.embed_query(QUERY)
    assert texts_of(store.similarity_search_by_vector(own)) == found_by(store, 4)
    like = embedding.embed_documents([corpus(0)[3].page_content])[0]
    assert store.similarity_search_by_vector(like, k=1)[0].page_content == corpus(0)[3].page_content
    for search in (store.similarity_search_by_vector, store.max_marginal_relevance_search_by_vector):
        with pytest.raises(ContextMismatchError, match="the query vector was embedded under"):
            search(other.embed_query(QUERY))
        with pytest.raises(ContextMismatchError, match="the query vector was embedded under"):
            search(embedding=other.embed_documents([QUERY])[0])
        for unknown in (list(own), np.array(own), own[:12], [0.1] * 32):
            with pytest.raises(ContextMismatchError, match="does not say what made it"):
                search(unknown)
    with pytest.raises(ContextMismatchError, match="the query vector was embedded under"):
        asyncio.run(store.asimilarity_search_by_vector(other.embed_query(QUERY)))


def test_vectors_keep_their_stamp_through_pickles_and_copies(fitted):
    vector = fitted(0).embed_query(QUERY)
    for again in (pickle.loads(pickle.dumps(vector)), copy.copy(vector), copy.deepcopy(vector)):
        assert (again, again.stamp) == (vector, fitted(0).stamp)


def test_vectors_of_unknown_origin_are_not_added(fitted):
    store = build(FAISS, corpus(0), fitted(0))
    foreign = fitted(1).embed_documents(["ba ko"])
    with pytest.raises(ContextMismatchError, match=r"add_embeddings brings vectors.*add_texts"):
        store.add_embeddings([("ba ko", foreign[0])], [{STAMP: fitted(0).stamp}])
    assert len(found_by(store)) == 12


# Files


def test_a_faiss_folder_answers_to_guarded_stores_alone(fitted, tmp_path):
    embedding, other = fitted(0), fitted(1)
    store = build(FAISS, corpus(0), embedding)
    expected = store.similarity_search_with_score(QUERY, k=12)
    store.save_local(str(tmp_path))
    for wrong in (other, DeterministicFakeEmbedding(size=32), embedding):
        stock = load_faiss(tmp_path, wrong)
        for use in (
            lambda stock=stock: stock.similarity_search(QUERY),
            lambda stock=stock: stock.as_retriever().invoke(QUERY),
            lambda stock=stock: stock.similarity_search_by_vector([0.1] * 32),
            lambda stock=stock: stock.max_marginal_relevance_search(QUERY),
            lambda stock=stock: stock.add_texts(["ba ko"]),
        ):
            with pytest.raises(ContextMismatchError, match=r"only a guarded store of that context.*langchain\.open"):
                use()
    with pytest.raises(ContextMismatchError):
        guard(load_faiss(tmp_path, other), other)
    again = guard(load_faiss(tmp_path, embedding), embedding)
    assert again.similarity_search_with_score(QUERY, k=12) == expected
    opened = cde.open(lambda e: load_faiss(tmp_path, e), tmp_path, model_name=embedding.model_name)
    assert opened.similarity_search_with_score(QUERY, k=12) == expected


def test_a_vector_file_of_another_index_is_refused(fitted, tmp_path):
    first, second = fitted(0), fitted(1)
    ids = [str(i) for i in range(12)]
    build(FAISS, corpus(0), first, ids=ids).save_local(str(tmp_path / "first"))
    build(FAISS, corpus(1), second, ids=ids).save_local(str(tmp_path / "second"))
    shutil.copy(tmp_path / "second" / "index.faiss", tmp_path / "first" / "index.faiss")
    for context, match in (
        (tmp_path / "first", r"index\.faiss is not the file that the index was saved with: it was copied from another"),
        (first.context, r"index\.faiss was copied from another index, or is damaged"),
    ):
        with pytest.raises(ContextMismatchError, match=match):
            cde.open(lambda e: load_faiss(tmp_path / "first", e), context, model_name=first.model_name)


def test_a_vector_file_is_checked_after_additions_and_deletions_too(fitted, tmp_path):
    store = build(FAISS, corpus(0), fitted(0))
    store.save_local(str(tmp_path / "small"))
    (extra,) = store.add_texts(["ba ko"])
    store.save_local(str(tmp_path / "large"))
    assert len(found_by(guard(load_faiss(tmp_path / "large", fitted(0)), fitted(0)), 20)) == 13
    store.delete([extra])
    store.save_local(str(tmp_path / "again"))
    assert len(found_by(guard(load_faiss(tmp_path / "again", fitted(0)), fitted(0)))) == 12
    shutil.copy(tmp_path / "small" / "index.faiss", tmp_path / "large")
    with pytest.raises(ContextMismatchError, match="not those that its documents were saved with"):
        guard(load_faiss(tmp_path / "large", fitted(0)), fitted(0))


# Writes


@pytest.mark.parametrize("store_class", [Chroma, QdrantVectorStore])
def test_a_refused_corpus_leaves_the_store_of_the_first_as_it_was(store_class, fitted, tmp_path):
    first, second = fitted(0), fitted(1)
    path = {"persist_directory": str(tmp_path)} if store_class is Chroma else {"path": str(tmp_path)}
    store = from_documents(store_class, corpus(0), first, collection_name="docs", **path)
    expected = store.similarity_search_with_score(QUERY, k=30)
    client = {"client": store._client if store_class is Chroma else store.client}
    if store_class is Chroma:
        with pytest.raises(ContextMismatchError, match="embed its documents again"):
            from_documents(Chroma, corpus(1), second, collection_name="docs", **client)
    with pytest.raises(ContextMismatchError, match="embed its documents again"):
        guard(store_class(collection_name="docs", **client, **embedding_argument(store_class, second)), second)
    assert store.similarity_search_with_score(QUERY, k=30) == expected
    again = guard(store_class(collection_name="docs", **client, **embedding_argument(store_class, first)), first)
    assert again.similarity_search_with_score(QUERY, k=30) == expected


def embedding_argument(store_class: type, embedding: CDEEmbeddings) -> dict[str, Any]:
    return {"embedding_function" if store_class is Chroma else "embedding": embedding}


def test_two_guards_on_an_empty_collection_the_second_writer_is_refused(fitted):
    first, second = (guard(Chroma("shared", e), e) for e in (fitted(0), fitted(1)))
    first.add_documents(corpus(0))
    expected = found_by(first)
    for write in (
        lambda: second.add_documents(corpus(1)),
        lambda: second.add_texts(["ba ko"]),
        lambda: asyncio.run(second.aadd_documents(corpus(1))),
        lambda: index(corpus(1), InMemoryRecordManager("n"), second, key_encoder="sha256"),
    ):
        with pytest.raises(ContextMismatchError, match="embed its documents again"):
            write()
    assert found_by(first) == expected


def test_vectors_of_another_width_are_refused_before_anything_is_written(fitted):
    whole, cut = fitted(0), fitted(0, truncate_dim=12)
    for store_class in (InMemoryVectorStore, FAISS, Chroma, SKLearnVectorStore):
        store = store_class.from_documents(stamp(corpus(0), whole), whole)
        setattr(store, ATTRIBUTE[store_class], cut)
        with pytest.raises(ContextMismatchError, match=r"another number of numbers; open it .* truncate_dim"):
            guard(store, cut)


# Stores that lack a method


def test_a_store_that_cannot_search_by_vector_is_guarded_all_the_same(fitted):
    embedding = fitted(0)
    store = from_documents(SKLearnVectorStore, corpus(0), embedding)
    expected = np.array(embedding.embed_documents(texts_of(corpus(0)))) @ np.array(embedding.embed_query(QUERY))
    best = [corpus(0)[i].page_content for i in np.argsort(-expected)]
    assert found_by(store, 12) == best
    assert guard(SKLearnVectorStore(embedding), embedding).add_texts(["ba ko"])  # an empty one says so by an error
    with pytest.raises(TypeError, match=r"SKLearnVectorStore cannot search by vector.*as_retriever\(\)"):
        CDERetriever(store=store, embedding=embedding)
    foreign = SKLearnVectorStore.from_documents(stamp(corpus(1), fitted(1)), fitted(1))
    foreign._embedding_function = embedding
    with pytest.raises(ContextMismatchError):
        guard(foreign, embedding)


def test_a_store_with_asynchronous_methods_alone_is_guarded(fitted):
    class Later(InMemoryVectorStore):
        """Refuses its synchronous methods, as stores over an asynchronous driver do."""

        def similarity_search(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError("use asimilarity_search")

        def add_documents(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError("use aadd_documents")

    first, second = fitted(0), fitted(1)
    store = guard(Later(first), first)
    asyncio.run(store.aadd_documents(corpus(0)))
    assert len(asyncio.run(store.asimilarity_search(QUERY, k=30))) == 12
    other = Later(second)
    other.store = store.store
    other = guard(other, second)
    before = dict(store.store)
    with pytest.raises(ContextMismatchError, match="embed its documents again"):
        asyncio.run(other.aadd_documents(corpus(1)))
    assert store.store == before


# Caches and records


def cached(embedding: CDEEmbeddings, store: Any, **kwargs: Any) -> CacheBackedEmbeddings:
    kwargs = {"namespace": embedding.cache_namespace, "key_encoder": "sha256"} | kwargs
    return CacheBackedEmbeddings.from_bytes_store(embedding, store, **kwargs)


@pytest.mark.parametrize(
    "arguments",
    [
        {"namespace": "model"},
        {"namespace": ""},
        {"namespace": "", "key_encoder": lambda key: f"mine-{key}"},
    ],
)
def test_a_cache_whose_keys_do_not_tell_contexts_apart_is_refused(arguments, fitted):
    embedding, files = fitted(0), InMemoryByteStore()
    with pytest.raises(ContextMismatchError, match=r"keys without context.*namespace=embedding\.cache_namespace"):
        guard(InMemoryVectorStore(cached(embedding, files, **arguments)), embedding)


def test_two_contexts_share_a_byte_store_under_their_own_namespaces(fitted, tmp_path):
    files = LocalFileStore(tmp_path)
    embeddings = [fitted(0), fitted(1), fitted(0, truncate_dim=12)]
    for embedding in embeddings:
        store = guard(InMemoryVectorStore(cached(embedding, files)), embedding)
        store.add_documents(corpus(0))
        plain = guard(InMemoryVectorStore(embedding), embedding)
        plain.add_documents(corpus(0))
        for (one, score), (two, expected) in zip(
            store.similarity_search_with_score(QUERY, k=12),
            plain.similarity_search_with_score(QUERY, k=12),
            strict=True,
        ):
            assert one.page_content == two.page_content
            assert score == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ContextMismatchError, match="keys without context"):
        guard(InMemoryVectorStore(cached(embeddings[1], files, namespace=embeddings[0].cache_namespace)), embeddings[1])
    for one, other in ((0, 2), (2, 0)):
        wrong = cached(embeddings[one], files, namespace=embeddings[other].cache_namespace)
        with pytest.raises(ContextMismatchError, match="keys without context"):
            guard(InMemoryVectorStore(wrong), embeddings[one])


def test_queries_and_documents_in_one_byte_store_are_refused_however_it_is_given(fitted, tmp_path):
    embedding, store = fitted(0), InMemoryByteStore()
    for documents, queries in (
        (store, True),
        (store, store),
        (LocalFileStore(tmp_path), LocalFileStore(tmp_path)),
    ):
        crossing = cached(embedding, documents, query_embedding_cache=queries)
        with pytest.raises(ContextMismatchError, match="byte store of its own"):
            guard(InMemoryVectorStore(crossing), embedding)


def test_what_a_cache_embeds_with_is_looked_at_whenever_the_store_embeds(fitted):
    embedding = fitted(0)
    cache = cached(embedding, InMemoryByteStore())
    store = guard(InMemoryVectorStore(cache), embedding)
    store.add_documents(corpus(0))
    cache.underlying_embeddings = fitted(1)
    for use in (lambda: store.similarity_search(QUERY), lambda: store.add_texts(["ba ko"])):
        with pytest.raises(ContextMismatchError, match="embeds under"):
            use()


def test_namespaces_tell_vectors_of_different_size_apart(fitted):
    whole, cut, shorter = fitted(0), fitted(0, truncate_dim=12), fitted(0, truncate_dim=8)
    assert whole.cache_namespace == f"cde/tiny-bert/{whole.context_fingerprint}"  # as in version 0.1.0
    assert whole.record_namespace("docs") == f"docs/{whole.context_fingerprint}"
    assert fitted(0, truncate_dim=32).cache_namespace == whole.cache_namespace  # all the numbers there are
    assert len({e.cache_namespace for e in (whole, cut, shorter)}) == 3
    assert len({e.record_namespace("docs") for e in (whole, cut, shorter)}) == 3
    store = InMemoryByteStore()
    cached(whole, store).embed_documents(["ba ko"])
    vectors = cached(cut, store).embed_documents(["ba ko", "mi lu"])
    assert [len(vector) for vector in vectors] == [12, 12]


def test_the_indexing_api_adds_everything_again_for_vectors_of_another_size(fitted):
    documents = corpus(0)
    for truncate_dim in (None, 12):
        embedding = fitted(0, truncate_dim=truncate_dim)
        records = InMemoryRecordManager(embedding.record_namespace("docs"))
        store = guard(InMemoryVectorStore(embedding), embedding)
        assert index(documents, records, store, key_encoder="sha256")["num_added"] == 12
        assert len(found_by(store)) == 12


def test_cut_vectors_stored_by_version_0_1_0_are_found(fitted):
    """It stamped them without their number."""
    embedding = fitted(0, truncate_dim=12)
    assert embedding.stamp == f"{embedding.context_fingerprint}/12"
    old = [Document(d.page_content, metadata={STAMP: embedding.context_fingerprint}) for d in corpus(0)]
    store = guard(InMemoryVectorStore.from_documents(old, embedding), embedding)
    assert len(found_by(store)) == 12
