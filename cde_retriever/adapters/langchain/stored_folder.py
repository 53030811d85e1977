"""Read the folder of a LangChain FAISS index, and write its documents again under another context."""

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.adapters.langchain.embedders import embedding_of
from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.adapters.langchain.guard import save_local
from cde_retriever.adapters.langchain.known_vectors import known_vectors
from cde_retriever.adapters.langchain.store_growth import drift
from cde_retriever.adapters.langchain.store_parts import StoreParts, attach_parts, parts_of
from cde_retriever.adapters.langchain.stores import guard
from cde_retriever.adapters.langchain.stores import open as open_store
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context, context_file
from cde_retriever.context.selection import kinds_of
from cde_retriever.errors import ConfigError

Vectors = NDArray[np.float32]


class StoredFolder:
    """A FAISS index that `save_local` wrote; see `open_folder`."""

    def __init__(self, folder: Path, model: ModelSpec) -> None:
        self._model = model
        faiss_store = community("vectorstores").FAISS
        self._store: Any = open_store(
            lambda e: faiss_store.load_local(str(folder), e, allow_dangerous_deserialization=True),
            folder,
            model_name=model.name,
            **model.arguments(),
        )
        self._ids = [name for _, name in sorted(self._store.index_to_docstore_id.items())]
        self._documents = self._store.get_by_ids(self._ids)
        embedding = embedding_of(self._store)
        self.texts: list[str] = [document.page_content for document in self._documents]
        self.encoder = embedding.encoder
        self.parts: Any = embedding.parts
        self.drift = drift(self._store)

    def kinds(self, field: str) -> list[str]:
        """Return the kinds of its documents by a field of their metadata; raises as `kinds_of` does."""
        return kinds_of((document.metadata for document in self._documents), field)

    def vectors_of(self, numbers: list[int]) -> Vectors:
        """Return stored vectors, (n, d)."""
        return np.array([self._store.index.reconstruct(number) for number in numbers], np.float32)

    def rebuild(self, folder: Path, context: Context, vectors: Vectors) -> None:
        """Write the same documents with other vectors, (n, d), over a copy of the index's folder; ids stay.

        The new index is of the same kind: Flat, HNSW and so on.
        """
        embedding = CDEEmbeddings.as_stored(self._model, context, self.parts)
        if self.encoder.plain_documents is not None:
            embedding.encoder.keep_plain(self.encoder.plain_documents)
        index = import_module("faiss").clone_index(self._store.index)
        index.reset()
        docstore = community("docstore.in_memory").InMemoryDocstore()
        store = guard(community("vectorstores").FAISS(embedding, index, docstore, {}), embedding)
        if parts_of(self._store) is not None:
            attach_parts(store, StoreParts.open(embedding, None))
        with known_vectors(embedding.stamp, self.texts, vectors):
            store.add_documents(self._documents, ids=self._ids)
        context_file(folder).unlink()
        save_local(store, folder)


def open_folder(folder: Path, model: ModelSpec, trust_pickle: bool) -> StoredFolder:
    """Read an index under the context that it keeps.

    Raises:
        ConfigError: if its pickle is not trusted; nothing was read.
        FileNotFoundError: if it keeps no context.
        ContextMismatchError: if another model made it, or its files do not belong together.
    """
    refuse_pickle(folder, trust_pickle)
    return StoredFolder(folder, model)


def refuse_pickle(folder: Path, trusted: bool) -> None:
    """Refuse to open the pickle of an index that is not trusted.

    Raises:
        ConfigError: if it is not.
    """
    if not trusted:
        raise ConfigError(
            f"{folder} keeps its documents in a pickle, which can run any program when it is opened; if you made it "
            "yourself, say so: trust_pickle=True, or --allow-dangerous-deserialization"
        )


def context_of(folder: Path) -> Context | None:
    """Return the context that a folder keeps, None if there is none."""
    file = context_file(folder)
    return Context.load(file) if file.is_file() else None


def community(name: str) -> Any:
    """Import a module of `langchain_community`, which says at each import that it is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return import_module(f"langchain_community.{name}")
