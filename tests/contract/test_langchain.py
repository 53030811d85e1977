"""`cde_retriever.langchain` with real stores, and every LangChain trap of the design as a test."""

import asyncio
import copy
import json
import os
import pickle
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.load import dumpd, load
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from cde_retriever import langchain as cde
from cde_retriever.adapters.stamps import STAMP
from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import CheckpointError, ContextError, ContextMismatchError, ContextNotFittedError
from cde_retriever.langchain import CDEEmbeddings, CDERetriever, from_documents, guard, stamp
from tests.contract.langchain_corpus import FAISS, write_into_faiss
from tests.tiny import documents as made_up
from tests.tiny import tiny_checkpoint

os.environ["ANONYMIZED_TELEMETRY"] = "False"
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from langchain_chroma import Chroma
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_classic.storage import LocalFileStore
    from langchain_qdrant import QdrantVectorStore

Make = Callable[..., CDEEmbeddings]
QUERY = "baron kolak mi"


def corpus(seed: int, count: int = 40) -> list[Document]:
    return [Document(text, metadata={"source": i}) for i, text in enumerate(made_up(count, seed))]


def texts_of(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def foreign_to(first: CDEEmbeddings, second: CDEEmbeddings, text: str = QUERY) -> float:
    """Largest difference between two embeddings' vectors of one query."""
    return float(np.abs(np.subtract(first.embed_query(text), second.embed_query(text))).max())


@dataclass(frozen=True)
class Kind:
    """How one LangChain store is built in a folder, put on disk, and opened again."""

    store_class: type[VectorStore]
    arguments: Callable[[Path], dict[str, Any]]
    persist: Callable[[Any, Path], None]
    opener: Callable[[Path], Callable[[Embeddings], VectorStore]]


KINDS = {
    "in_memory": Kind(
        InMemoryVectorStore,
        lambda _: {},
        lambda store, folder: store.dump(str(folder / "store.json")),
        lambda folder: lambda e: InMemoryVectorStore.load(str(folder / "store.json"), e),
    ),
    "faiss": Kind(
        FAISS,
        lambda _: {},
        lambda store, folder: store.save_local(str(folder)),
        lambda folder: lambda e: FAISS.load_local(str(folder), e, allow_dangerous_deserialization=True),
    ),
    "chroma": Kind(
        Chroma,
        lambda folder: {"collection_name": "documents", "persist_directory": str(folder / "chroma")},
        lambda _store, _folder: None,
        lambda folder: lambda e: Chroma("documents", e, persist_directory=str(folder / "chroma")),
    ),
    "qdrant": Kind(
        QdrantVectorStore,
        lambda folder: {"collection_name": "documents", "path": str(folder / "qdrant")},
        lambda store, _folder: store.client.close(),
        lambda folder: (
            lambda e: QdrantVectorStore.from_existing_collection("documents", e, path=str(folder / "qdrant"))
        ),
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Same sizes, other weights."""
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "other", seed=1)


@pytest.fixture(scope="session")
def prompted_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `checkpoint`, with prompts."""
    prompts = {"query": "ask ", "document": "tell "}
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "prompted", prompts=prompts)


@pytest.fixture
def make(checkpoint: Path) -> Make:
    """Make an embedding on the tiny checkpoint."""

    def make(**settings: Any) -> CDEEmbeddings:
        return CDEEmbeddings(**({"model_name": checkpoint} | settings))

    return make


@pytest.fixture
def fitted(make: Make) -> Callable[[int], CDEEmbeddings]:
    """Make an embedding fitted on the corpus of a seed."""

    def fitted(seed: int) -> CDEEmbeddings:
        embedding = make()
        embedding.fit(corpus(seed))
        return embedding

    return fitted


# The class


def test_import_loads_no_store_and_no_other_framework():
    unwanted = "langchain_community langchain_classic langchain_chroma chromadb faiss qdrant_client llama_index"
    code = f"import sys, cde_retriever.langchain; print([m for m in {unwanted.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["langchain_core.callbacks", "pydantic"])
def test_missing_langchain_core_gives_the_install_line(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import cde_retriever.langchain"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "cde-retriever[langchain]"' in done.stderr.splitlines()[-1]


def test_vectors_are_the_encoders_as_python_floats(make, checkpoint):
    embedding = make()
    context = embedding.fit(corpus(0))
    encoder = ContextualEncoder.from_pretrained(checkpoint)
    encoder.set_context(context)
    texts = made_up(5, seed=9)
    vectors = embedding.embed_documents(texts)
    np.testing.assert_allclose(vectors, encoder.encode_documents(texts), atol=1e-6)
    np.testing.assert_allclose(embedding.embed_query(QUERY), encoder.encode_queries([QUERY])[0], atol=1e-6)
    assert type(vectors) is list
    assert {type(x) for row in [*vectors, embedding.embed_query(QUERY)] for x in row} == {float}
    assert embedding.dimension == len(vectors[0])


def test_queries_and_documents_get_their_own_prompt(prompted_checkpoint, make):
    embedding = make(model_name=prompted_checkpoint)
    embedding.fit(corpus(0))
    assert np.abs(np.subtract(embedding.embed_query(QUERY), embedding.embed_documents([QUERY])[0])).max() > 1e-3


def test_texts_reach_the_model_unedited(make, monkeypatch):
    embedding = make()
    embedding.fit(corpus(0))
    seen: list[str] = []
    monkeypatch.setattr(embedding.encoder, "encode_documents", lambda t, **_: seen.extend(t) or np.zeros((len(t), 1)))
    monkeypatch.setattr(embedding.encoder, "encode_queries", lambda t, **_: seen.extend(t) or np.zeros((len(t), 1)))
    embedding.embed_documents(["line\nline\t ", ""])
    embedding.embed_query("  a\nb")
    assert seen == ["line\nline\t ", "", "  a\nb"]


def test_shorter_vectors(checkpoint):
    embeddings = CDEEmbeddings(model_name=str(checkpoint), truncate_dim=12)
    store = from_documents(FAISS, corpus(1), embedding=embeddings)
    assert store.index.d == len(embeddings.embed_query(QUERY)) == 12


def test_empty_batch_gives_no_vectors_and_fits_nothing(make):
    embedding = make()
    with pytest.raises(ContextNotFittedError):
        embedding.embed_documents([])
    assert not embedding.is_fitted
    embedding.fit(corpus(0))
    assert embedding.embed_documents([]) == []


def test_empty_text_gives_a_finite_vector(fitted):
    assert np.isfinite(fitted(0).embed_documents(["", " \n"])).all()


@pytest.mark.parametrize(
    "use",
    [
        lambda e: e.embed_query(QUERY),
        lambda e: e.embed_documents(["a"]),
        lambda e: asyncio.run(e.aembed_query(QUERY)),
        lambda e: asyncio.run(e.aembed_documents(["a"])),
        lambda e: e.context,
        lambda e: e.context_fingerprint,
        lambda e: e.cache_namespace,
        lambda e: e.record_namespace("base"),
        lambda e: e.save_context("nowhere"),
        lambda e: stamp(corpus(0), e),
        lambda e: guard(InMemoryVectorStore(e), e),
    ],
)
def test_query_before_fit_raises_with_the_ways_out(make, use):
    embedding = make()
    ways = r"from_documents\(.*fit\(documents\).*CDEEmbeddings\(context=path\).*use_null_context\(\)"
    with pytest.raises(ContextNotFittedError, match=ways):
        use(embedding)
    assert not embedding.is_fitted
    assert embedding.dimension == 32


def test_an_embedding_shows_what_was_chosen_its_context_and_its_size(make):
    embedding = make(batch_size=7, truncate_dim=12)
    assert "batch_size=7" in repr(embedding)
    assert repr(embedding).endswith(f"context=None, dimension=12, max_tokens={embedding.max_tokens})")
    embedding.fit(corpus(0))
    assert f"context={embedding.context!r}, dimension=12" in repr(embedding)
    assert repr(embedding.context) in repr(make(context=embedding.context))
    assert "device" not in repr(embedding)


def test_embeddings_of_one_checkpoint_share_weights_not_contexts(fitted):
    first, second = fitted(0), fitted(1)
    assert first.encoder.open_model() is second.encoder.open_model()
    assert first.context_fingerprint != second.context_fingerprint
    assert foreign_to(first, second) > 1e-3


def test_unknown_settings_are_errors(make):
    with pytest.raises(ValueError, match="contxt_size"):
        make(contxt_size=9)
    with pytest.raises(ValueError, match="batch_size"):
        make(batch_size=0)
    with pytest.raises(ValueError, match="float8"):
        make(dtype="float8")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        make(model_name=Path(__file__).parent)
    with pytest.raises(ValueError, match="frozen"):
        make().model_name = "another"


def test_settings_reach_the_sample(make):
    embedding = make(context_size=5, seed=3)
    assert (embedding.fit(corpus(0)).size, embedding.context.seed) == (5, 3)
    assert make(context_size=5, seed=4).fit(corpus(0)).fingerprint != embedding.context_fingerprint


def test_fit_takes_texts_and_documents_once_in_any_order(make):
    documents = corpus(0)
    expected = make().fit(documents).fingerprint
    assert make().fit(iter(texts_of(documents))).fingerprint == expected
    assert make().fit(reversed(documents)).fingerprint == expected


@pytest.mark.parametrize(("wrong", "match"), [("text", "one str"), (["a", 5], "document 1 is int")])
def test_fit_refuses_what_is_no_corpus(make, wrong, match):
    embedding = make()
    with pytest.raises(TypeError, match=match):
        embedding.fit(wrong)
    with pytest.raises(ContextError, match="none of the 1 documents"):
        embedding.fit([""])
    assert not embedding.is_fitted


def test_fewer_documents_than_the_context_size(make):
    store = from_documents(InMemoryVectorStore, corpus(0, 3), make())
    assert store.embeddings.context.size == 3 < make().encoder.config.context_size
    assert len(store.similarity_search(QUERY, k=10)) == 3


def test_duplicates_count_once_in_the_context_and_stay_in_the_store(make):
    documents = corpus(0, 4)
    store = from_documents(InMemoryVectorStore, [*documents, *documents, *documents], make())
    assert (store.embeddings.context.size, store.embeddings.context.documents_seen) == (4, 12)
    assert len(store.similarity_search(QUERY, k=50)) == 12
    assert store.embeddings.context_fingerprint == make().fit(documents).fingerprint


def test_second_fit_with_another_corpus_raises_and_changes_nothing(fitted):
    embedding = fitted(0)
    before = embedding.context_fingerprint, embedding.embed_query(QUERY)
    other = fitted(1)
    with pytest.raises(ContextMismatchError, match=rf"{before[0][:12]}.*{other.context_fingerprint[:12]}.*make a new"):
        embedding.fit(corpus(1))
    with pytest.raises(ContextMismatchError, match="for life"):
        embedding.load_context(other.context)
    with pytest.raises(ContextMismatchError, match="for life"):
        embedding.use_null_context()
    assert (embedding.context_fingerprint, embedding.embed_query(QUERY)) == before
    assert embedding.fit(reversed(corpus(0))).fingerprint == before[0]


def test_null_context_is_a_mode_with_a_fingerprint_of_its_own(make, fitted):
    embedding = make()
    embedding.use_null_context()
    assert embedding.context.size == 0
    assert foreign_to(embedding, fitted(0)) > 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a null context is foreign to no corpus
        store = from_documents(InMemoryVectorStore, corpus(0), embedding)
    assert store.similarity_search(QUERY)[0].metadata[STAMP] == embedding.context_fingerprint


def test_context_is_saved_loaded_and_given_as_object_or_path(make, fitted, tmp_path):
    embedding = fitted(0)
    file = embedding.save_context(tmp_path / "index")
    expected = embedding.embed_query(QUERY)
    for given in (file, str(tmp_path / "index"), embedding.context):
        assert make(context=given).embed_query(QUERY) == expected
    late = make()
    late.load_context(tmp_path / "index")
    assert late.embed_query(QUERY) == expected
    with pytest.raises(FileNotFoundError, match="no context at"):
        make(context=tmp_path / "nothing")


def test_save_does_not_overwrite_another_context(fitted, tmp_path):
    first, second = fitted(0), fitted(1)
    first.save_context(tmp_path)
    with pytest.raises(ContextMismatchError, match=first.context_fingerprint[:12]):
        second.save_context(tmp_path)
    assert Context.load(tmp_path).fingerprint == first.context_fingerprint


def test_pickle_carries_the_context(make, fitted):
    embedding = fitted(0)
    again = pickle.loads(pickle.dumps(embedding))
    assert again.context_fingerprint == embedding.context_fingerprint
    assert again.embed_query(QUERY) == embedding.embed_query(QUERY)
    with pytest.raises(ContextMismatchError):
        again.fit(corpus(1))
    again = pickle.loads(pickle.dumps(make(batch_size=7)))
    assert again.batch_size == 7
    with pytest.raises(ContextNotFittedError):
        again.embed_query(QUERY)


def test_settings_as_json_come_back_with_the_context_they_are_given_again(fitted, tmp_path):
    embedding = fitted(0)
    embedding.save_context(tmp_path)
    settings = json.loads(embedding.model_dump_json())
    again = CDEEmbeddings(**settings, context=tmp_path)
    assert again.model_dump_json() == embedding.model_dump_json()
    assert again.embed_query(QUERY) == embedding.embed_query(QUERY)
    with pytest.raises(ContextNotFittedError):
        CDEEmbeddings(**settings).embed_query(QUERY)


@pytest.mark.filterwarnings("ignore:The function `load`")
def test_dumpd_describes_an_embedding_and_load_makes_none_of_it(fitted):
    embedding = fitted(0)
    store = from_documents(InMemoryVectorStore, corpus(0), embedding)
    for thing in (embedding, store.as_retriever(), CDERetriever(store=store, embedding=embedding)):
        described = json.loads(json.dumps(dumpd(thing)))
        assert described["type"] == "not_implemented"
        assert type(thing).__name__ == described["id"][-1]
        assert corpus(0)[0].page_content not in described["repr"]
        with pytest.raises(NotImplementedError):
            load(described, allowed_objects="core")
    assert embedding.context_fingerprint[:12] in dumpd(embedding)["repr"]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda e: e.model_copy(deep=True)])
def test_copies_cannot_part_from_their_original(make, copied):
    embedding = make()
    twin = copied(embedding)
    twin.fit(corpus(0))
    assert embedding.context_fingerprint == twin.context_fingerprint
    with pytest.raises(ContextMismatchError):
        embedding.fit(corpus(1))


def test_eight_threads_get_the_vectors_of_one(fitted):
    embedding = fitted(0)
    texts = made_up(40, seed=5)
    expected = [embedding.embed_documents([text])[0] for text in texts]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: embedding.embed_documents([text])[0], texts))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_eight_threads_fitting_different_corpora_leave_one_context(make):
    embedding = make()

    def fit(seed: int) -> str | None:
        try:
            return embedding.fit(corpus(seed)).fingerprint
        except ContextMismatchError:
            return None

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(fit, range(8)))
    assert [result for result in results if result] == [embedding.context_fingerprint]


async def test_async_gather_of_many_batches(fitted):
    embedding = fitted(0)
    batches = [made_up(6, seed=seed) for seed in range(12)]
    found = await asyncio.gather(*(embedding.aembed_documents(batch) for batch in batches))
    for batch, vectors in zip(batches, found, strict=True):
        np.testing.assert_allclose(vectors, embedding.embed_documents(batch), atol=1e-6)
    assert await embedding.aembed_query(QUERY) == embedding.embed_query(QUERY)


# Stores: build, persist, open, extend


def test_from_documents_fits_on_all_stamps_copies_and_ranks(kind, make, tmp_path):
    documents = corpus(0)
    given = copy.deepcopy(documents)
    embedding = make()
    store = from_documents(kind.store_class, documents, embedding, **kind.arguments(tmp_path))
    assert isinstance(store, kind.store_class)
    assert documents == given
    assert embedding.context_fingerprint == make().fit(documents).fingerprint
    scores = np.array(embedding.embed_documents(texts_of(documents))) @ np.array(embedding.embed_query(QUERY))
    best = [documents[i].page_content for i in np.argsort(-scores)[:5]]
    found = store.similarity_search(QUERY, k=5)
    assert texts_of(found) == best
    assert {d.metadata[STAMP] for d in found} == {embedding.context_fingerprint}
    assert [d.metadata["source"] for d in found] == [texts_of(documents).index(text) for text in best]


def test_persist_open_and_add_keeps_old_vectors_and_ranking(kind, make, tmp_path):
    folder = tmp_path / "index"
    store = from_documents(kind.store_class, corpus(0), make(), context_dir=folder, **kind.arguments(folder))
    expected = texts_of(store.similarity_search(QUERY, k=8))
    kind.persist(store, folder)
    again = cde.open(kind.opener(folder), folder, embedding=make())
    assert texts_of(again.similarity_search(QUERY, k=8)) == expected
    again.add_documents([Document(QUERY, metadata={"source": -1})])
    again.add_texts(iter(["added text"]))
    again.add_texts(["with metadata"], [{"source": -2}])
    found = again.similarity_search(QUERY, k=43)
    assert len(found) == 43
    assert {d.metadata[STAMP] for d in found} == {again.embeddings.context_fingerprint}
    assert [t for t in texts_of(found) if t in expected][:7] == [t for t in expected if t in texts_of(found)][:7]
    assert found[0].page_content == QUERY


def test_reload_with_another_context_raises_in_open(kind, make, fitted, tmp_path):
    folder = tmp_path / "index"
    store = from_documents(kind.store_class, corpus(0), make(), context_dir=folder, **kind.arguments(folder))
    built = store.embeddings.context_fingerprint
    kind.persist(store, folder)
    other = fitted(1)
    other.save_context(tmp_path / "other")
    mismatch = rf"{built[:12]}.*{other.context_fingerprint[:12]}.*with the context it was built with"
    with pytest.raises(ContextMismatchError, match=mismatch):
        cde.open(kind.opener(folder), tmp_path / "other", embedding=make())


def test_reload_with_an_unfitted_embedding_raises_in_plain_langchain(kind, make, tmp_path):
    folder = tmp_path / "index"
    store = from_documents(kind.store_class, corpus(0), make(), context_dir=folder, **kind.arguments(folder))
    kind.persist(store, folder)
    with pytest.raises(ContextNotFittedError):
        kind.opener(folder)(make()).similarity_search(QUERY)


@pytest.mark.parametrize("which", ["other_checkpoint", "prompted_checkpoint"])
def test_reload_with_another_model_or_prompts_raises_in_open(which, make, request, tmp_path):
    store = from_documents(InMemoryVectorStore, corpus(0), make(), context_dir=tmp_path)
    KINDS["in_memory"].persist(store, tmp_path)
    with pytest.raises(
        ContextMismatchError, match=r"load that model( with prompts=.*)?, or fit a context with this one"
    ):
        cde.open(KINDS["in_memory"].opener(tmp_path), tmp_path, model_name=request.getfixturevalue(which))


def test_open_makes_the_embedding_from_model_arguments(make, checkpoint, tmp_path):
    store = from_documents(InMemoryVectorStore, corpus(0), make(), context_dir=tmp_path)
    KINDS["in_memory"].persist(store, tmp_path)
    opener = KINDS["in_memory"].opener(tmp_path)
    again = cde.open(opener, store.embeddings.context, model_name=checkpoint, batch_size=3)
    assert again.embeddings.batch_size == 3
    assert again.similarity_search(QUERY) == store.similarity_search(QUERY)
    with pytest.raises(TypeError, match=r"received an embedding and arguments.*batch_size"):
        cde.open(opener, tmp_path, embedding=make(), batch_size=3)
    with pytest.raises(FileNotFoundError, match="no context at"):
        cde.open(opener, tmp_path / "nowhere", embedding=make())


def test_open_refuses_an_opener_that_embeds_with_something_else(make, fitted, tmp_path):
    class Constant(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[1.0] * 32 for _ in texts]

        def embed_query(self, text: str) -> list[float]:  # noqa: ARG002
            return [1.0] * 32

    store = from_documents(InMemoryVectorStore, corpus(0), make(), context_dir=tmp_path)
    KINDS["in_memory"].persist(store, tmp_path)
    opener = KINDS["in_memory"].opener(tmp_path)
    with pytest.raises(ContextMismatchError, match="the store embeds with Constant, not"):
        cde.open(lambda _: opener(Constant()), tmp_path, embedding=make())
    other = fitted(1)
    with pytest.raises(ContextMismatchError, match=f"embeds under context {other.context_fingerprint[:12]}, not"):
        cde.open(lambda _: opener(other), tmp_path, embedding=make())


def test_context_is_saved_before_any_vector_is_stored(make, fitted, tmp_path):
    fitted(1).save_context(tmp_path / "taken")
    client_folder = tmp_path / "chroma"
    with pytest.raises(ContextMismatchError, match="not overwritten"):
        from_documents(Chroma, corpus(0), make(), context_dir=tmp_path / "taken", persist_directory=str(client_folder))
    assert not client_folder.exists()

    class Failing(InMemoryVectorStore):
        def add_documents(self, *_: Any, **__: Any) -> list[str]:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        from_documents(Failing, corpus(0), make(), context_dir=tmp_path / "new")
    assert Context.load(tmp_path / "new").fingerprint == make().fit(corpus(0)).fingerprint


def test_two_stores_sharing_one_embedding_share_its_context_and_the_second_corpus_warns(make):
    embedding = make()
    first = from_documents(InMemoryVectorStore, corpus(0), embedding)
    expected = first.similarity_search(QUERY)
    with pytest.warns(UserWarning, match=r"none of the 16 context documents .* use a new CDEEmbeddings"):
        second = from_documents(InMemoryVectorStore, corpus(1), embedding)
    assert first.similarity_search(QUERY) == expected
    assert second.similarity_search(QUERY)[0].metadata[STAMP] == embedding.context_fingerprint
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_documents(InMemoryVectorStore, corpus(0), embedding)


def test_empty_corpus_raises(make):
    with pytest.raises(ContextError, match="none of the 0 documents"):
        from_documents(InMemoryVectorStore, [], make())


def test_document_ids_are_kept(make):
    store = from_documents(InMemoryVectorStore, [Document("ba ko", id="one"), Document("mi lu", id="two")], make())
    assert {d.id for d in store.similarity_search(QUERY)} == {"one", "two"}


# The guard


def searches(store: VectorStore, embedding: CDEEmbeddings) -> dict[str, Callable[[], Any]]:
    vector = embedding.embed_query(QUERY)
    run = asyncio.run
    return {
        "similarity_search": lambda: store.similarity_search(QUERY),
        "similarity_search_with_score": lambda: store.similarity_search_with_score(QUERY),
        "similarity_search_by_vector": lambda: store.similarity_search_by_vector(vector),
        "relevance": lambda: store.similarity_search_with_relevance_scores(QUERY),
        "mmr": lambda: store.max_marginal_relevance_search(QUERY),
        "mmr_by_vector": lambda: store.max_marginal_relevance_search_by_vector(vector),
        "search": lambda: store.search(QUERY, "similarity"),
        "asimilarity_search": lambda: run(store.asimilarity_search(QUERY)),
        "asimilarity_search_with_score": lambda: run(store.asimilarity_search_with_score(QUERY)),
        "asimilarity_search_by_vector": lambda: run(store.asimilarity_search_by_vector(vector)),
        "ammr": lambda: run(store.amax_marginal_relevance_search(QUERY)),
        "asearch": lambda: run(store.asearch(QUERY, "mmr")),
        "retriever": lambda: store.as_retriever().invoke(QUERY),
        "mmr_retriever": lambda: store.as_retriever(search_type="mmr").invoke(QUERY),
        "aretriever": lambda: run(store.as_retriever().ainvoke(QUERY)),
        "CDERetriever": lambda: CDERetriever(store=store, embedding=embedding).invoke(QUERY),
        "aCDERetriever": lambda: run(CDERetriever(store=store, embedding=embedding).ainvoke(QUERY)),
    }


@pytest.mark.parametrize("store_class", [InMemoryVectorStore, FAISS, Chroma, QdrantVectorStore])
def test_every_search_of_a_store_with_a_document_of_another_context_raises(store_class, fitted):
    embedding, other = fitted(0), fitted(1)
    arguments = {"location": ":memory:"} if store_class is QdrantVectorStore else {}
    if store_class is Chroma:
        arguments = {"collection_name": uuid.uuid4().hex}
    store = from_documents(store_class, corpus(0, 3), embedding, **arguments)
    checked = {name: search() for name, search in searches(store, embedding).items() if name != "relevance"}
    assert all(len(found) == 3 for found in checked.values())
    foreign = [Document("x y z", metadata={STAMP: other.context_fingerprint})]
    if store_class is InMemoryVectorStore:
        InMemoryVectorStore.add_documents(store, foreign)
    elif store_class is FAISS:
        write_into_faiss(store, foreign, other)
    else:
        store_class.add_texts(store, texts_of(foreign), [d.metadata for d in foreign])
    for name, search in searches(store, embedding).items():
        if name == "relevance" and store_class is InMemoryVectorStore:
            continue  # the store has no relevance function
        with pytest.raises(ContextMismatchError, match=other.context_fingerprint[:12]):
            search()


def test_a_document_without_a_stamp_raises(fitted, tmp_path):
    store = guard(InMemoryVectorStore(fitted(0)), fitted(0))
    InMemoryVectorStore.add_documents(store, [Document("written by another")])  # behind the guard's back
    with pytest.raises(ContextMismatchError, match=r"'written by another' .*without a stamp.*embed its documents"):
        store.similarity_search(QUERY)
    store.dump(str(tmp_path / "store.json"))
    loaded = InMemoryVectorStore.load(str(tmp_path / "store.json"), fitted(0))
    with pytest.raises(ContextMismatchError, match="without a stamp"):
        guard(loaded, fitted(0))


def test_a_document_added_again_is_stamped_for_the_store_that_embeds_it(fitted):
    first = from_documents(InMemoryVectorStore, corpus(0), fitted(0))
    second = from_documents(InMemoryVectorStore, corpus(1), fitted(1))
    second.add_documents(first.similarity_search(QUERY, k=1))
    assert len(second.similarity_search(QUERY, k=100)) == 41


async def test_async_additions_are_stamped(fitted):
    for store_class in (InMemoryVectorStore, FAISS):
        store = from_documents(store_class, corpus(0, 3), fitted(0))
        await store.aadd_documents([Document("mi lu")])
        await store.aadd_texts(["ze ra"])
        await store.as_retriever().aadd_documents([Document("ti no")])
        found = await store.asimilarity_search(QUERY, k=10)
        assert len(found) == 6


def test_guarding_twice_is_harmless_and_under_another_context_raises(fitted):
    embedding, other = fitted(0), fitted(1)
    store = guard(InMemoryVectorStore(embedding), embedding)
    again = type(store)
    assert type(guard(store, embedding)) is again
    with pytest.raises(ContextMismatchError, match=embedding.context_fingerprint[:12]):
        guard(store, other)

    class Silent(InMemoryVectorStore):
        embeddings = None  # a store need not tell what it embeds with

    store = guard(Silent(embedding), embedding)
    with pytest.raises(ContextMismatchError, match="guarded under context"):
        guard(store, other)


def test_a_guarded_store_is_pickled_guarded(fitted):
    embedding = fitted(0)
    store = pickle.loads(pickle.dumps(from_documents(InMemoryVectorStore, corpus(0), embedding)))
    assert len(store.similarity_search(QUERY, k=3)) == 3
    InMemoryVectorStore.add_documents(store, [Document("without stamp")])
    with pytest.raises(ContextMismatchError, match="without a stamp"):
        store.similarity_search(QUERY, k=100)


def test_a_second_corpus_in_the_collection_of_a_first_is_refused_before_anything_is_written(make):
    name = uuid.uuid4().hex
    first = from_documents(Chroma, corpus(0, 5), make(), collection_name=name)
    expected = first.similarity_search_with_score(QUERY, k=10)
    with pytest.raises(ContextMismatchError, match="embed its documents again"):
        from_documents(Chroma, corpus(1, 5), make(), collection_name=name)
    assert first.similarity_search_with_score(QUERY, k=10) == expected


def test_merging_faiss_indexes_of_two_contexts_is_refused_and_changes_neither(make):
    first, second = (from_documents(FAISS, corpus(seed, 5), make()) for seed in (0, 1))
    expected = [store.similarity_search_with_score(QUERY, k=10) for store in (first, second)]
    with pytest.raises(ContextMismatchError, match="the store to merge was embedded under"):
        first.merge_from(second)
    assert [store.similarity_search_with_score(QUERY, k=10) for store in (first, second)] == expected
    again = from_documents(
        FAISS, corpus(0, 3), CDEEmbeddings(model_name=make().model_name, context=first.embeddings.context)
    )
    first.merge_from(again)
    assert len(first.similarity_search(QUERY, k=10)) == 8


def test_retriever_checks_an_unguarded_store_under_its_own_embedding(fitted):
    embedding, other = fitted(0), fitted(1)
    plain = InMemoryVectorStore.from_documents(stamp(corpus(0), embedding), embedding)
    assert len(CDERetriever(store=plain, embedding=embedding, k=3).invoke(QUERY)) == 3
    only = CDERetriever(store=plain, embedding=embedding, search_kwargs={"filter": lambda d: d.metadata["source"] < 2})
    assert len(only.invoke(QUERY)) == 2
    retriever = CDERetriever(store=plain, embedding=other)
    with pytest.raises(ContextMismatchError, match=other.context_fingerprint[:12]):
        retriever.invoke(QUERY)
    with pytest.raises(ContextMismatchError, match=embedding.context_fingerprint[:12]):
        asyncio.run(retriever.ainvoke(QUERY))
    unstamped = InMemoryVectorStore.from_documents(corpus(0), embedding)
    with pytest.raises(ContextMismatchError, match="without a stamp"):
        CDERetriever(store=unstamped, embedding=embedding).invoke(QUERY)


# What LangChain shows an embedding first


def test_qdrant_dummy_text_is_not_fitted_on(make, monkeypatch):
    seen: list[list[str]] = []
    embed = CDEEmbeddings.embed_documents
    monkeypatch.setattr(CDEEmbeddings, "embed_documents", lambda self, t: seen.append(list(t)) or embed(self, t))
    with pytest.raises(ContextNotFittedError):
        QdrantVectorStore.from_documents(corpus(0), make(), location=":memory:")
    assert seen == [["dummy_text"]]
    store = from_documents(QdrantVectorStore, corpus(0, 100), make(), location=":memory:")
    assert [len(batch) for batch in seen[1:]] == [1, 64, 36]
    assert store.embeddings.context_fingerprint == make().fit(corpus(0, 100)).fingerprint


def test_index_does_not_fit_on_its_first_slice_of_100(make):
    documents = corpus(0, 250)
    records = InMemoryRecordManager("records")
    embedding = make()
    with pytest.raises(ContextNotFittedError):
        index(documents, records, InMemoryVectorStore(embedding), key_encoder="sha256")
    embedding.fit(documents)
    assert embedding.context.documents_seen == 250
    store = guard(InMemoryVectorStore(embedding), embedding)
    assert index(documents, records, store, key_encoder="sha256")["num_added"] == 250
    assert len(store.similarity_search(QUERY, k=300)) == 250


def test_record_manager_namespace_after_a_new_context_adds_everything_again(fitted):
    documents = corpus(0)
    shared = InMemoryRecordManager("shared")
    counts = {}
    for seed in (0, 1):
        embedding = fitted(seed)
        own = InMemoryRecordManager(embedding.record_namespace("docs"))
        for name, records in (("shared", shared), ("own", own)):
            store = guard(InMemoryVectorStore(embedding), embedding)
            done = index(documents, records, store, key_encoder="sha256")
            counts[name, seed] = done["num_added"], done["num_skipped"]
    assert counts["shared", 1] == (0, 40)  # the trap: nothing is embedded under the new context
    assert counts["own", 1] == counts["own", 0] == (40, 0)
    assert fitted(0).record_namespace("docs") != fitted(1).record_namespace("docs")
    assert index(stamp(documents, fitted(1)), shared, store, key_encoder="sha256")["num_added"] == 40


def test_chroma_batches_do_not_change_the_context(make, monkeypatch):
    seen: list[int] = []
    embed = CDEEmbeddings.embed_documents
    monkeypatch.setattr(CDEEmbeddings, "embed_documents", lambda self, t: seen.append(len(t)) or embed(self, t))
    documents = [Document(f"{i}") for i in range(6000)]
    store = from_documents(Chroma, documents, make(batch_size=512), collection_name=uuid.uuid4().hex)
    assert seen == [5461, 539]
    assert store.embeddings.context.documents_seen == 6000
    assert len(store.get(where={STAMP: store.embeddings.context_fingerprint})["ids"]) == 6000


# CacheBackedEmbeddings


def cached(embedding: CDEEmbeddings, store: Any, **kwargs: Any) -> CacheBackedEmbeddings:
    kwargs = {"namespace": embedding.cache_namespace} | kwargs
    return CacheBackedEmbeddings.from_bytes_store(embedding, store, key_encoder="sha256", **kwargs)


def test_cache_does_not_return_stale_vectors_under_a_new_context(fitted, tmp_path):
    files = LocalFileStore(tmp_path)  # which is strict about the characters of its keys
    first, second = fitted(0), fitted(1)
    old = cached(first, files).embed_documents([QUERY])
    new = cached(second, files).embed_documents([QUERY])
    np.testing.assert_allclose(new, second.embed_documents([QUERY]), atol=1e-6)
    assert np.abs(np.subtract(old, new)).max() > 1e-3
    stale = cached(first, InMemoryByteStore(), namespace="model"), second
    assert first.cache_namespace.startswith("cde/tiny-bert/")
    assert stale[0].embed_documents([QUERY]) != second.embed_documents([QUERY])


def test_cache_partial_hit_embeds_the_rest_under_the_same_context(make, fitted):
    store, embedding = InMemoryByteStore(), fitted(0)
    cached(embedding, store).embed_documents(["ba ko", "mi lu"])
    again = make(context=embedding.context)
    found = cached(again, store).embed_documents(["ba ko", "ze ra", "mi lu"])
    np.testing.assert_allclose(found, embedding.embed_documents(["ba ko", "ze ra", "mi lu"]), atol=1e-6)
    unfitted = make()
    partial = CacheBackedEmbeddings.from_bytes_store(
        unfitted, store, namespace=embedding.cache_namespace, key_encoder="sha256"
    )
    with pytest.raises(ContextNotFittedError):
        partial.embed_documents(["ba ko", "new"])
    assert not unfitted.is_fitted


def test_cache_full_hit_in_a_new_process_needs_the_context_for_its_namespace(make, fitted, tmp_path):
    embedding = fitted(0)
    embedding.save_context(tmp_path / "index")
    store = InMemoryByteStore()
    texts = texts_of(corpus(0))
    cached(embedding, store).embed_documents(texts)
    unfitted = make()
    with pytest.raises(ContextNotFittedError):
        cached(unfitted, store)
    fresh = make(context=tmp_path / "index")
    wrapped = cached(fresh, store)
    np.testing.assert_allclose(wrapped.embed_documents(texts), fresh.embed_documents(texts), atol=1e-6)
    assert wrapped.embed_query(QUERY) == embedding.embed_query(QUERY)


def test_cache_crossing_queries_and_documents_is_refused(make, prompted_checkpoint):
    embedding = make(model_name=prompted_checkpoint)
    embedding.fit(corpus(0))
    crossing = cached(embedding, InMemoryByteStore(), query_embedding_cache=True)
    crossed = crossing.embed_documents([QUERY])[0]
    assert crossing.embed_query(QUERY) == crossed != embedding.embed_query(QUERY)  # the trap
    with pytest.raises(ContextMismatchError, match="byte store of its own"):
        guard(InMemoryVectorStore(crossing), embedding)
    apart = cached(embedding, InMemoryByteStore(), query_embedding_cache=InMemoryByteStore())
    apart.embed_documents([QUERY])
    assert apart.embed_query(QUERY) == embedding.embed_query(QUERY)
    store = guard(InMemoryVectorStore(apart), embedding)
    store.add_documents(corpus(0))
    assert len(store.similarity_search(QUERY)) == 4


def test_store_behind_a_cache_of_another_context_is_refused(fitted):
    store = InMemoryVectorStore(cached(fitted(1), InMemoryByteStore()))
    with pytest.raises(ContextMismatchError, match="the store embeds under context"):
        guard(store, fitted(0))
