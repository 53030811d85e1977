"""The ways in which LlamaIndex would lead a contextual embedding astray, one test each (framework facts, section 7)."""

import asyncio
import multiprocessing
import os
import pickle
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from llama_index.core import Settings, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SemanticSplitterNodeParser, SentenceSplitter
from llama_index.core.schema import Document, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore

from cde_retriever import ConfigError, Context, ContextMismatchError, ContextNotFittedError, ContextualEncoder
from cde_retriever.adapters.llama_index.storage import embedded_text
from cde_retriever.adapters.stamps import STAMP
from cde_retriever.context.sampling import hash_text
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from tests.contract.llama_index_corpus import QUERY, Oracle, chroma, corpus, ranking, text_nodes
from tests.tiny import documents, tiny_checkpoint

pytestmark = pytest.mark.filterwarnings("error:.*context:UserWarning")


@pytest.fixture
def embed(checkpoint) -> CDEEmbedding:
    return CDEEmbedding(checkpoint)


def build(checkpoint, count: int = 12, seed: int = 0, **settings) -> CDEVectorStoreIndex:
    return CDEVectorStoreIndex.from_documents(corpus(count, seed), embed_model=CDEEmbedding(checkpoint), **settings)


# What is not a corpus


async def test_empty_batch_does_not_fit(embed) -> None:
    assert embed.get_text_embedding_batch([]) == []
    assert await embed.aget_text_embedding_batch([]) == []
    assert embed([]) == []
    assert await embed.acall([]) == []
    assert not embed.is_fitted


async def test_dummy_text_does_not_fit(embed) -> None:
    for texts in (["dummy_text"], ["dummy_text"] * 5, ["dummy_text", " ", ""]):
        with pytest.raises(ContextNotFittedError, match=r"1 distinct texts is too small .* CDEVectorStoreIndex"):
            embed.get_text_embedding_batch(texts)
        with pytest.raises(ContextNotFittedError, match="min_context_documents"):
            await embed.aget_text_embedding_batch(texts)
    with pytest.raises(ContextNotFittedError, match=r"\.dimension"):
        embed.get_text_embedding("dummy_text")
    assert not embed.is_fitted


async def test_query_before_fit_raises_and_names_the_ways_out(embed) -> None:
    for name in (r"CDEVectorStoreIndex\.from_documents", r"fit\(texts\)", "from_storage", "use_null_context"):
        with pytest.raises(ContextNotFittedError, match=name):
            embed.get_query_embedding(QUERY)
    with pytest.raises(ContextNotFittedError):
        await embed.aget_query_embedding(QUERY)
    with pytest.raises(ContextNotFittedError):
        embed.get_agg_embedding_from_queries([QUERY, QUERY])
    for property_name in ("context", "context_fingerprint"):
        with pytest.raises(ContextNotFittedError):
            getattr(embed, property_name)
    with pytest.raises(ContextNotFittedError):
        embed.save_context("nowhere")
    assert not embed.is_fitted


# The 2,048-text slice


@pytest.fixture(scope="module")
def long_corpus() -> list:
    return [TextNode(text=text) for text in documents(2100, seed=4, words=2)]


def test_slice_of_2048_is_reported_by_the_stock_index(checkpoint, long_corpus) -> None:
    embedding = CDEEmbedding(checkpoint, context_size=64)
    with pytest.warns(UserWarning, match="context") as caught:
        VectorStoreIndex(long_corpus, embed_model=embedding)
    assert embedding.context.documents_seen == 2048
    messages = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert len(messages) == 2, messages
    assert "fitted on the first 2048 texts; LlamaIndex hands over 2048 at a time" in messages[0]
    assert "52 more texts are embedded under a context fitted on the first 2048 only" in messages[1]
    assert all("CDEVectorStoreIndex.from_documents" in message for message in messages)


def test_slice_of_2048_does_not_bias_the_own_index(checkpoint, long_corpus) -> None:
    embedding = CDEEmbedding(checkpoint, context_size=512)
    CDEVectorStoreIndex(long_corpus, embed_model=embedding)
    assert embedding.context.documents_seen == 2100
    tail = {hash_text(node.text) for node in long_corpus[2048:]}
    # 512 of 2,100: 12.5 of the last 52 on average, standard deviation 3.1
    assert 3 <= len(tail & set(embedding.context.text_hashes)) <= 24


def test_later_batches_after_an_automatic_fit_are_reported_once(embed) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed.get_text_embedding_batch(documents(10))
    with pytest.warns(UserWarning, match="5 more texts are embedded under a context fitted on the first 10 only"):
        embed.get_text_embedding_batch(documents(5, seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed.get_text_embedding_batch(documents(5, seed=2))
    assert embed.context.documents_seen == 10


def test_stock_index_of_one_slice_needs_no_warning(embed) -> None:
    index = VectorStoreIndex.from_documents(corpus(20), embed_model=embed)
    assert embed.context.documents_seen == 20
    assert len(index.as_retriever().retrieve(QUERY)) == 2


# Stored indexes


def test_insert_after_load_changes_no_old_vector_and_never_refits(checkpoint, tmp_path) -> None:
    index = build(checkpoint)
    index.storage_context.persist(tmp_path)
    loaded = CDEVectorStoreIndex.from_storage(tmp_path, CDEEmbedding.from_storage(tmp_path, checkpoint))
    before = dict(loaded.vector_store.data.embedding_dict)
    assert before == index.vector_store.data.embedding_dict
    loaded.insert_nodes(text_nodes(4, seed=7))
    after = loaded.vector_store.data.embedding_dict
    assert len(after) == 16
    assert all(after[key] == before[key] for key in before)
    assert loaded.embedding.context_fingerprint == index.embedding.context_fingerprint
    found = loaded.as_retriever(similarity_top_k=16).retrieve(QUERY)
    assert len(found) == 16
    Oracle(checkpoint).check(loaded.vector_store, found, QUERY, index.embedding.context)


def test_insert_after_load_without_the_context_is_refused(checkpoint, tmp_path) -> None:
    build(checkpoint).storage_context.persist(tmp_path)
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path))
    with pytest.raises(ContextNotFittedError, match="belongs to context"):
        CDEVectorStoreIndex.from_storage(storage, CDEEmbedding(checkpoint))
    with pytest.raises(ContextNotFittedError, match="belongs to context"):
        load_index_from_storage(storage, embed_model=CDEEmbedding(checkpoint))


def test_index_of_a_stock_class_is_refused_before_anything_is_added(checkpoint, tmp_path) -> None:
    VectorStoreIndex.from_documents(corpus(), embed_model=CDEEmbedding(checkpoint)).storage_context.persist(tmp_path)
    fitted = CDEEmbedding(checkpoint)
    fitted.fit([embedded_text(node) for node in corpus()])
    with pytest.raises(ContextMismatchError, match="without a stamp"):
        CDEVectorStoreIndex.from_storage(tmp_path, fitted)
    with pytest.raises(ContextNotFittedError, match="belongs to an unknown context"):
        CDEVectorStoreIndex.from_storage(tmp_path, CDEEmbedding(checkpoint))


def test_reload_with_another_context_is_refused(checkpoint, tmp_path) -> None:
    index, other = build(checkpoint), build(checkpoint, seed=1)
    index.storage_context.persist(tmp_path)
    names = f"{index.embedding.context_fingerprint[:12]}.*{other.embedding.context_fingerprint[:12]}"
    with pytest.raises(ContextMismatchError, match=names):
        CDEVectorStoreIndex.from_storage(tmp_path, other.embedding)
    with pytest.raises(ContextMismatchError, match=names):
        other.embedding.attach_to(index.storage_context)


@pytest.mark.parametrize(
    ("difference", "name"),
    [
        ({"seed": 5}, "sha256"),
        ({"prompts": {"query": "q: ", "document": "d: "}}, "prompts"),
        ({"max_length": 32}, "max_length"),
    ],
)
def test_reload_with_another_model_or_prompts_is_refused(checkpoint, tmp_path, difference, name) -> None:
    build(checkpoint).storage_context.persist(tmp_path / "index")
    other = tiny_checkpoint(tmp_path / "other", **difference)
    with pytest.raises(ContextMismatchError, match=f"was made by model 'tiny-bert' with {name}"):
        CDEEmbedding.from_storage(tmp_path / "index", other)
    fitted = CDEEmbedding(other)
    fitted.fit([embedded_text(node) for node in corpus()])
    with pytest.raises(ContextMismatchError, match=fitted.context_fingerprint[:12]):
        CDEVectorStoreIndex.from_storage(tmp_path / "index", fitted)


def test_external_store_with_persist_dir_finds_the_context_in_the_folder(checkpoint, tmp_path) -> None:
    store = chroma(tmp_path / "chroma", "documents")
    storage = StorageContext.from_defaults(vector_store=store)
    with pytest.warns(UserWarning, match=r"their context is nowhere on disk.*context_dir="):
        index = build(checkpoint, storage_context=storage)
    expected = ranking(index)
    storage.persist(tmp_path / "index")
    again = StorageContext.from_defaults(
        vector_store=chroma(tmp_path / "chroma", "documents"), persist_dir=str(tmp_path / "index")
    )
    with pytest.raises(ValueError, match=r"external store; .*vector_store=\.\.\., persist_dir="):
        CDEVectorStoreIndex.from_storage(tmp_path / "index", index.embedding)
    with pytest.raises(ContextNotFittedError, match="pass the persist folder or context_dir"):
        CDEEmbedding.from_storage(again, checkpoint)
    embedding = CDEEmbedding.from_storage(tmp_path / "index", checkpoint)
    assert ranking(CDEVectorStoreIndex.from_storage(again, embedding)) == expected
    assert ranking(CDEVectorStoreIndex.from_vector_store(again.vector_store, embedding)) == expected
    assert ranking(load_index_from_storage(again, embed_model=embedding)) == expected


def test_external_store_opens_from_the_context_folder(checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("cde_retriever.checkpoint.folder.DEFAULT_CHECKPOINT", checkpoint)
    folder = tmp_path / "context"
    storage = StorageContext.from_defaults(vector_store=chroma(tmp_path / "chroma", "documents"))
    index = CDEVectorStoreIndex.from_documents(corpus(), storage_context=storage, context_dir=folder)
    store = chroma(tmp_path / "chroma", "documents")
    opened = CDEVectorStoreIndex.from_vector_store(store, context_dir=folder)
    assert ranking(opened) == ranking(index)
    opened.insert(corpus(1, seed=3)[0])
    assert store.client.count() == 13
    with pytest.raises(ContextNotFittedError, match=f"belongs to context {index.embedding.context_fingerprint[:12]}"):
        CDEVectorStoreIndex.from_vector_store(store)
    other = build(checkpoint, seed=1).embedding
    with pytest.raises(ContextMismatchError, match=other.context_fingerprint[:12]):
        CDEVectorStoreIndex.from_vector_store(store, other)
    with pytest.raises(ContextMismatchError, match=other.context_fingerprint[:12]):
        CDEVectorStoreIndex.from_documents(
            corpus(12, seed=1),
            embed_model=other,
            storage_context=StorageContext.from_defaults(vector_store=store),
            context_dir=tmp_path / "second",
        )
    assert store.client.count() == 13
    assert not (tmp_path / "second").exists()


def test_a_mistyped_context_folder_is_named(checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("cde_retriever.checkpoint.folder.DEFAULT_CHECKPOINT", checkpoint)
    store, typed = chroma(), tmp_path / "contxt"
    storage = StorageContext.from_defaults(vector_store=store)
    CDEVectorStoreIndex.from_documents(corpus(), storage_context=storage, context_dir=tmp_path / "context")
    fresh = StorageContext.from_defaults(vector_store=store)  # the first one holds the context
    said = r"holds 12 nodes, and there is no context at .*contxt.*; to open or add .* give the context_dir"
    with pytest.raises(ContextNotFittedError, match=said):
        CDEVectorStoreIndex.from_vector_store(store, context_dir=typed)
    with pytest.raises(ContextNotFittedError, match=said):
        CDEVectorStoreIndex.from_documents(corpus(), storage_context=fresh, context_dir=typed)
    assert store.client.count() == 12
    assert not typed.exists()


def test_a_context_folder_is_no_persisted_index(checkpoint, tmp_path) -> None:
    build(checkpoint).embedding.save_context(tmp_path)
    embedding = CDEEmbedding.from_storage(tmp_path, checkpoint)
    with pytest.raises(FileNotFoundError, match=r"holds no index, as docstore.json is missing; .*from_vector_store"):
        CDEVectorStoreIndex.from_storage(tmp_path, embedding)


def test_stale_context_folder_stops_the_build_before_the_first_vector(checkpoint, tmp_path) -> None:
    stale = build(checkpoint, seed=1)
    stale.embedding.save_context(tmp_path)
    content = (tmp_path / "context.safetensors").read_bytes()
    store = chroma()
    storage = StorageContext.from_defaults(vector_store=store)
    embedding = CDEEmbedding(checkpoint)
    with pytest.raises(ContextMismatchError, match=f"holds context {stale.embedding.context_fingerprint[:12]}"):
        CDEVectorStoreIndex.from_documents(
            corpus(), embed_model=embedding, storage_context=storage, context_dir=tmp_path
        )
    assert store.client.count() == 0
    assert (tmp_path / "context.safetensors").read_bytes() == content
    with pytest.raises(ContextMismatchError, match=embedding.context_fingerprint[:12]):
        CDEVectorStoreIndex.from_vector_store(store, embedding, context_dir=tmp_path)


def test_context_is_saved_before_the_first_vector(checkpoint, tmp_path, monkeypatch) -> None:
    store = chroma()
    seen = []
    add = type(store).add

    def recorded(self, nodes, **kwargs):
        seen.append(Context.load(tmp_path).fingerprint)
        return add(self, nodes, **kwargs)

    monkeypatch.setattr(type(store), "add", recorded)
    index = build(checkpoint, storage_context=StorageContext.from_defaults(vector_store=store), context_dir=tmp_path)
    assert seen == [index.embedding.context_fingerprint]


def test_vectors_of_another_embedding_in_the_store_are_refused(checkpoint, tmp_path) -> None:
    from llama_index.core import MockEmbedding

    store = chroma()
    storage = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex.from_documents(corpus(3), embed_model=MockEmbedding(embed_dim=32), storage_context=storage)
    embedding = CDEEmbedding(checkpoint)
    embedding.fit([embedded_text(node) for node in corpus()])
    with pytest.raises(ContextMismatchError, match="without a stamp"):
        CDEVectorStoreIndex.from_documents(
            corpus(), embed_model=embedding, storage_context=storage, context_dir=tmp_path / "context"
        )
    assert store.client.count() == 3
    stock = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=32))
    stock_nodes = stock.as_retriever().retrieve(QUERY)
    assert len(stock_nodes) == 2


# One object, several corpora


def test_two_indexes_sharing_one_embedding_share_one_context_and_say_so(checkpoint) -> None:
    first = build(checkpoint)
    with pytest.warns(UserWarning, match="none of the documents of context .* fitted on another corpus"):
        second = CDEVectorStoreIndex.from_documents(corpus(12, seed=1), embed_model=first.embedding)
    oracle = Oracle(checkpoint)
    for index in (first, second):
        found = index.as_retriever(similarity_top_k=12).retrieve(QUERY)
        assert len(found) == 12
        oracle.check(index.vector_store, found, QUERY, first.embedding.context)
    with pytest.raises(ContextMismatchError, match="new CDEEmbedding"):
        first.embedding.fit([embedded_text(node) for node in corpus(12, seed=1)])


def test_settings_embed_model_reused_over_corpora_keeps_its_context(embed, monkeypatch) -> None:
    monkeypatch.setattr(Settings, "_embed_model", None)
    Settings.embed_model = embed
    first = VectorStoreIndex.from_documents(corpus())
    expected, fingerprint = ranking(first), embed.context_fingerprint
    with pytest.warns(UserWarning, match="12 more texts are embedded under a context fitted on the first 12 only"):
        VectorStoreIndex.from_documents(corpus(12, seed=1))
    assert embed.context_fingerprint == fingerprint
    assert ranking(first) == expected
    nodes = embed(text_nodes(3))
    assert nodes[0].metadata[STAMP] == fingerprint


def test_adding_another_corpus_to_a_storage_context_is_refused(checkpoint) -> None:
    index = build(checkpoint)
    size = len(index.vector_store.data.embedding_dict)
    for embedding in (CDEEmbedding(checkpoint), build(checkpoint, seed=1).embedding):
        with pytest.raises((ContextMismatchError, ContextNotFittedError), match=r"CDEEmbedding\.from_storage"):
            CDEVectorStoreIndex.from_documents(
                corpus(12, seed=1), embed_model=embedding, storage_context=index.storage_context
            )
    assert len(index.vector_store.data.embedding_dict) == size


# Caches


def test_embeddings_cache_would_cross_roles_and_is_refused(checkpoint, embed) -> None:
    prompted = ContextualEncoder.from_pretrained(checkpoint)
    assert prompted.config.prompts is not None
    with pytest.raises(ConfigError, match="documents' vectors for queries"):
        CDEEmbedding(checkpoint, embeddings_cache=SimpleKVStore())
    with pytest.raises(ConfigError, match="text alone"):
        embed.embeddings_cache = SimpleKVStore()


def test_query_and_document_of_the_same_text_keep_their_prompts(tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", prompts={"query": "baron ", "document": "kolak "})
    embedding = CDEEmbedding(folder)
    embedding.fit(documents(12))
    assert embedding.get_query_embedding("same") != embedding.get_text_embedding("same")


def test_pipeline_cache_does_not_return_vectors_of_an_earlier_context(checkpoint) -> None:
    first, second = CDEEmbedding(checkpoint), CDEEmbedding(checkpoint)
    first.fit(documents(12))
    second.fit(documents(12, seed=1))
    pipeline = IngestionPipeline(transformations=[first])
    vectors = [node.embedding for node in pipeline.run(nodes=text_nodes())]
    assert [node.embedding for node in pipeline.run(nodes=text_nodes())] == vectors
    pipeline.transformations = [second]
    nodes = pipeline.run(nodes=text_nodes())
    assert {node.metadata[STAMP] for node in nodes} == {second.context_fingerprint}
    np.testing.assert_allclose(nodes[0].embedding, second.get_text_embedding(nodes[0].text), atol=1e-5)
    assert np.abs(np.array(nodes[0].embedding) - vectors[0]).max() > 1e-3


def test_pipeline_cache_of_a_fitted_embedding_is_hit(checkpoint, monkeypatch) -> None:
    embedding = CDEEmbedding(checkpoint)
    pipeline = IngestionPipeline(transformations=[embedding])
    pipeline.run(nodes=text_nodes())
    pipeline.run(nodes=text_nodes())  # one more miss after the fit
    calls = []
    monkeypatch.setattr(ContextualEncoder, "encode_documents", lambda *_, **__: calls.append(1))
    nodes = pipeline.run(nodes=text_nodes())
    assert calls == []
    assert {node.metadata[STAMP] for node in nodes} == {embedding.context_fingerprint}


def test_full_cache_hit_in_a_new_process_still_gives_a_context(checkpoint, tmp_path) -> None:
    first = CDEEmbedding(checkpoint)
    pipeline = IngestionPipeline(transformations=[first])
    pipeline.run(nodes=text_nodes())
    pipeline.run(nodes=text_nodes())
    pipeline.persist(str(tmp_path))
    fresh = pickle.loads(pickle.dumps(CDEEmbedding(checkpoint)))  # what a new process starts with, and must not fit
    again = IngestionPipeline(transformations=[fresh])
    again.load(str(tmp_path))
    with pytest.raises(ContextNotFittedError, match="on_missing_context is 'error'"):
        again.run(nodes=text_nodes())
    new = CDEEmbedding(checkpoint)
    again.transformations = [new]
    nodes = again.run(nodes=text_nodes())
    assert new.is_fitted
    assert {node.metadata[STAMP] for node in nodes} == {new.context_fingerprint} == {first.context_fingerprint}
    assert len(new.get_query_embedding(QUERY)) == 32


def test_upserts_delta_is_embedded_under_the_stored_context(checkpoint, tmp_path) -> None:
    store, docstore = chroma(), SimpleDocumentStore()

    def pipeline(embedding: CDEEmbedding) -> IngestionPipeline:
        steps = [SentenceSplitter(), embedding]
        return IngestionPipeline(transformations=steps, docstore=docstore, vector_store=store, disable_cache=True)

    first = CDEEmbedding(checkpoint)
    assert len(pipeline(first).run(documents=corpus(12))) == 12
    first.save_context(tmp_path)
    assert pipeline(first).run(documents=corpus(12)) == []
    assert first.context.documents_seen == 12

    delta = pipeline(CDEEmbedding.from_storage(tmp_path, checkpoint)).run(documents=corpus(18))
    assert len(delta) == 6
    index = CDEVectorStoreIndex.from_vector_store(store, CDEEmbedding.from_storage(tmp_path, checkpoint))
    found = index.as_retriever(similarity_top_k=18).retrieve(QUERY)
    assert len(found) == 18
    Oracle(checkpoint).check(store, found, QUERY, first.context)


def test_upserts_see_an_unchanged_document_although_it_was_stamped(checkpoint) -> None:
    docstore = SimpleDocumentStore()
    embedding = CDEEmbedding(checkpoint)
    pipeline = IngestionPipeline(
        transformations=[embedding], docstore=docstore, vector_store=chroma(), disable_cache=True
    )
    assert len(pipeline.run(documents=corpus(12))) == 12
    assert pipeline.run(documents=corpus(12)) == []


# Processes, threads, event loops


HANG_S = 900  # seconds after which a worker process counts as hanging; a busy machine is slow to start one


class SharedPool:
    """Stands in for ``multiprocessing.get_context("spawn")``: every pool asked for is one that runs already."""

    def __init__(self, pool) -> None:
        self.pool = pool

    def Pool(self, _: int) -> "SharedPool":  # noqa: N802 - the name in multiprocessing
        return self

    def __enter__(self):
        return self.pool

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def pool():
    """Two spawned worker processes, which import everything anew."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    workers = multiprocessing.get_context("spawn").Pool(2)
    yield workers
    workers.terminate()
    workers.join()
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before


def run_in_workers(pipeline: IngestionPipeline, nodes, pool, monkeypatch):
    """Run with ``num_workers=2``; a worker that cannot import something would hang for good, so not for longer."""
    monkeypatch.setattr("llama_index.core.ingestion.pipeline.multiprocessing.get_context", lambda _: SharedPool(pool))
    monkeypatch.setattr("llama_index.core.ingestion.pipeline.multiprocessing.cpu_count", lambda: 2)
    result = []

    def run() -> None:
        try:
            result.append(pipeline.run(nodes=nodes, num_workers=2))
        except Exception as error:  # handed to the test
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=HANG_S)
    assert result, "the worker processes hang"
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def test_num_workers_2_fitted_works_under_the_parents_context(checkpoint, pool, monkeypatch) -> None:
    embedding = CDEEmbedding(checkpoint)
    embedding.fit(documents(12))
    nodes = run_in_workers(IngestionPipeline(transformations=[embedding]), text_nodes(12), pool, monkeypatch)
    assert [node.node_id for node in nodes] == [f"n0-{i}" for i in range(12)]
    assert {node.metadata[STAMP] for node in nodes} == {embedding.context_fingerprint}
    np.testing.assert_allclose(
        [node.embedding for node in nodes],
        embedding.get_text_embedding_batch([node.text for node in nodes]),
        atol=1e-5,
    )


def test_num_workers_2_unfitted_fails_in_the_worker(embed, pool, monkeypatch) -> None:
    with pytest.raises(ContextNotFittedError, match="on_missing_context is 'error', so 6 texts were not made one"):
        run_in_workers(IngestionPipeline(transformations=[embed]), text_nodes(12), pool, monkeypatch)
    assert not embed.is_fitted


def open_and_rank(folder: str, checkpoint: str) -> list[tuple[str, float]]:
    """Run in a new process: open a persisted index with stock functions and rank."""
    storage = StorageContext.from_defaults(persist_dir=folder)
    return ranking(load_index_from_storage(storage, embed_model=CDEEmbedding.from_storage(storage, checkpoint)))


def test_a_fresh_process_gives_the_identical_ranking(checkpoint, pool, tmp_path) -> None:
    index = build(checkpoint, 20)
    index.storage_context.persist(tmp_path)
    result = pool.apply_async(open_and_rank, (str(tmp_path), str(checkpoint))).get(timeout=HANG_S)
    assert result == ranking(index)
    assert len(result) == 5


def test_pickle_carries_the_context_and_an_unfitted_copy_never_fits(checkpoint, embed) -> None:
    copy = pickle.loads(pickle.dumps(embed))
    assert (copy.on_missing_context, embed.on_missing_context) == ("error", "fit")
    with pytest.raises(ContextNotFittedError, match="on_missing_context"):
        copy(text_nodes())
    embed.fit(documents(12))
    copy = pickle.loads(pickle.dumps(embed))
    assert copy.on_missing_context == "fit"
    assert copy.get_query_embedding(QUERY) == embed.get_query_embedding(QUERY)


def count_fits(monkeypatch) -> list[int]:
    fits: list[int] = []
    fit = ContextualEncoder.fit_context

    def counted(self, texts, **kwargs):
        fits.append(len(texts))
        return fit(self, texts, **kwargs)

    monkeypatch.setattr(ContextualEncoder, "fit_context", counted)
    return fits


def test_8_threads_give_one_fit_and_one_context(checkpoint, monkeypatch) -> None:
    fits = count_fits(monkeypatch)
    embedding = CDEEmbedding(checkpoint)
    start = threading.Barrier(8)

    def work(seed: int) -> np.ndarray:
        start.wait()
        return np.array(embedding.get_text_embedding_batch(documents(10, seed)))

    with ThreadPoolExecutor(8) as executor, pytest.warns(UserWarning, match="10 more texts are embedded"):
        vectors = list(executor.map(work, range(8)))
    assert fits == [10]
    oracle = Oracle(checkpoint)
    for seed in range(8):
        expected = [oracle.vector(embedding.context, "document", text) for text in documents(10, seed)]
        np.testing.assert_allclose(vectors[seed], expected, atol=1e-5)


async def test_async_gather_of_many_batches_fits_once_and_runs_one_forward_at_a_time(checkpoint, monkeypatch) -> None:
    fits = count_fits(monkeypatch)
    embedding = CDEEmbedding(checkpoint, embed_batch_size=2)
    running, most = 0, 0
    second = type(embedding.encoder.open_model().second_stage)
    hidden_states = second.hidden_states

    def counted(self, *args):
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return hidden_states(self, *args)
        finally:
            running -= 1

    monkeypatch.setattr(second, "hidden_states", counted)
    batches = [documents(9, seed) for seed in range(10)]
    with pytest.warns(UserWarning, match="9 more texts are embedded"):
        vectors = await asyncio.gather(*(embedding.aget_text_embedding_batch(batch) for batch in batches))
    assert fits == [9]
    assert most == 1
    oracle = Oracle(checkpoint)
    for texts, rows in zip(batches, vectors, strict=True):
        expected = [oracle.vector(embedding.context, "document", text) for text in texts]
        np.testing.assert_allclose(rows, expected, atol=1e-5)


async def test_async_embedding_leaves_the_event_loop_running(checkpoint, monkeypatch) -> None:
    embedding = CDEEmbedding(checkpoint)
    embedding.fit(documents(12))
    released = threading.Event()
    encode = ContextualEncoder.encode_documents

    def waiting(self, texts, **kwargs):
        assert released.wait(60), "the event loop never got to release the embedding: it was blocked"
        return encode(self, texts, **kwargs)

    monkeypatch.setattr(ContextualEncoder, "encode_documents", waiting)
    tasks = [
        asyncio.create_task(embedding.aget_text_embedding_batch(documents(3))),
        asyncio.create_task(embedding.acall(text_nodes(3))),
        asyncio.create_task(embedding.aget_text_embedding("a text")),
    ]
    await asyncio.sleep(0)
    released.set()
    results = await asyncio.gather(*tasks)
    assert [len(results[0]), len(results[1]), len(results[2])] == [3, 3, 32]


# Others that use the embedding


def sentences(text: str) -> list[str]:
    return [sentence + ". " for sentence in text.split(". ")]


def test_semantic_splitter_sharing_the_embedding_does_not_pass_unnoticed(checkpoint) -> None:
    texts = ["Baron kolak. Misim lador! " * 4, "Zevex ratul. Noron tidor. " * 4, *documents(10)]
    docs = [Document(text=text) for text in texts]
    embedding = CDEEmbedding(checkpoint)
    splitter = SemanticSplitterNodeParser(embed_model=embedding, sentence_splitter=sentences)
    with pytest.warns(UserWarning, match="context") as caught:
        CDEVectorStoreIndex.from_documents(docs, embed_model=embedding, transformations=[splitter])
    pattern = r"more texts are embedded under a context fitted on the first \d only"
    assert any(re.search(pattern, str(warning.message)) for warning in caught)
    own = CDEEmbedding(checkpoint)
    own.use_null_context()
    splitter = SemanticSplitterNodeParser(embed_model=own, sentence_splitter=sentences)
    separate = CDEEmbedding(checkpoint)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*context")
        index = CDEVectorStoreIndex.from_documents(docs, embed_model=separate, transformations=[splitter])
    assert separate.context.documents_seen == len(index.docstore.docs)


# The sample


def test_fewer_than_j_documents_are_taken_whole(checkpoint) -> None:
    index = build(checkpoint, 5)
    assert index.embedding.context.size == 5
    assert len(index.as_retriever().retrieve(QUERY)) == 2


def test_duplicates_count_once(embed) -> None:
    index = VectorStoreIndex.from_documents([Document(text=text) for text in documents(6) * 5], embed_model=embed)
    assert (embed.context.size, embed.context.documents_seen) == (6, 30)
    assert len(index.vector_store.data.embedding_dict) == 30


def test_embed_metadata_is_part_of_the_context_and_excluded_metadata_is_not(checkpoint) -> None:
    docs = [
        Document(text=text, metadata={"title": f"t{i}", "secret": "x"}, excluded_embed_metadata_keys=["secret"])
        for i, text in enumerate(documents(8))
    ]
    expected = sorted(f"title: t{i}\n\n{text}" for i, text in enumerate(documents(8)))
    index = CDEVectorStoreIndex.from_documents(docs, embed_model=CDEEmbedding(checkpoint))
    assert sorted(index.embedding.context.texts or ()) == expected
    stock = CDEEmbedding(checkpoint)
    VectorStoreIndex.from_documents(docs, embed_model=stock)
    assert stock.context_fingerprint == index.embedding.context_fingerprint


def test_building_twice_gives_the_same_fingerprint_whatever_the_order(checkpoint) -> None:
    first, second = CDEEmbedding(checkpoint), CDEEmbedding(checkpoint)
    CDEVectorStoreIndex.from_documents(corpus(30), embed_model=first)
    CDEVectorStoreIndex.from_documents(corpus(30)[::-1], embed_model=second)
    assert first.context_fingerprint == second.context_fingerprint


def test_adapter_never_edits_texts(embed, monkeypatch) -> None:
    seen: list[str] = []
    encode = ContextualEncoder.encode_documents

    def recorded(self, texts, **kwargs):
        seen.extend(texts)
        return encode(self, texts, **kwargs)

    monkeypatch.setattr(ContextualEncoder, "encode_documents", recorded)
    texts = ["two\nlines", " space ", "", "tab\there"]
    embed.get_text_embedding_batch(texts)
    assert sorted(seen) == sorted(texts)


def test_the_encoder_gets_all_texts_at_once_and_vectors_come_back_in_order(embed, monkeypatch) -> None:
    texts = [f"{'baron ' * (7 * i % 23)}{i}" for i in range(40)]
    embed.fit(texts)
    alone = [embed.get_text_embedding(text) for text in texts]
    batches: list[list[str]] = []
    encode = ContextualEncoder.encode_documents

    def recorded(self, batch, **kwargs):
        batches.append(batch)
        return encode(self, batch, **kwargs)

    monkeypatch.setattr(ContextualEncoder, "encode_documents", recorded)
    np.testing.assert_allclose(embed.get_text_embedding_batch(texts), alone, atol=1e-5)
    assert batches == [texts]  # it cuts them by their tokens


def test_paths_are_taken_as_strings_and_as_paths(checkpoint) -> None:
    assert CDEEmbedding(str(checkpoint)).model_name == CDEEmbedding(Path(checkpoint)).model_name


async def test_an_empty_question_is_answered_as_any_other(checkpoint) -> None:
    retriever = build(checkpoint).as_retriever(similarity_top_k=3)
    found = retriever.retrieve("")
    assert len(found) == 3
    assert [node.node_id for node in await retriever.aretrieve("")] == [node.node_id for node in found]
    assert found[0].score == pytest.approx(max(node.score for node in found))
