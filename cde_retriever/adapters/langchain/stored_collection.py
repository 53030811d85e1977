"""Read a collection that LangChain filled, and write its documents into a new one under another context."""

from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from cde_retriever.adapters.growth import Growth
from cde_retriever.adapters.langchain.documents import check_stamps
from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.adapters.langchain.known_vectors import known_vectors
from cde_retriever.adapters.langchain.stores import guard
from cde_retriever.adapters.new_collection import begin_collection, check_written
from cde_retriever.adapters.plain_vectors import read_plain, write_log
from cde_retriever.adapters.stamps import STAMP, is_dense
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.context.selection import kinds_of
from cde_retriever.errors import ConfigError
from cde_retriever.lifecycle.collection import AT_ONCE, Collection, Record, Vectors
from cde_retriever.search.index_file import index_file


class StoredCollection:
    """A collection under the context in a folder.

    Raises:
        ContextMismatchError: if another model made the context, or a document was embedded under another one.
        FileNotFoundError: if there is no context.
    """

    def __init__(self, folder: Path, collection: Collection, model: ModelSpec) -> None:
        self._collection, self._model, self._name = collection, model, collection.in_force(folder)
        self._client = collection.opened()
        self._documents = [document_of(record) for record in self._client.records(self._name)]
        self._ids = [str(document.id) for document in self._documents]
        self.texts = [document.page_content for document in self._documents]
        self._beside = index_file(folder).is_file()
        self.parts: Any = "dense" if is_dense(self._documents[0].metadata.get(STAMP)) else "one"
        embedding = CDEEmbeddings.as_stored(model, Context.load(folder), self.parts)
        check_stamps(self._documents, embedding.stamp)
        self.encoder = embedding.encoder
        if (kept := read_plain(folder, self.encoder.identity)) is not None:
            self.encoder.keep_plain(kept)
        self.drift = Growth.open(embedding, folder, keep=False).drift

    def kinds(self, field: str) -> list[str]:
        """Return the kinds of its documents by a field of their metadata; raises as `kinds_of` does."""
        return kinds_of((document.metadata for document in self._documents), field)

    def vectors_of(self, numbers: list[int]) -> Vectors:
        """Return stored vectors, (n, d)."""
        return self._client.vectors(self._name, [self._ids[number] for number in numbers])

    def rebuild(self, folder: Path, context: Context, vectors: Vectors) -> None:
        """Write the documents with other vectors, (n, d), into a new collection, and its context into the folder."""
        embedding = CDEEmbeddings.as_stored(self._model, context, self.parts)
        name = begin_collection(folder, self._collection, self._name, context)
        embedding.save_context(folder)
        both = self.parts == "dense" and not self._beside
        store = guard(
            store_over(self._collection, name, embedding, both), embedding, parts_dir=folder if self._beside else None
        )
        with known_vectors(embedding.stamp, self.texts, vectors):
            add_all(store, self._documents)
        check_written(self._client, name, self._ids)
        write_log(self.encoder.plain_documents, folder, self.texts, self.encoder.identity)


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


def add_all(store: VectorStore, documents: list[Document]) -> None:
    """Write documents into a store under their own ids, some at a time."""
    for start in range(0, len(documents), AT_ONCE):
        some = documents[start : start + AT_ONCE]
        store.add_documents(some, ids=[str(document.id) for document in some])


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
