"""Ingestion pipelines that run more than once: one context over all runs, whoever starts them."""

import asyncio
from pathlib import Path

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, TransformComponent
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.simple import SimpleVectorStore

from cde_retriever import ContextFormatError, ContextMismatchError, ContextNotFittedError
from cde_retriever.adapters.llama_index.pipeline_run import COLLECTION, running_pipeline
from cde_retriever.adapters.stamps import STAMP
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from tests.contract.llama_index_corpus import QUERY, Oracle, chroma, corpus

pytestmark = pytest.mark.filterwarnings("error:.*context:UserWarning")


def script(checkpoint, folder: Path, documents: list[Document], **settings) -> CDEEmbedding:
    """Do what a user's script does in a new process each night: make everything anew, load, run, persist."""
    embedding = settings.pop("embedding", None) or CDEEmbedding(checkpoint, **settings)
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(), embedding],
        docstore=SimpleDocumentStore(),
        vector_store=chroma(folder / "chroma", "documents"),
    )
    if (folder / "pipeline").exists():
        pipeline.load(str(folder / "pipeline"))
    pipeline.run(documents=documents)
    pipeline.persist(str(folder / "pipeline"))
    return embedding


def stored(folder: Path) -> list[str]:
    """Return the stamps in the script's collection."""
    return [metadata[STAMP] for metadata in chroma(folder / "chroma", "documents").client.get()["metadatas"]]


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("on_missing_context", ["fit", "error"])
def test_a_second_run_goes_on_under_the_context_of_the_first(checkpoint, tmp_path, new, on_missing_context) -> None:
    first = script(checkpoint, tmp_path, corpus(20))
    second = script(checkpoint, tmp_path, corpus(20 + new), on_missing_context=on_missing_context)
    assert second.context_fingerprint == first.context_fingerprint
    assert stored(tmp_path) == [first.context_fingerprint] * (20 + new)
    store = chroma(tmp_path / "chroma", "documents")
    found = CDEVectorStoreIndex.from_vector_store(store, second).as_retriever(similarity_top_k=30).retrieve(QUERY)
    assert len(found) == 20 + new
    Oracle(checkpoint).check(store, found, QUERY, first.context)


def test_a_run_without_new_documents_gives_the_embedding_its_context(checkpoint, tmp_path) -> None:
    first = script(checkpoint, tmp_path, corpus(20))
    second = script(checkpoint, tmp_path, corpus(20))
    assert second.get_query_embedding(QUERY) == first.get_query_embedding(QUERY)


async def test_asynchronous_runs_do_the_same(checkpoint, tmp_path) -> None:
    first = script(checkpoint, tmp_path, corpus(20))
    second = CDEEmbedding(checkpoint)
    store = chroma(tmp_path / "chroma", "documents")
    pipeline = IngestionPipeline(transformations=[second], docstore=SimpleDocumentStore(), vector_store=store)
    pipeline.load(str(tmp_path / "pipeline"))
    assert len(await pipeline.arun(documents=corpus(4, seed=1))) == 4
    assert second.context_fingerprint == first.context_fingerprint
    assert running_pipeline() is None


@pytest.mark.parametrize("lost", ["cache", "docstore"])
def test_the_context_is_kept_with_cache_and_docstore(checkpoint, tmp_path, lost) -> None:
    first = script(checkpoint, tmp_path, corpus(20))
    pipeline = IngestionPipeline(
        transformations=[CDEEmbedding(checkpoint)],
        docstore=SimpleDocumentStore(),
        vector_store=chroma(tmp_path / "chroma", "documents"),
    )
    fresh = {"cache": pipeline.cache, "docstore": pipeline.docstore}[lost]
    pipeline.load(str(tmp_path / "pipeline"))
    setattr(pipeline, lost, fresh)
    pipeline.run(documents=corpus(4, seed=1))
    assert pipeline.transformations[0].context_fingerprint == first.context_fingerprint


def test_a_context_that_is_kept_nowhere_stops_the_second_run_before_it_writes(checkpoint, tmp_path) -> None:
    first = script(checkpoint, tmp_path, corpus(20))
    first.save_context(tmp_path / "context")
    for file in (tmp_path / "pipeline").iterdir():
        file.unlink()
    (tmp_path / "pipeline").rmdir()
    words = rf"vectors of context {first.context_fingerprint[:12]}.* 5 new nodes .*CDEEmbedding\(context=folder\)"
    with pytest.raises(ContextNotFittedError, match=words):
        script(checkpoint, tmp_path, corpus(5, seed=1))
    assert len(stored(tmp_path)) == 20
    script(checkpoint, tmp_path, corpus(5, seed=1), context=tmp_path / "context")
    assert stored(tmp_path) == [first.context_fingerprint] * 25


def test_a_docstore_alone_tells_of_an_earlier_run(checkpoint) -> None:
    docstore = SimpleDocumentStore()
    docstore.add_documents(corpus(20))
    pipeline = IngestionPipeline(transformations=[CDEEmbedding(checkpoint)], docstore=docstore)
    pipeline.docstore_strategy = "duplicates_only"
    with pytest.raises(ContextNotFittedError, match=r"its docstore knows 20 other documents.* 3 new nodes"):
        pipeline.run(documents=corpus(3, seed=1))


def test_another_context_is_refused_before_anything_is_written(checkpoint, tmp_path) -> None:
    first = script(checkpoint, tmp_path, corpus(20))
    other = CDEEmbedding(checkpoint)
    other.fit([document.text for document in corpus(9, seed=3)])
    names = f"{first.context_fingerprint[:12]}.*{other.context_fingerprint[:12]}"
    with pytest.raises(ContextMismatchError, match=names):
        script(checkpoint, tmp_path, corpus(23), embedding=other)
    with pytest.raises(ContextMismatchError, match=r"Chroma.* with the 12 numbers of .*; open it as it was built \("):
        script(checkpoint, tmp_path, corpus(23), truncate_dim=12, context=first.context)
    assert stored(tmp_path) == [first.context_fingerprint] * 20


def test_all_documents_rewritten_are_a_corpus_of_their_own(checkpoint) -> None:
    """Where nothing of the old corpus is left in the stores, a new context is what one wants."""
    store, docstore = SimpleVectorStore(), SimpleDocumentStore()
    contexts = []
    for seed in (0, 1):
        documents = [Document(text=d.text, id_=f"d{i}") for i, d in enumerate(corpus(12, seed))]
        embedding = CDEEmbedding(checkpoint)
        steps = [SentenceSplitter(), embedding]
        pipeline = IngestionPipeline(transformations=steps, docstore=docstore, vector_store=store)
        assert len(pipeline.run(documents=documents)) == 12
        contexts.append(embedding.context_fingerprint)
        assert {metadata[STAMP] for metadata in store.data.metadata_dict.values()} == {contexts[-1]}
    assert contexts[0] != contexts[1]


def test_a_store_that_a_pipeline_filled_answers_no_other_embedding(checkpoint) -> None:
    store = chroma()
    embedding = CDEEmbedding(checkpoint)
    IngestionPipeline(transformations=[embedding], vector_store=store).run(documents=corpus(12))
    assert len(VectorStoreIndex.from_vector_store(store, embed_model=embedding).as_retriever().retrieve(QUERY)) == 2
    mock = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=32))
    with pytest.raises(ContextMismatchError, match=embedding.context_fingerprint[:12]):
        mock.as_retriever().retrieve(QUERY)


def test_a_damaged_context_is_named(checkpoint, tmp_path) -> None:
    first = script(checkpoint, tmp_path, corpus(20))
    pipeline = IngestionPipeline(
        transformations=[CDEEmbedding(checkpoint)], vector_store=chroma(tmp_path / "chroma", "documents")
    )
    for bad in ("!", "AAAA", None):
        pipeline.cache.cache.put(first.context_fingerprint, {"context": bad}, collection=COLLECTION)
        with pytest.raises(ContextFormatError, match="the pipeline's cache or docstore"):
            pipeline.run(documents=corpus(3, seed=1))


def test_pipelines_inside_one_another_and_side_by_side_are_told_apart(checkpoint) -> None:
    seen = []

    class Inner(TransformComponent):
        def __call__(self, nodes, **_):
            before = running_pipeline()
            IngestionPipeline(transformations=[SentenceSplitter()]).run(nodes=list(nodes))
            seen.append((before, running_pipeline()))
            return nodes

    pipelines = [IngestionPipeline(transformations=[Inner()]) for _ in range(2)]

    async def both() -> None:
        await asyncio.gather(*(pipeline.arun(documents=corpus(3)) for pipeline in pipelines))

    asyncio.run(both())
    assert {id(before) for before, _ in seen} == {id(pipeline) for pipeline in pipelines}
    assert all(before is after for before, after in seen)
    assert running_pipeline() is None
