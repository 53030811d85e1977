"""Read the documents of a collection that LangChain filled, and write them into a new one."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from cde_retriever.adapters.langchain.documents import check_stamps
from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.adapters.langchain.known_vectors import known_vectors
from cde_retriever.adapters.langchain.stores import guard
from cde_retriever.adapters.stored_collection import ForeignCollection, StoredCollection
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.errors import ConfigError
from cde_retriever.lifecycle.collection import AT_ONCE, Collection, Record, Vectors


class CollectionDocuments:
    """Documents of a collection; see `cde_retriever.adapters.stored_collection.Documents`."""

    embedding_class = CDEEmbeddings

    def __init__(self, collection: Collection, name: str) -> None:
        self._collection = collection
        self._documents = [document_of(record) for record in collection.opened().records(name)]
        self.ids = [str(document.id) for document in self._documents]
        self.texts = [document.page_content for document in self._documents]
        self.metadata: list[dict[str, Any]] = [document.metadata for document in self._documents]

    def check_stamps(self, stamp: str) -> None:
        """Refuse documents that were embedded under another context; raises `ContextMismatchError`."""
        check_stamps(self._documents, stamp)

    def write(
        self, name: str, folder: Path, embedding: CDEEmbeddings, *, beside: bool, vectors: Vectors | None = None
    ) -> None:
        """Write them into an empty collection, and the context into a folder."""
        embedding.save_context(folder)
        store = store_over(self._collection, name, embedding, embedding.parts == "dense" and not beside)
        guard(store, embedding, parts_dir=folder if beside else None)
        with nullcontext() if vectors is None else known_vectors(embedding.stamp, self.texts, vectors):
            for start in range(0, len(self.ids), AT_ONCE):
                some = slice(start, start + AT_ONCE)
                store.add_documents(self._documents[some], ids=self.ids[some])


def open_stored(folder: Path, collection: Collection, model: ModelSpec) -> StoredCollection:
    """Read a collection under the context in a folder; raises as `StoredCollection` does."""
    name = collection.in_force(folder)
    return StoredCollection(folder, collection, name, model, CollectionDocuments(collection, name))


def open_foreign(collection: Collection) -> ForeignCollection:
    """Read a collection of another embedding; raises as `ForeignCollection` does, and `ConfigError` for no text."""
    return ForeignCollection(collection, CollectionDocuments(collection, collection.name))


def document_of(record: Record) -> Document:
    """Return the document of a record: Chroma's text stands apart, Qdrant's in the payload.

    Raises:
        ConfigError: if it has none.
    """
    if record.text is not None:
        return Document(record.text, metadata=record.metadata, id=record.id)
    if record.metadata.get("page_content") is None:
        raise ConfigError(
            f"record {record.id!r} of the collection has neither a text nor a page_content, so neither LlamaIndex nor "
            "LangChain wrote it; build a new collection with from_documents"
        )
    return Document(record.metadata["page_content"], metadata=record.metadata.get("metadata") or {}, id=record.id)


def store_over(collection: Collection, name: str, embedding: CDEEmbeddings, both: bool) -> VectorStore:
    """Return LangChain's store over a collection; `both` for one that keeps both parts itself."""
    if collection.package == "chromadb":
        from langchain_chroma import Chroma

        return Chroma(name, embedding, client=collection.client, create_collection_if_not_exists=False)
    from langchain_qdrant import QdrantVectorStore, RetrievalMode

    if not both:
        return QdrantVectorStore(collection.client, name, embedding)
    from cde_retriever.adapters.langchain.sparse_embeddings import CDESparseEmbeddings

    return QdrantVectorStore(
        collection.client,
        name,
        embedding,
        retrieval_mode=RetrievalMode.HYBRID,
        sparse_embedding=CDESparseEmbeddings(embedding),
    )
