"""Read the folder of a LlamaIndex index, and write its nodes again under another context."""

from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core import StorageContext
from llama_index.core.vector_stores.simple import DEFAULT_VECTOR_STORE, SimpleVectorStore
from numpy.typing import NDArray

from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.index import CDEVectorStoreIndex
from cde_retriever.adapters.llama_index.parts_store import NAMESPACE as PARTS
from cde_retriever.adapters.llama_index.storage import NAMESPACE as CONTEXT
from cde_retriever.adapters.llama_index.storage import embedded_text, read_folder, stamped
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.context.selection import kinds_of

Vectors = NDArray[np.float32]


class StoredFolder:
    """An index that `CDEVectorStoreIndex.persist` wrote, with its vectors; see `open_folder`."""

    def __init__(self, folder: Path, model: ModelSpec) -> None:
        self._model = model
        embedding = CDEEmbedding.from_storage(folder, model.name, **model.arguments())
        self._index = CDEVectorStoreIndex.from_storage(folder, embedding)
        node_ids = list(self._index.index_struct.nodes_dict.values())
        self._nodes = self._index.docstore.get_nodes(node_ids)
        self.texts = [embedded_text(node) for node in self._nodes]
        self.encoder = self._index.embedding.encoder
        self.parts: Any = self._index.embedding.parts
        self.drift = self._index.drift

    def kinds(self, field: str) -> list[str]:
        """Return the kinds of its documents by a field of their metadata; raises as `kinds_of` does."""
        return kinds_of((node.metadata for node in self._nodes), field)

    def vectors_of(self, numbers: list[int]) -> Vectors:
        """Return stored vectors, (n, d)."""
        store = self._index.vector_store
        assert isinstance(store, SimpleVectorStore)
        return np.array([store.get(self._nodes[number].node_id) for number in numbers], np.float32)

    def rebuild(self, folder: Path, context: Context, vectors: Vectors) -> None:
        """Write the same nodes with other vectors, (n, d), over a copy of the index's folder; ids stay."""
        embedding = CDEEmbedding.as_stored(self._model, context, self.parts)
        if self.encoder.plain_documents is not None:
            embedding.encoder.keep_plain(self.encoder.plain_documents)
        old = self._index.storage_context
        storage = StorageContext.from_defaults(docstore=old.docstore, graph_store=old.graph_store)
        for name in old.vector_stores.keys() - {DEFAULT_VECTOR_STORE, PARTS, CONTEXT}:
            storage.add_vector_store(old.vector_stores[name], name)
        index = CDEVectorStoreIndex(
            [
                stamped(node, embedding.stamp, vector)
                for node, vector in zip(self._nodes, vectors.tolist(), strict=True)
            ],
            embed_model=embedding,
            storage_context=storage,
            parts="both" if self.parts == "dense" else "one",
        )
        index.set_index_id(self._index.index_id)
        index.persist(folder)


def open_folder(folder: Path, model: ModelSpec, trust_pickle: bool) -> StoredFolder:  # noqa: ARG001 - all JSON
    """Read an index under the context that it keeps.

    Raises:
        ContextNotFittedError: if it keeps none.
        ContextMismatchError: if another model made it, or its files do not belong together.
        ValueError: if its vectors are in an external store, or there are several indexes.
    """
    return StoredFolder(folder, model)


def context_of(folder: Path) -> Context | None:
    """Return the context that a folder keeps, None if there is none."""
    return read_folder(folder)
