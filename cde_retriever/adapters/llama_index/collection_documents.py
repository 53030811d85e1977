"""Read the nodes of a collection that LlamaIndex filled, and write them into a new one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_index.core import StorageContext
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.index import CDEVectorStoreIndex
from cde_retriever.adapters.llama_index.native_parts import sparse_functions
from cde_retriever.adapters.llama_index.storage import check_stamps, embedded_text, stamped
from cde_retriever.adapters.stored_collection import ForeignCollection, StoredCollection
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.lifecycle.collection import Collection, Vectors, slices


class CollectionDocuments:
    """Nodes of a collection; see `cde_retriever.adapters.stored_collection.Documents`."""

    embedding_class = CDEEmbedding

    def __init__(self, collection: Collection, nodes: Sequence[BaseNode]) -> None:
        self._collection, self._nodes = collection, nodes
        self.ids = [node.node_id for node in nodes]
        self.texts = [embedded_text(node) for node in nodes]
        self.metadata: list[dict[str, Any]] = [node.metadata for node in nodes]

    def check_stamps(self, stamp: str) -> None:
        """Refuse nodes that were embedded under another context; raises `ContextMismatchError`."""
        check_stamps(self._nodes, stamp)

    def write(
        self, name: str, folder: Path, embedding: CDEEmbedding, *, beside: bool, vectors: Vectors | None = None
    ) -> None:
        """Write them into an empty collection, and the context into a folder."""
        nodes, dense = self._nodes, embedding.parts == "dense"
        if vectors is not None:
            rows = zip(nodes, vectors.tolist(), strict=True)
            nodes = [stamped(node, embedding.stamp, vector) for node, vector in rows]
        both = sparse_functions(embedding) if dense and not beside else {}
        CDEVectorStoreIndex(
            nodes,
            embed_model=embedding,
            storage_context=StorageContext.from_defaults(vector_store=store_over(self._collection, name, **both)),
            context_dir=folder,
            parts="both" if dense else "one",
        )


def open_stored(folder: Path, collection: Collection, model: ModelSpec) -> StoredCollection:
    """Read a collection under the context in a folder; raises as `StoredCollection` does."""
    name = collection.in_force(folder)
    documents = CollectionDocuments(collection, nodes_in(collection, name))
    return StoredCollection(folder, collection, name, model, documents)


def open_foreign(collection: Collection) -> ForeignCollection:
    """Read a collection of another embedding, without nodes that have no text; raises as `ForeignCollection` does."""
    nodes = [node for node in nodes_in(collection, collection.name) if embedded_text(node)]
    bare = [node.model_copy(update={"embedding": None}) for node in nodes]
    return ForeignCollection(collection, CollectionDocuments(collection, bare))


def nodes_in(collection: Collection, name: str) -> list[BaseNode]:
    """Return all nodes of a collection, in the order of the store."""
    ids = [record.id for record in collection.opened().records(name)]
    store, found = store_over(collection, name), dict[str, BaseNode]()
    for some in slices(ids):
        found |= {node.node_id: node for node in store.get_nodes(some)}
    return [found[one] for one in ids]


def store_over(collection: Collection, name: str, **both: Any) -> BasePydanticVectorStore:
    """Return LlamaIndex's store over a collection.

    Args:
        collection: Whose client is taken.
        name: The collection's name.
        both: The functions that make sparse vectors, of a store that keeps both parts.
    """
    if collection.package == "chromadb":
        from llama_index.vector_stores.chroma import ChromaVectorStore

        return ChromaVectorStore(chroma_collection=collection.client.get_collection(name, embedding_function=None))
    from llama_index.vector_stores.qdrant import QdrantVectorStore

    return QdrantVectorStore(name, client=collection.client, enable_hybrid=bool(both), **both)
