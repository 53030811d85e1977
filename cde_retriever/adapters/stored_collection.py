"""Write the documents of a collection into a new one: of ours under another context, of another embedding under ours.

What a document is, and how it is written, the adapter of the framework that filled the collection knows: `Documents`.
"""

from pathlib import Path
from typing import Any, Protocol

from cde_retriever.adapters.cut_texts import MIGRATED, one_summary
from cde_retriever.adapters.growth import Growth
from cde_retriever.adapters.new_collection import begin_collection, begin_migrated, check_written
from cde_retriever.adapters.plain_vectors import read_plain, write_log
from cde_retriever.adapters.stamps import STAMP, is_dense
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.context.selection import kinds_of
from cde_retriever.errors import ConfigError
from cde_retriever.lifecycle.collection import Collection, Vectors
from cde_retriever.lifecycle.stored_index import NewIndex
from cde_retriever.search.index_file import index_file


class Documents(Protocol):
    """The documents of a collection, in the order of the store.

    Attributes:
        embedding_class: The framework's embedding.
        ids: The id of each.
        texts: What is embedded of each.
        metadata: The metadata of each.
    """

    embedding_class: type[Any]
    ids: list[str]
    texts: list[str]
    metadata: list[dict[str, Any]]

    def check_stamps(self, stamp: str) -> None:
        """Refuse documents that were embedded under another context; raises `ContextMismatchError`."""

    def write(self, name: str, folder: Path, embedding: Any, *, beside: bool, vectors: Vectors | None = None) -> None:
        """Write them under their ids into an empty collection, and the context into a folder.

        Args:
            name: The collection's name.
            folder: The context's.
            embedding: Gives the vectors that the collection is to hold.
            beside: Whether both parts are kept in the folder; otherwise dense parts go into a store that keeps both.
            vectors: What the embedding would give, (n, d); None to ask it.
        """


class StoredCollection:
    """A collection under the context in a folder.

    Args:
        folder: The folder.
        collection: The collection.
        name: The name of the one in force.
        model: Made the context.
        documents: What that one holds.

    Raises:
        ContextMismatchError: if another model made the context, or a document was embedded under another one.
        FileNotFoundError: if there is no context.
    """

    def __init__(self, folder: Path, collection: Collection, name: str, model: ModelSpec, documents: Documents) -> None:
        self._collection, self._name, self._model, self._documents = collection, name, model, documents
        self.texts = documents.texts
        self._beside = index_file(folder).is_file()
        self.parts: Any = "dense" if is_dense(documents.metadata[0].get(STAMP)) else "one"
        embedding = documents.embedding_class.as_stored(model, Context.load(folder), self.parts)
        documents.check_stamps(embedding.stamp)
        self.encoder = embedding.encoder
        if (kept := read_plain(folder, self.encoder.identity)) is not None:
            self.encoder.keep_plain(kept)
        self.drift = Growth.open(embedding, folder, keep=False).drift

    def kinds(self, field: str) -> list[str]:
        """Return the kinds of its documents by a field of their metadata; raises as `kinds_of` does."""
        return kinds_of(self._documents.metadata, field)

    def vectors_of(self, numbers: list[int]) -> Vectors:
        """Return stored vectors, (n, d)."""
        return self._collection.opened().vectors(self._name, [self._documents.ids[number] for number in numbers])

    def rebuild(self, folder: Path, context: Context, vectors: Vectors) -> None:
        """Write the documents with other vectors, (n, d), into a new collection, and its context into the folder."""
        name = begin_collection(folder, self._collection, self._name, context)
        embedding = self._documents.embedding_class.as_stored(self._model, context, self.parts)
        self._documents.write(name, folder, embedding, beside=self._beside, vectors=vectors)
        check_written(self._collection.opened(), name, self._documents.ids)
        write_log(self.encoder.plain_documents, folder, self.texts, self.encoder.identity)


class ForeignCollection:
    """A collection of another embedding.

    Args:
        collection: The collection.
        documents: What it holds.

    Raises:
        ConfigError: if it is one of ours.
    """

    def __init__(self, collection: Collection, documents: Documents) -> None:
        if any(STAMP in metadata for metadata in documents.metadata):
            raise ConfigError(
                f"collection {collection.name!r} is one of ours already; `cde refit` gives it a new context"
            )
        self._collection, self._documents, self.texts = collection, documents, documents.texts
        self.vectors: Vectors | None = collection.opened().vectors(collection.name, documents.ids)

    @one_summary(MIGRATED)
    def build(self, folder: Path, new: NewIndex) -> str:
        """Write the documents into a new collection, its context into a folder; return the context's fingerprint."""
        embedding = self._documents.embedding_class.of_migrated(new)
        embedding.fit(self.texts)
        both = new.parts == "both"
        if both:
            embedding = embedding.dense_part()
        name = begin_migrated(folder, self._collection, embedding.context, embedding.dimension)
        self._documents.write(name, folder, embedding, beside=both)
        check_written(self._collection.opened(), name, self._documents.ids)
        write_log(new.plain if new.keep_plain else None, folder, self.texts, embedding.encoder.identity)
        return str(embedding.context_fingerprint)
