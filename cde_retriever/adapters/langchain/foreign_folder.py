"""Read the folder of a LangChain FAISS index that another embedding built, and write one of ours of its documents."""

from pathlib import Path

import numpy as np
from langchain_core.embeddings import FakeEmbeddings

from cde_retriever.adapters.cut_texts import MIGRATED, one_summary
from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.adapters.langchain.guard import save_local
from cde_retriever.adapters.langchain.stored_folder import community, context_of, refuse_pickle
from cde_retriever.adapters.langchain.stores import from_documents
from cde_retriever.errors import ConfigError
from cde_retriever.lifecycle.stored_index import NewIndex, Vectors


class ForeignFolder:
    """An index that ``FAISS.save_local`` wrote; see `open_foreign`."""

    def __init__(self, folder: Path) -> None:
        self._store_class = community("vectorstores").FAISS
        nobody = FakeEmbeddings(size=1)  # is asked nothing
        store = self._store_class.load_local(str(folder), nobody, allow_dangerous_deserialization=True)
        places = sorted(store.index_to_docstore_id)
        self._ids = [store.index_to_docstore_id[place] for place in places]
        self._documents = store.get_by_ids(self._ids)
        self.texts: list[str] = [document.page_content for document in self._documents]
        try:
            self.vectors: Vectors | None = np.array([store.index.reconstruct(place) for place in places], np.float32)
        except RuntimeError:  # an index that keeps no vectors, or only codes of them
            self.vectors = None

    @one_summary(MIGRATED)
    def build(self, folder: Path, new: NewIndex) -> str:
        """Write an index of ours of the same documents to a new folder; return the fingerprint of its context."""
        embedding = CDEEmbeddings.of_migrated(new)
        hybrid = new.parts == "both"
        store = from_documents(self._store_class, self._documents, embedding, hybrid=hybrid, ids=self._ids)
        if not new.keep_plain:
            embedding.encoder.plain_documents = None
        save_local(store, folder)
        return embedding.context_fingerprint


def open_foreign(folder: Path, trust_pickle: bool) -> ForeignFolder:
    """Read an index.

    Raises:
        ConfigError: if it is one of ours, or its pickle is not trusted; nothing was read.
    """
    if context_of(folder) is not None:
        raise ConfigError(f"{folder} holds an index of ours already; `cde refit` gives it a new context")
    refuse_pickle(folder, trust_pickle)
    return ForeignFolder(folder)
