"""Read a collection that LlamaIndex filled, and write its nodes into a new one under another context."""

from pathlib import Path
from typing import Any

from llama_index.core import StorageContext
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from cde_retriever.adapters.growth import Growth
from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.index import CDEVectorStoreIndex
from cde_retriever.adapters.llama_index.native_parts import sparse_functions
from cde_retriever.adapters.llama_index.storage import check_stamps, embedded_text, stamped
from cde_retriever.adapters.new_collection import begin_collection, check_written
from cde_retriever.adapters.plain_vectors import read_plain, write_log
from cde_retriever.adapters.stamps import STAMP, is_dense
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.context.selection import kinds_of
from cde_retriever.lifecycle.collection import Collection, Vectors, slices
from cde_retriever.search.index_file import index_file


class StoredCollection:
    """A collection under the context in a folder.

    Raises:
        ContextMismatchError: if another model made the context, or a node was embedded under another one.
        FileNotFoundError: if there is no context.
    """

    def __init__(self, folder: Path, collection: Collection, model: ModelSpec) -> None:
        self._collection, self._model, self._name = collection, model, collection.in_force(folder)
        self._client = collection.opened()
        self._nodes = nodes_in(collection, self._name)
        self._ids = [node.node_id for node in self._nodes]
        self.texts = [embedded_text(node) for node in self._nodes]
        self._beside = index_file(folder).is_file()
        self.parts: Any = "dense" if is_dense(self._nodes[0].metadata.get(STAMP)) else "one"
        embedding = CDEEmbedding.as_stored(model, Context.load(folder), self.parts)
        check_stamps(self._nodes, embedding.stamp)
        self.encoder = embedding.encoder
        if (kept := read_plain(folder, self.encoder.identity)) is not None:
            self.encoder.keep_plain(kept)
        self.drift = Growth.open(embedding, folder, keep=False).drift

    def kinds(self, field: str) -> list[str]:
        """Return the kinds of its documents by a field of their metadata; raises as `kinds_of` does."""
        return kinds_of((node.metadata for node in self._nodes), field)

    def vectors_of(self, numbers: list[int]) -> Vectors:
        """Return stored vectors, (n, d)."""
        return self._client.vectors(self._name, [self._ids[number] for number in numbers])

    def rebuild(self, folder: Path, context: Context, vectors: Vectors) -> None:
        """Write the nodes with other vectors, (n, d), into a new collection, and its context into the folder."""
        embedding = CDEEmbedding.as_stored(self._model, context, self.parts)
        name = begin_collection(folder, self._collection, self._name, context)
        both = sparse_functions(embedding) if self.parts == "dense" and not self._beside else {}
        storage = StorageContext.from_defaults(vector_store=store_over(self._collection, name, **both))
        CDEVectorStoreIndex(
            [
                stamped(node, embedding.stamp, vector)
                for node, vector in zip(self._nodes, vectors.tolist(), strict=True)
            ],
            embed_model=embedding,
            storage_context=storage,
            context_dir=folder,
            parts="both" if self._beside else None,
        )
        check_written(self._client, name, self._ids)
        write_log(self.encoder.plain_documents, folder, self.texts, self.encoder.identity)


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
