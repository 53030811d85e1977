"""Read the folder of a LlamaIndex index that another embedding built, and write an index of ours of its nodes."""

from pathlib import Path

import numpy as np
from llama_index.core import StorageContext
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.vector_stores.simple import DEFAULT_VECTOR_STORE, SimpleVectorStore

from cde_retriever.adapters.cut_texts import MIGRATED, one_summary
from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.index import CDEVectorStoreIndex
from cde_retriever.adapters.llama_index.index_folder import read_index_folder
from cde_retriever.adapters.llama_index.storage import embedded_text, read_folder
from cde_retriever.errors import ConfigError
from cde_retriever.lifecycle.stored_index import NewIndex, Vectors


class ForeignFolder:
    """An index that LlamaIndex persisted, with its vectors; see `open_foreign`."""

    def __init__(self, folder: Path) -> None:
        try:
            self._storage = read_index_folder(folder)
        except ValueError as error:
            raise ConfigError(f"{folder} holds an index that cannot be read ({error!s:.200}); restore it") from error
        structs = [s for s in self._storage.index_store.index_structs() if isinstance(s, IndexDict)]
        store = self._storage.vector_stores.get(DEFAULT_VECTOR_STORE)
        if len(structs) != 1 or not isinstance(store, SimpleVectorStore):
            raise ConfigError(
                f"{folder} holds {len(structs)} vector indexes, and vectors in {type(store).__name__}; expected one "
                "index whose vectors are in the folder: build others anew, with CDEVectorStoreIndex(nodes)"
            )
        self._index_id = structs[0].index_id
        nodes = self._storage.docstore.get_nodes(list(structs[0].nodes_dict.values()))
        self._nodes = [node.model_copy(update={"embedding": None}) for node in nodes]
        self.texts = [embedded_text(node) for node in nodes]
        rows = [store.data.embedding_dict.get(name) for name in structs[0].nodes_dict]
        whole = all(row is not None and len(row) == len(rows[0] or ()) for row in rows)
        self.vectors: Vectors | None = np.array(rows, np.float32) if rows and whole else None

    @one_summary(MIGRATED)
    def build(self, folder: Path, new: NewIndex) -> str:
        """Write an index of ours of the same nodes to a new folder; return the fingerprint of its context."""
        embedding = CDEEmbedding.of_migrated(new)
        storage = StorageContext.from_defaults(docstore=self._storage.docstore, graph_store=self._storage.graph_store)
        index = CDEVectorStoreIndex(self._nodes, embed_model=embedding, storage_context=storage, parts=new.parts)
        index.set_index_id(self._index_id)
        if not new.keep_plain:
            embedding.encoder.plain_documents = None
        index.persist(folder)
        return embedding.context_fingerprint


def open_foreign(folder: Path, trust_pickle: bool) -> ForeignFolder:  # noqa: ARG001 - all JSON
    """Read an index.

    Raises:
        ConfigError: if it is one of ours, is damaged, has its vectors elsewhere, or there are several indexes.
    """
    if read_folder(folder) is not None:
        raise ConfigError(f"{folder} holds an index of ours already; `cde refit` gives it a new context")
    return ForeignFolder(folder)
