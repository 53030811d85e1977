"""Read a collection that LangChain filled under another embedding, and write its documents into one of ours."""

from pathlib import Path

from cde_retriever.adapters.cut_texts import MIGRATED, one_summary
from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.adapters.langchain.stored_collection import add_all, document_of, store_over
from cde_retriever.adapters.langchain.stores import guard
from cde_retriever.adapters.new_collection import begin_migrated, check_written, refuse_own
from cde_retriever.adapters.plain_vectors import write_log
from cde_retriever.adapters.stamps import STAMP
from cde_retriever.lifecycle.collection import Collection
from cde_retriever.lifecycle.stored_index import NewIndex, Vectors


class ForeignCollection:
    """A collection of another embedding.

    Raises:
        ConfigError: if it is one of ours, or a record has no text.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection, self._client = collection, collection.opened()
        self._documents = [document_of(record) for record in self._client.records(collection.name)]
        refuse_own(collection, any(STAMP in document.metadata for document in self._documents))
        self._ids = [str(document.id) for document in self._documents]
        self.texts: list[str] = [document.page_content for document in self._documents]
        self.vectors: Vectors | None = self._client.vectors(collection.name, self._ids)

    @one_summary(MIGRATED)
    def build(self, folder: Path, new: NewIndex) -> str:
        """Write the documents into a new collection, its context into a folder; return the context's fingerprint."""
        embedding = CDEEmbeddings.of_migrated(new)
        embedding.fit(self._documents)
        both = new.parts == "both"
        if both:
            embedding = embedding.dense_part()
        name = begin_migrated(folder, self._collection, embedding.context, embedding.dimension)
        embedding.save_context(folder)
        store = store_over(self._collection, name, embedding, False)
        guard(store, embedding, parts_dir=folder if both else None)
        add_all(store, self._documents)
        check_written(self._client, name, self._ids)
        write_log(new.plain if new.keep_plain else None, folder, self.texts, embedding.encoder.identity)
        return embedding.context_fingerprint
