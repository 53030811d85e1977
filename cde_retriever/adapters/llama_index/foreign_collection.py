"""Read a collection that LlamaIndex filled under another embedding, and write its nodes into one of ours."""

from pathlib import Path

from llama_index.core import StorageContext

from cde_retriever.adapters.cut_texts import MIGRATED, one_summary
from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.index import CDEVectorStoreIndex
from cde_retriever.adapters.llama_index.storage import embedded_text
from cde_retriever.adapters.llama_index.stored_collection import nodes_in, store_over
from cde_retriever.adapters.new_collection import begin_migrated, check_written, refuse_own
from cde_retriever.adapters.plain_vectors import write_log
from cde_retriever.adapters.stamps import STAMP
from cde_retriever.lifecycle.collection import Collection
from cde_retriever.lifecycle.stored_index import NewIndex, Vectors


class ForeignCollection:
    """A collection of another embedding.

    Raises:
        ConfigError: if it is one of ours.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection, self._client = collection, collection.opened()
        nodes = [node for node in nodes_in(collection, collection.name) if embedded_text(node)]
        refuse_own(collection, any(STAMP in node.metadata for node in nodes))
        self._nodes = [node.model_copy(update={"embedding": None}) for node in nodes]
        self._ids = [node.node_id for node in nodes]
        self.texts = [embedded_text(node) for node in nodes]
        self.vectors: Vectors | None = self._client.vectors(collection.name, self._ids)

    @one_summary(MIGRATED)
    def build(self, folder: Path, new: NewIndex) -> str:
        """Write the nodes into a new collection, its context into a folder; return the context's fingerprint."""
        embedding = CDEEmbedding.of_migrated(new)
        embedding.fit(self.texts)
        parts = new.parts or "one"
        width = embedding.dimension if parts == "one" else embedding.dense_part().dimension
        name = begin_migrated(folder, self._collection, embedding.context, width)
        storage = StorageContext.from_defaults(vector_store=store_over(self._collection, name))
        CDEVectorStoreIndex(
            self._nodes, embed_model=embedding, storage_context=storage, context_dir=folder, parts=parts
        )
        check_written(self._client, name, self._ids)
        write_log(new.plain if new.keep_plain else None, folder, self.texts, embedding.encoder.identity)
        return embedding.context_fingerprint
