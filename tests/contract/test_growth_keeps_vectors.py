"""Growth without surprise: documents that join an index change neither its vectors nor its context, bit by bit."""

import random

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core.schema import TextNode

from cde_retriever import langchain as cde
from cde_retriever.adapters.langchain.store_parts import parts_of
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from tests.contract.langchain_corpus import FAISS
from tests.contract.llama_index_corpus import corpus, stored_vector
from tests.tiny import documents, headed_encoder

SEQUENCES = 8
QUERY = "baron kolak 3 zevex"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    encoder = headed_encoder()
    return encoder.save_pretrained(tmp_path_factory.mktemp("model") / "head")


def batches(seed):
    """Yield texts that join, one to twenty at a time, a third of them unlike the corpus; some are there already."""
    rng = random.Random(seed)
    for number in range(rng.randint(2, 5)):
        made = documents(rng.randint(1, 20), seed=rng.choice([0, 1000 * seed + number]))
        yield ["".join(rng.sample(text, len(text))) if rng.random() < 0.33 else text for text in made]


def kept(before, after):
    """Assert that all that was there is there, unchanged."""
    assert before.keys() < after.keys()
    for name, vector in before.items():
        np.testing.assert_array_equal(vector, after[name])


def of_llama_index(index):
    """Return the stored vector of each node, and its score by words under a fixed query where there are any."""
    nodes = index.docstore.docs.values()
    vectors = {node.node_id: stored_vector(index.vector_store, node) for node in nodes}
    if index.embedding.parts == "dense":
        for found in index.as_retriever(mode="sparse", similarity_top_k=len(vectors)).retrieve(QUERY):
            vectors[found.node_id] = np.append(vectors[found.node_id], found.score)
    return vectors


@pytest.mark.parametrize("parts", ["one", "both"])
def test_llama_index(model, parts):
    for seed in range(SEQUENCES):
        index = CDEVectorStoreIndex.from_documents(corpus(20), embed_model=CDEEmbedding(model), parts=parts)
        context, before = index.embedding.context_fingerprint, of_llama_index(index)
        for number, texts in enumerate(batches(seed)):
            index.insert_nodes([TextNode(text=text, id_=f"{number}-{i}-new") for i, text in enumerate(texts)])
            after = of_llama_index(index)
            kept(before, after)
            before = after
        assert index.embedding.context_fingerprint == context


def of_langchain(store):
    """Return the stored vector of each document, and its words."""
    if isinstance(store, FAISS):
        rows = store.index.reconstruct_n(0, store.index.ntotal)
        vectors = {name: rows[row] for row, name in store.index_to_docstore_id.items()}
    else:
        vectors = {name: np.array(entry["vector"]) for name, entry in store.store.items()}
    index = parts_of(store)
    if index is not None:
        ids, segments = index.index.content()
        first = 0
        for segment in segments:
            for row in range(segment.size):
                words = segment.values[segment.documents == row]
                vectors[ids[first + row]] = np.concatenate([vectors[ids[first + row]], segment.dense[row], words])
            first += segment.size
    return vectors


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("store_class", [InMemoryVectorStore, FAISS])
def test_langchain(model, store_class, hybrid, tmp_path):
    for seed in range(SEQUENCES):
        made = [Document(text) for text in documents(20, seed=0)]
        embedding = cde.CDEEmbeddings(model_name=model)
        folder = tmp_path / str(seed)
        store = cde.from_documents(store_class, made, embedding, context_dir=folder, hybrid=hybrid)
        context, before = embedding.context_fingerprint, of_langchain(store)
        for texts in batches(seed):
            store.add_documents([Document(text) for text in texts])
            after = of_langchain(store)
            kept(before, after)
            before = after
        assert embedding.context_fingerprint == context
