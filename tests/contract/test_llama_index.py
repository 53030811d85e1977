"""`cde_retriever.llama_index` with real LlamaIndex, SimpleVectorStore and Chroma."""

import asyncio
import copy
import gc
import json
import pickle
import warnings
import weakref

import numpy as np
import pytest
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.indices.query.schema import QueryBundle
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode, TextNode
from pydantic import ValidationError

import cde_retriever
from cde_retriever import (
    CheckpointError,
    ConfigError,
    Context,
    ContextFormatError,
    ContextMismatchError,
    ContextNotFittedError,
    ContextualEncoder,
)
from cde_retriever.adapters.llama_index.storage import NAMESPACE, embedded_text, stamped
from cde_retriever.adapters.stamps import DIGEST, STAMP
from cde_retriever.context.sampling import hash_text
from cde_retriever.llama_index import CDEContextGuard, CDEEmbedding, CDEVectorStoreIndex
from tests.contract.llama_index_corpus import QUERY, Oracle, chroma, corpus, ranking, stored_vector, text_nodes
from tests.tiny import documents, tiny_checkpoint

pytestmark = pytest.mark.filterwarnings("error:.*context:UserWarning")


@pytest.fixture
def embed(checkpoint) -> CDEEmbedding:
    return CDEEmbedding(checkpoint)


@pytest.fixture
def fitted(checkpoint) -> CDEEmbedding:
    embedding = CDEEmbedding(checkpoint)
    embedding.fit(documents(30))
    return embedding


# The embedding


def test_shorter_vectors_go_the_whole_way(checkpoint, tmp_path) -> None:
    """Two sizes of one checkpoint share weights; an index of one takes queries of no other."""
    index = CDEVectorStoreIndex.from_documents(corpus(), embed_model=CDEEmbedding(checkpoint, truncate_dim=12))
    assert {len(vector) for vector in index.vector_store.data.embedding_dict.values()} == {12}
    index.storage_context.persist(tmp_path)
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path))
    short = CDEEmbedding.from_storage(storage, checkpoint, truncate_dim=12)
    whole = CDEEmbedding.from_storage(storage, checkpoint)
    assert (len(short.get_query_embedding(QUERY)), len(whole.get_query_embedding(QUERY))) == (12, 32)
    assert short.encoder.backend is whole.encoder.backend
    assert ranking(load_index_from_storage(storage, embed_model=short), QUERY) == ranking(index, QUERY)
    own = index.embedding.context_fingerprint[:12]
    with pytest.raises(ContextMismatchError, match=f"context {own}, cut to 12 numbers, .* has context {own}, and"):
        load_index_from_storage(storage, embed_model=whole)
    with pytest.raises(ContextMismatchError, match=f"context {own}, cut to 12 numbers, .* has context {own}, and"):
        index.as_retriever(embed_model=whole).retrieve(QUERY)
    with pytest.raises(ContextMismatchError, match="cut to 12 numbers"):
        index.insert_nodes(whole(text_nodes(3)))


def test_it_is_a_base_embedding_and_a_public_name(embed, checkpoint) -> None:
    assert isinstance(embed, BaseEmbedding)
    assert cde_retriever.CDEEmbedding is CDEEmbedding
    assert embed.class_name() == "CDEEmbedding"
    assert embed.model_name == str(checkpoint)
    assert embed.embed_batch_size == 32


def test_vectors_are_those_of_the_encoder(fitted, checkpoint) -> None:
    encoder = ContextualEncoder.from_pretrained(checkpoint)
    encoder.fit_context(documents(30))
    assert fitted.context_fingerprint == encoder.context.fingerprint
    texts = documents(5, seed=3)
    np.testing.assert_allclose(fitted.get_text_embedding_batch(texts), encoder.encode_documents(texts), atol=1e-6)
    np.testing.assert_allclose(fitted.get_text_embedding(texts[2]), encoder.encode_documents(texts)[2], atol=1e-5)
    np.testing.assert_allclose(fitted.get_query_embedding(QUERY), encoder.encode_queries([QUERY])[0], atol=1e-6)
    assert all(type(x) is float for x in fitted.get_query_embedding(QUERY))


async def test_async_methods_give_the_same_vectors(fitted) -> None:
    texts = documents(5, seed=3)
    assert await fitted.aget_query_embedding(QUERY) == fitted.get_query_embedding(QUERY)
    assert await fitted.aget_text_embedding(texts[0]) == fitted.get_text_embedding(texts[0])
    assert await fitted.aget_text_embedding_batch(texts) == fitted.get_text_embedding_batch(texts)
    nodes = await fitted.acall(text_nodes(3))
    assert [node.embedding for node in nodes] == [node.embedding for node in fitted(text_nodes(3))]


def test_settings_reach_the_context(checkpoint) -> None:
    small = CDEEmbedding(checkpoint, context_size=4, seed=7)
    context = small.fit(documents(30))
    assert (context.size, context.seed, context.documents_seen) == (4, 7, 30)
    other = CDEEmbedding(checkpoint, context_size=4, seed=8)
    assert other.fit(documents(30)).fingerprint != context.fingerprint


def test_unknown_settings_are_refused(checkpoint) -> None:
    with pytest.raises(ValidationError, match="contxt_size"):
        CDEEmbedding(checkpoint, contxt_size=99)
    with pytest.raises(ValidationError, match="on_missing_context"):
        CDEEmbedding(checkpoint, on_missing_context="ignore")
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        CDEEmbedding(checkpoint, dtype="int8")


def test_missing_checkpoint_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="nowhere"):
        CDEEmbedding(tmp_path / "nowhere")


def test_the_default_is_the_bundled_checkpoint(checkpoint, monkeypatch) -> None:
    monkeypatch.setattr("cde_retriever.checkpoint.folder.DEFAULT_CHECKPOINT", checkpoint)
    embedding = CDEEmbedding()
    assert embedding.model_name == "cde-retriever/default"
    assert embedding.to_payload()["checkpoint"] == "tiny-bert"
    assert CDEEmbedding.from_dict(embedding.to_dict()).dimension == embedding.dimension == 32
    index = CDEVectorStoreIndex.from_documents(corpus())
    assert index.embedding.context.documents_seen == 12


def test_dimension_needs_no_context(embed) -> None:
    assert embed.dimension == 32
    assert not embed.is_fitted


def test_weights_are_shared_and_contexts_are_not(checkpoint) -> None:
    first, second = CDEEmbedding(checkpoint), CDEEmbedding(checkpoint)
    assert first.encoder.open_model() is second.encoder.open_model()
    first.fit(documents(30))
    assert not second.is_fitted
    second.fit(documents(30, seed=1))
    assert first.context_fingerprint != second.context_fingerprint
    assert first.get_query_embedding(QUERY) != second.get_query_embedding(QUERY)
    half = CDEEmbedding(checkpoint, dtype="bfloat16")
    assert half.encoder.open_model() is not first.encoder.open_model()


def test_a_rewritten_checkpoint_is_read_anew(tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", seed=1)
    before = CDEEmbedding(folder)
    tiny_checkpoint(folder, seed=2)
    after = CDEEmbedding(folder)
    assert before.encoder.identity.sha256 != after.encoder.identity.sha256


def test_weights_go_with_their_last_user(tmp_path) -> None:
    embedding = CDEEmbedding(tiny_checkpoint(tmp_path / "model"))
    model = weakref.ref(embedding.encoder.open_model())
    assert model() is not None
    del embedding
    gc.collect()
    assert model() is None


# One context for life


def test_fitting_the_same_corpus_again_does_nothing(fitted) -> None:
    context = fitted.context
    assert fitted.fit(reversed(documents(30))) is context


def test_another_context_is_refused(fitted, checkpoint, tmp_path) -> None:
    own = fitted.context_fingerprint
    other = CDEEmbedding(checkpoint)
    other.fit(documents(30, seed=1))
    other.save_context(tmp_path)
    calls = (
        lambda: fitted.fit(documents(30, seed=1)),
        lambda: fitted.load_context(tmp_path),
        lambda: fitted.load_context(other.context),
        lambda: fitted.use_null_context(),
    )
    for call in calls:
        with pytest.raises(ContextMismatchError, match=f"{own[:12]}.*new CDEEmbedding"):
            call()
    assert fitted.context_fingerprint == own


def test_context_is_saved_and_loaded(fitted, checkpoint, tmp_path) -> None:
    fitted.save_context(tmp_path / "context")
    for source in (tmp_path / "context", str(tmp_path / "context"), fitted.context):
        again = CDEEmbedding(checkpoint, context=source)
        assert again.get_query_embedding(QUERY) == fitted.get_query_embedding(QUERY)
    later = CDEEmbedding(checkpoint)
    later.load_context(tmp_path / "context")
    assert later.context_fingerprint == fitted.context_fingerprint
    with pytest.raises(ContextNotFittedError, match="holds no context"):
        CDEEmbedding(checkpoint, context=tmp_path / "none")


def test_null_context_is_a_mode_of_its_own(embed, fitted) -> None:
    embed.use_null_context()
    assert embed.context.size == 0
    assert embed.context_fingerprint != fitted.context_fingerprint
    assert embed.get_query_embedding(QUERY) != fitted.get_query_embedding(QUERY)
    index = CDEVectorStoreIndex.from_documents(corpus(), embed_model=embed)
    assert len(index.as_retriever().retrieve(QUERY)) == 2


def test_copies_have_the_same_context(fitted, embed) -> None:
    for duplicate in (copy.deepcopy(fitted), fitted.model_copy(), fitted.model_copy(deep=True)):
        assert duplicate.context_fingerprint == fitted.context_fingerprint
        assert duplicate.get_query_embedding(QUERY) == fitted.get_query_embedding(QUERY)
    twin = copy.deepcopy(embed)
    twin.fit(documents(30))
    assert not embed.is_fitted
    assert twin.on_missing_context == "fit"


def test_to_dict_names_the_context_and_from_dict_never_fits_another(checkpoint, fitted, embed) -> None:
    assert fitted.to_dict() == fitted.to_dict()
    assert fitted.to_dict()["context_fingerprint"] == fitted.context_fingerprint
    assert embed.to_dict()["context_fingerprint"] != embed.to_dict()["context_fingerprint"]
    again = CDEEmbedding.from_dict(fitted.to_dict())
    assert not again.is_fitted
    with pytest.raises(ContextNotFittedError, match="on_missing_context is 'error'"):
        again.get_text_embedding_batch(documents(30))
    other = CDEEmbedding(checkpoint)
    other.fit(documents(9, seed=9))
    for take in (
        lambda: again.fit(documents(9, seed=9)),
        lambda: again.load_context(other.context),
        again.use_null_context,
    ):
        with pytest.raises(ContextMismatchError, match=f"has context {fitted.context_fingerprint[:12]} for life"):
            take()
        assert not again.is_fitted
    again.fit(iter(documents(30)))
    assert again.get_query_embedding(QUERY) == fitted.get_query_embedding(QUERY)
    assert CDEEmbedding.from_dict(embed.to_dict()).on_missing_context == "fit"


def test_payload_is_plain_and_holds_no_texts(fitted) -> None:
    payload = fitted.to_payload()
    assert payload["context_fingerprint"] == fitted.context_fingerprint
    assert all(isinstance(value, str | int) for value in payload.values())
    assert not any(text in str(payload) for text in documents(30))


# Nodes and transformations


def test_stamp_leaves_embedded_and_llm_text_alone() -> None:
    node = TextNode(text="body", metadata={"file_name": "a.txt"})
    marked = stamped(node, "f" * 64)
    assert marked.metadata[STAMP] == "f" * 64
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert marked.get_content(mode) == node.get_content(mode) == "file_name: a.txt\n\nbody"
    assert STAMP not in node.metadata
    assert STAMP not in node.excluded_embed_metadata_keys
    assert stamped(marked, "e" * 64).excluded_embed_metadata_keys == [STAMP, DIGEST]


def test_transformation_fits_on_all_nodes_and_stamps_them(embed) -> None:
    nodes = text_nodes(20)
    embedded = embed(nodes, embed_model="ignored", insert_batch_size=3)
    assert embed.context.documents_seen == 20
    assert {node.metadata[STAMP] for node in embedded} == {embed.context_fingerprint}
    assert [node.node_id for node in embedded] == [node.node_id for node in nodes]
    np.testing.assert_allclose(embedded[3].embedding, embed.get_text_embedding(nodes[3].text), atol=1e-5)
    assert nodes[0].embedding is None
    assert embed([]) == []


def test_transformations_of_a_stock_index_see_the_whole_corpus(embed) -> None:
    splitter = SentenceSplitter(chunk_size=64, chunk_overlap=0)
    index = VectorStoreIndex.from_documents(
        corpus(20), embed_model=embed, transformations=[splitter, embed], insert_batch_size=6
    )
    assert embed.context.documents_seen == 20
    found = index.as_retriever().retrieve(QUERY)
    assert CDEContextGuard(embed_model=embed).postprocess_nodes(found) == found


async def test_pipeline_sync_and_async(checkpoint) -> None:
    embedding = CDEEmbedding(checkpoint)
    nodes = IngestionPipeline(transformations=[SentenceSplitter(), embedding]).run(documents=corpus(20))
    assert embedding.context.documents_seen == 20
    other = CDEEmbedding(checkpoint)
    async_nodes = await IngestionPipeline(transformations=[SentenceSplitter(), other]).arun(documents=corpus(20))
    assert other.context_fingerprint == embedding.context_fingerprint
    assert [node.embedding for node in async_nodes] == [node.embedding for node in nodes]


# Indexes: build, persist, load, insert


def test_index_sees_the_whole_corpus_and_answers_under_its_context(checkpoint) -> None:
    embedding = CDEEmbedding(checkpoint)
    index = CDEVectorStoreIndex.from_documents(corpus(20), embed_model=embedding, insert_batch_size=6)
    assert embedding.context.documents_seen == 20
    found = index.as_retriever(similarity_top_k=20).retrieve(QUERY)
    assert len(found) == 20
    assert {node.metadata[STAMP] for node in found} == {embedding.context_fingerprint}
    Oracle(checkpoint).check(index.vector_store, found, QUERY, embedding.context)


@pytest.mark.parametrize("use_async", [False, True])
def test_index_in_chroma_answers_as_the_simple_one(checkpoint, tmp_path, use_async: bool) -> None:
    simple = CDEVectorStoreIndex.from_documents(corpus(20), embed_model=CDEEmbedding(checkpoint), use_async=use_async)
    storage = StorageContext.from_defaults(vector_store=chroma())
    index = CDEVectorStoreIndex.from_documents(
        corpus(20),
        embed_model=CDEEmbedding(checkpoint),
        storage_context=storage,
        context_dir=tmp_path,
        use_async=use_async,
    )
    texts = [[n.text for n in i.as_retriever(similarity_top_k=5).retrieve(QUERY)] for i in (simple, index)]
    assert texts[0] == texts[1]
    assert Context.load(tmp_path).fingerprint == index.embedding.context_fingerprint


async def test_async_retrieval_and_insertion(checkpoint) -> None:
    index = CDEVectorStoreIndex.from_documents(corpus(20), embed_model=CDEEmbedding(checkpoint))
    await index.ainsert_nodes(text_nodes(3, seed=5))
    found = await index.as_retriever(similarity_top_k=23).aretrieve(QUERY)
    assert len(found) == 23
    assert [n.node_id for n in found] == [n.node_id for n in index.as_retriever(similarity_top_k=23).retrieve(QUERY)]
    Oracle(checkpoint).check(index.vector_store, found, QUERY, index.embedding.context)


def test_stock_loading_gives_the_identical_ranking(checkpoint, tmp_path) -> None:
    index = CDEVectorStoreIndex.from_documents(corpus(20), embed_model=CDEEmbedding(checkpoint))
    expected = ranking(index)
    index.storage_context.persist(tmp_path)
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path))
    stock = load_index_from_storage(storage, embed_model=CDEEmbedding.from_storage(storage, checkpoint))
    assert type(stock) is CDEVectorStoreIndex
    assert ranking(stock) == expected
    own = CDEVectorStoreIndex.from_storage(tmp_path, CDEEmbedding.from_storage(tmp_path, checkpoint))
    assert ranking(own) == expected


def test_index_opens_with_the_bundled_model_by_itself(checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("cde_retriever.checkpoint.folder.DEFAULT_CHECKPOINT", checkpoint)
    index = CDEVectorStoreIndex.from_documents(corpus(20), context_dir=tmp_path / "context")
    index.storage_context.persist(tmp_path)
    assert ranking(CDEVectorStoreIndex.from_storage(tmp_path)) == ranking(index)
    with pytest.raises(ValueError, match="index_id is 'other'"):
        CDEVectorStoreIndex.from_storage(tmp_path, index_id="other")


def test_stock_index_keeps_the_context_if_it_is_attached(checkpoint, tmp_path) -> None:
    embedding = CDEEmbedding(checkpoint)
    index = VectorStoreIndex.from_documents(corpus(20), embed_model=embedding)
    index.storage_context.persist(tmp_path / "without")
    with pytest.raises(ContextNotFittedError, match=r"attach_to\(storage_context\)"):
        CDEEmbedding.from_storage(tmp_path / "without", checkpoint)
    with pytest.raises(ContextNotFittedError, match=r"attach_to\(storage_context\)"):
        CDEEmbedding.from_storage(index.storage_context, checkpoint)
    embedding.attach_to(index.storage_context)
    embedding.attach_to(index.storage_context)
    index.storage_context.persist(tmp_path / "with")
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path / "with"))
    again = load_index_from_storage(storage, embed_model=CDEEmbedding.from_storage(storage, checkpoint))
    assert ranking(again) == ranking(index)


def test_damaged_context_is_refused(checkpoint, tmp_path) -> None:
    index = CDEVectorStoreIndex.from_documents(corpus(), embed_model=CDEEmbedding(checkpoint))
    index.storage_context.persist(tmp_path)
    file = tmp_path / f"{NAMESPACE}__vector_store.json"
    store = json.loads(file.read_text())
    good = store["metadata_dict"]["context"]
    for bad in ("!" + good[1:], good[:400], good[:-400] + "A" * 400, None, "AAAA"):
        file.write_text(json.dumps(store | {"metadata_dict": {"context": bad}}))
        with pytest.raises(ContextFormatError, match=r"cde_context__vector_store\.json"):
            CDEEmbedding.from_storage(tmp_path, checkpoint)
    file.write_text(json.dumps(store))
    assert CDEEmbedding.from_storage(tmp_path, checkpoint).context_fingerprint == index.embedding.context_fingerprint


def test_two_contexts_in_one_folder_are_refused(checkpoint, fitted, tmp_path) -> None:
    index = CDEVectorStoreIndex.from_documents(corpus(), embed_model=CDEEmbedding(checkpoint))
    index.storage_context.persist(tmp_path)
    index.embedding.save_context(tmp_path)
    assert CDEEmbedding.from_storage(tmp_path, checkpoint).context_fingerprint == index.embedding.context_fingerprint
    (tmp_path / "context.safetensors").write_bytes(fitted.context.to_bytes())
    with pytest.raises(ContextMismatchError, match=fitted.context_fingerprint[:12]):
        CDEEmbedding.from_storage(tmp_path, checkpoint)


def test_insert_keeps_old_vectors_and_the_context(checkpoint) -> None:
    embedding = CDEEmbedding(checkpoint)
    index = CDEVectorStoreIndex.from_documents(corpus(20), embed_model=embedding)
    before, context = copy.deepcopy(index.vector_store.data.embedding_dict), embedding.context
    index.insert(corpus(1, seed=9)[0])
    index.insert_nodes(text_nodes(3, seed=8))
    after = index.vector_store.data.embedding_dict
    assert embedding.context is context
    assert len(after) == 24
    assert {key: after[key] for key in before} == before
    Oracle(checkpoint).check(
        index.vector_store, index.as_retriever(similarity_top_k=24).retrieve(QUERY), QUERY, context
    )


def test_inserting_into_an_empty_index_fits_on_what_is_inserted_first(checkpoint) -> None:
    index = CDEVectorStoreIndex([], embed_model=CDEEmbedding(checkpoint))
    with pytest.raises(ContextNotFittedError, match="1 distinct texts is too small"):
        index.insert(corpus(1)[0])
    index.insert_nodes(text_nodes(12))
    assert index.embedding.context.documents_seen == 12
    assert len(index.as_retriever().retrieve(QUERY)) == 2


def test_query_and_chat_engines_go_through_the_check(checkpoint, fitted) -> None:
    index = CDEVectorStoreIndex.from_documents(corpus(20), embed_model=CDEEmbedding(checkpoint))
    assert len(index.as_query_engine(llm=MockLLM()).query(QUERY).source_nodes) == 2
    names = f"{index.embedding.context_fingerprint[:12]}.*{fitted.context_fingerprint[:12]}"
    with pytest.raises(ContextMismatchError, match=names):
        index.as_query_engine(llm=MockLLM(), embed_model=fitted).query(QUERY)
    with pytest.raises(ContextMismatchError, match=names):
        asyncio.run(index.as_query_engine(llm=MockLLM(), embed_model=fitted).aquery(QUERY))
    with pytest.raises(ContextMismatchError, match=names):
        index.as_retriever(embed_model=fitted).retrieve(QUERY)
    with pytest.raises(ContextMismatchError, match=names):
        asyncio.run(index.as_retriever(embed_model=fitted).aretrieve(QUERY))
    engine = index.as_chat_engine(chat_mode="context", llm=MockLLM())
    assert len(engine.chat(QUERY).source_nodes) == 2


def test_embeddings_of_other_classes_are_refused(checkpoint) -> None:
    with pytest.raises(TypeError, match="embed_model is MockEmbedding"):
        CDEVectorStoreIndex.from_documents(corpus(), embed_model=MockEmbedding(embed_dim=32))
    index = CDEVectorStoreIndex.from_documents(corpus(), embed_model=CDEEmbedding(checkpoint))
    with pytest.raises(TypeError, match="embed_model is MockEmbedding"):
        index.as_retriever(embed_model=MockEmbedding(embed_dim=32))


def test_embedded_nodes_are_taken_only_under_the_own_context(checkpoint, fitted, embed) -> None:
    nodes = fitted(text_nodes(12))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = CDEVectorStoreIndex(nodes, embed_model=fitted)
    assert stored_vector(index.vector_store, nodes[0]).tolist() == nodes[0].embedding
    with pytest.raises(ContextNotFittedError, match="12 nodes come with embeddings"):
        CDEVectorStoreIndex(nodes, embed_model=embed)
    other = CDEEmbedding(checkpoint)
    other.fit([node.text for node in text_nodes(12)])
    with pytest.raises(
        ContextMismatchError, match=f"{fitted.context_fingerprint[:12]}.*{other.context_fingerprint[:12]}"
    ):
        CDEVectorStoreIndex(nodes, embed_model=other)
    plain = [TextNode(text="a", embedding=[0.0] * 32), TextNode(text="b")]
    index = CDEVectorStoreIndex(text_nodes(12), embed_model=other)
    with pytest.raises(ContextMismatchError, match="without a stamp"):
        index.insert_nodes(plain)


def test_nodes_stamped_elsewhere_are_embedded_and_stamped_anew(checkpoint) -> None:
    first = CDEVectorStoreIndex.from_documents(corpus(12), embed_model=CDEEmbedding(checkpoint))
    nodes = list(first.docstore.docs.values())
    second = CDEVectorStoreIndex(nodes[:8], embed_model=CDEEmbedding(checkpoint))
    assert first.embedding.context_fingerprint != second.embedding.context_fingerprint
    oracle = Oracle(checkpoint)
    for index in (first, second):
        found = index.as_retriever(similarity_top_k=12).retrieve(QUERY)
        oracle.check(index.vector_store, found, QUERY, index.embedding.context)


def test_query_bundle_used_on_one_index_does_not_carry_its_vector_to_another(checkpoint) -> None:
    first, second = (
        CDEVectorStoreIndex.from_documents(corpus(12, seed), embed_model=CDEEmbedding(checkpoint)) for seed in (0, 1)
    )
    bundle = QueryBundle(QUERY)
    stock = VectorStoreIndex.from_documents(corpus(12), embed_model=first.embedding)
    stock.as_retriever().retrieve(bundle)
    assert bundle.embedding == first.embedding.get_query_embedding(QUERY)
    found = second.as_retriever(similarity_top_k=12).retrieve(bundle)
    Oracle(checkpoint).check(second.vector_store, found, QUERY, second.embedding.context)
    with pytest.raises(ContextMismatchError, match="vector without text"):
        second.as_retriever().retrieve(QueryBundle("", embedding=bundle.embedding))


def test_guard_checks_nodes_and_query_of_stock_indexes(checkpoint, fitted) -> None:
    index = CDEVectorStoreIndex.from_documents(corpus(12), embed_model=CDEEmbedding(checkpoint))
    store = chroma()
    store.add(index.embedding(corpus(12)))
    wrong = VectorStoreIndex.from_vector_store(store, embed_model=fitted)  # nobody told LlamaIndex of the stamps
    engine = wrong.as_query_engine(llm=MockLLM(), node_postprocessors=[CDEContextGuard(embed_model=fitted)])
    with pytest.raises(ContextMismatchError, match=fitted.context_fingerprint[:12]):
        engine.query(QUERY)
    guard = CDEContextGuard(embed_model=index.embedding)
    with pytest.raises(ContextMismatchError, match=r"brings a vector .* QueryBundle of its own"):
        wrong.as_query_engine(llm=MockLLM(), node_postprocessors=[guard]).query(QUERY)
    right = VectorStoreIndex.from_vector_store(store, embed_model=index.embedding)
    assert len(right.as_query_engine(llm=MockLLM(), node_postprocessors=[guard]).query(QUERY).source_nodes) == 2
    plain = VectorStoreIndex.from_documents(corpus(12), embed_model=index.embedding)
    with pytest.raises(ContextMismatchError, match="without a stamp"):
        guard.postprocess_nodes(plain.as_retriever().retrieve(QUERY))


def test_empty_documents_and_an_empty_index(checkpoint) -> None:
    index = CDEVectorStoreIndex.from_documents([], embed_model=CDEEmbedding(checkpoint))
    assert not index.embedding.is_fitted
    nodes = [TextNode(text=""), *text_nodes(12)]
    index = CDEVectorStoreIndex(nodes, embed_model=CDEEmbedding(checkpoint))
    assert index.embedding.context.documents_seen == 12
    assert len(index.vector_store.data.embedding_dict) == 12


def test_context_holds_the_texts_that_are_embedded(checkpoint) -> None:
    index = CDEVectorStoreIndex.from_documents(corpus(12), embed_model=CDEEmbedding(checkpoint))
    embedded = {hash_text(embedded_text(node)) for node in index.docstore.docs.values()}
    assert set(index.embedding.context.text_hashes) == embedded


def test_a_batch_is_one_event(fitted) -> None:
    from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler

    handler = LlamaDebugHandler(print_trace_on_end=False)
    fitted.callback_manager = CallbackManager([handler])
    fitted.embed_batch_size = 4
    fitted.get_text_embedding_batch(documents(10))
    ((_, end),) = handler.get_event_pairs(CBEventType.EMBEDDING)
    assert end.payload["chunks"] == documents(10)
    assert len(end.payload["embeddings"]) == 10


def test_pickle_round_trip_gives_the_same_vectors(fitted) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    assert again.get_query_embedding(QUERY) == fitted.get_query_embedding(QUERY)
    assert again.to_dict() == fitted.to_dict()


def test_embeddings_cache_is_refused_at_any_time(checkpoint, embed) -> None:
    from llama_index.core.storage.kvstore import SimpleKVStore

    with pytest.raises(ConfigError, match=r"embeddings_cache is SimpleKVStore.*text alone"):
        CDEEmbedding(checkpoint, embeddings_cache=SimpleKVStore())
    with pytest.raises(ConfigError, match="documents' vectors for queries"):
        embed.embeddings_cache = SimpleKVStore()
    assert embed.embeddings_cache is None
