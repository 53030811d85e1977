"""Corpora, stores and oracles for the LlamaIndex tests."""

import math
import uuid
from pathlib import Path

import chromadb
import numpy as np
from llama_index.core import Document
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.vector_stores.chroma import ChromaVectorStore

from cde_retriever.adapters.llama_index.storage import embedded_text
from cde_retriever.encoder.encoder import ContextualEncoder
from tests.tiny import documents

SETTINGS = chromadb.Settings(anonymized_telemetry=False)
QUERY = "baron kolak misim"


def corpus(count: int = 12, seed: int = 0) -> list[Document]:
    """Return documents with metadata that LlamaIndex puts before the embedded text."""
    return [
        Document(text=text, id_=f"{seed}-{i}", metadata={"file_name": f"{seed}-{i}.txt"})
        for i, text in enumerate(documents(count, seed))
    ]


def text_nodes(count: int = 12, seed: int = 0) -> list[TextNode]:
    return [TextNode(text=text, id_=f"n{seed}-{i}") for i, text in enumerate(documents(count, seed))]


def chroma(path: Path | None = None, name: str | None = None) -> ChromaVectorStore:
    """Return a Chroma store, by default a new one in memory."""
    client = chromadb.EphemeralClient(SETTINGS) if path is None else chromadb.PersistentClient(str(path), SETTINGS)
    collection = client.get_or_create_collection(name or f"c-{uuid.uuid4().hex}")
    return ChromaVectorStore(chroma_collection=collection)


def stored_vector(store, node) -> np.ndarray:
    """Return the vector a store holds for a node."""
    if isinstance(store, SimpleVectorStore):
        return np.array(store.data.embedding_dict[node.node_id])
    found = store.client.get(ids=[node.node_id], include=["embeddings"])
    return np.array(found["embeddings"][0])


def ranking(index, query: str = QUERY, top_k: int = 5) -> list[tuple[str, float]]:
    found = index.as_retriever(similarity_top_k=top_k).retrieve(query)
    return [(node.node_id, round(node.score, 5)) for node in found]


class Oracle:
    """Recomputes vectors with an encoder of its own, to tell under which context a stored one was made."""

    def __init__(self, checkpoint: Path, truncate_dim: int | None = None) -> None:
        self.encoder = ContextualEncoder.from_pretrained(checkpoint, device="cpu", truncate_dim=truncate_dim)
        self.known: dict[tuple[str, str, str], np.ndarray] = {}

    def vector(self, context, role: str, text: str) -> np.ndarray:
        key = (context.fingerprint, role, text)
        if key not in self.known:
            self.encoder.set_context(context)
            encode = self.encoder.encode_queries if role == "query" else self.encoder.encode_documents
            self.known[key] = encode([text])[0]
        return self.known[key]

    def check(self, store, found, query: str, context) -> None:
        """Assert that query and every returned node were embedded under this one context."""
        query_vector = self.vector(context, "query", query)
        for node in found:
            expected = self.vector(context, "document", embedded_text(node.node))
            np.testing.assert_allclose(stored_vector(store, node.node), expected, atol=1e-4)
            if isinstance(store, SimpleVectorStore):
                score = float(query_vector @ expected)
            else:
                score = math.exp(-float(((query_vector - expected) ** 2).sum()))
            np.testing.assert_allclose(node.score, score, atol=1e-4)
