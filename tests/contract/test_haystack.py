"""The embedders in pipelines of Haystack: vectors, copies by YAML, and another context refused."""

import asyncio

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ContextMismatchError
from cde_retriever.haystack import CDEContextGuard, CDEDocumentEmbedder, CDETextEmbedder
from tests.tiny import documents as texts

QUERY = "baron kolak"
ALLOWED = {"allowed_modules": ["cde_retriever.haystack"]}


def corpus(seed=0):
    return [Document(content=text, meta={"title": f"no {i}", "none": None}) for i, text in enumerate(texts(40, seed))]


@pytest.fixture
def embedder(tmp_path, prompted):
    made = CDEDocumentEmbedder(tmp_path / "context", prompted, meta_fields_to_embed=["title", "none", "missing"])
    made.fit(corpus())
    return made


@pytest.fixture
def encoder(prompted):
    encoder = ContextualEncoder.from_pretrained(prompted)
    encoder.fit_context([f"no {i}\n{text}" for i, text in enumerate(texts(40))])
    return encoder


def asking(embedder, store, guard=True):
    pipeline = Pipeline()
    pipeline.add_component("query", embedder)
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=40))
    pipeline.connect("query.embedding", "retriever.query_embedding")
    if guard:
        pipeline.add_component("guard", CDEContextGuard())
        pipeline.connect("retriever.documents", "guard.documents")
        pipeline.connect("query.stamp", "guard.stamp")
    return pipeline


def filled(embedder):
    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    indexing = Pipeline()
    indexing.add_component("embedder", embedder)
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder", "writer")
    indexing.run({"embedder": {"documents": corpus()}})
    return store


def test_pipelines_rank_as_the_encoder_does(tmp_path, prompted, embedder, encoder):
    store = filled(embedder)
    pipeline = asking(CDETextEmbedder(tmp_path / "context", prompted), store)
    found = pipeline.run({"query": {"text": QUERY}})["guard"]["documents"]
    scores = encoder.encode_documents([f"{d.meta['title']}\n{d.content}" for d in corpus()])
    scores = scores @ encoder.encode_queries([QUERY])[0]
    assert [d.content for d in found] == [corpus()[i].content for i in np.argsort(-scores)]
    assert {d.meta["cde_context"] for d in found} == {encoder.context.fingerprint}


async def test_asynchronous_twins_give_the_same(tmp_path, prompted, embedder):
    query = CDETextEmbedder(tmp_path / "context", prompted)
    one, both = await asyncio.gather(query.run_async(QUERY), embedder.run_async(corpus()))
    assert one == query.run(QUERY)
    assert [d.embedding for d in both["documents"]] == [d.embedding for d in embedder.run(corpus())["documents"]]
    pipeline = Pipeline()
    pipeline.add_component("query", query)
    assert (await pipeline.run_async({"query": {"text": QUERY}}))["query"] == one


def test_yaml_round_trip(tmp_path, prompted, embedder, encoder):
    query = CDETextEmbedder(tmp_path / "context", prompted, settings={"truncate_dim": 16})
    pipeline = Pipeline()
    pipeline.add_component("documents", embedder)
    pipeline.add_component("query", query)
    text = pipeline.dumps()
    again = Pipeline.loads(text, **ALLOWED)
    assert "cde_retriever.haystack.CDETextEmbedder" in text
    assert again.to_dict() == pipeline.to_dict()
    assert again.get_component("query").run(QUERY) == query.run(QUERY)
    assert again.get_component("query").run(QUERY)["stamp"] == f"{encoder.context.fingerprint}/16"
    assert again.get_component("documents").run(corpus()) == embedder.run(corpus())


def test_a_pipeline_refuses_another_context_in_the_place_of_its_own(tmp_path, prompted, embedder):
    data = embedder.to_dict()
    (tmp_path / "context" / "context.safetensors").unlink()
    CDEDocumentEmbedder(tmp_path / "context", prompted).fit(corpus(seed=1))
    loaded = CDEDocumentEmbedder.from_dict(data)
    with pytest.raises(ContextMismatchError, match="was embedded under context"):
        loaded.run(corpus())


def test_the_guard_refuses_documents_of_another_context(tmp_path, prompted, embedder):
    CDEDocumentEmbedder(tmp_path / "other", prompted).fit(corpus(seed=1))
    store = filled(embedder)

    def other():
        return CDETextEmbedder(tmp_path / "other", prompted)

    with pytest.raises(Exception, match="embedding in use has context"):
        asking(other(), store).run({"query": {"text": QUERY}})
    assert len(asking(other(), store, guard=False).run({"query": {"text": QUERY}})["retriever"]["documents"]) == 40
    with pytest.raises(ContextMismatchError, match="without a stamp"):
        CDEContextGuard().run(corpus(), "2f9c")


def test_what_is_refused(tmp_path, prompted, embedder):
    with pytest.raises(FileNotFoundError, match="no context at"):
        CDETextEmbedder(tmp_path / "nothing", prompted).run(QUERY)
    with pytest.raises(TypeError, match="use CDETextEmbedder"):
        embedder.run(QUERY)
    assert embedder.run([]) == {"documents": []}
