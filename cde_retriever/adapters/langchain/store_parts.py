"""Keep the documents of a guarded store in two parts beside it, for hybrid search, as they come and go.

Stores find documents by one vector each. A `PartsIndex` holds their dense and sparse parts under the same ids, ranks by
the exact sum, and the store gives the documents. What is written goes into the index before the store: an id that only
the index knows is passed over when it is searched, and one that it lacked would never be found.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from cde_retriever.adapters.langchain.documents import check_stamps
from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.adapters.langchain.first_look import some_documents
from cde_retriever.adapters.langchain.saving import lives_in_memory
from cde_retriever.adapters.stamps import check_stamp
from cde_retriever.context.knowledge import Parts
from cde_retriever.errors import ConfigError, ContextMismatchError
from cde_retriever.search.index_file import index_file, index_from_bytes, index_to_bytes, open_index, save_index
from cde_retriever.search.parts_index import PartsIndex

PathLike = str | os.PathLike[str]
_ATTRIBUTE = "_cde_parts"
_IDS_AT_ONCE = 500
_DEEPER = 4
_LOOKED_AT = 10


class StoreParts:
    """The documents of one store in two parts.

    Args:
        embedding: The store's embedding, which gives dense parts.
        index: The documents.
        folder: Where the index is written after each change, unless the store lives in memory; None for nowhere.
    """

    def __init__(self, embedding: CDEEmbeddings, index: PartsIndex, folder: Path | None = None) -> None:
        self.embedding, self.index, self.folder = embedding, index, folder
        self._written = self._state()

    @classmethod
    def open(cls, embedding: CDEEmbeddings, folder: Path | None) -> "StoreParts":
        """Read the index of a folder, or begin one.

        Raises:
            ConfigError: if the embedding gives one vector a text.
            ContextMismatchError: if the index was made under another context.
            ContextFormatError: if it is damaged.
        """
        if embedding.parts != "dense":
            raise ConfigError(
                "hybrid search keeps the dense part in the store; give an embedding with parts='dense', such as "
                "embedding.dense_part()"
            )
        fingerprint = embedding.context_fingerprint
        if folder is not None and index_file(folder).is_file():
            return cls(embedding, open_index(folder, fingerprint), folder)
        return cls(embedding, PartsIndex(fingerprint), folder)

    def embedding_for(self, embedding: CDEEmbeddings) -> CDEEmbeddings:
        """Return what embeds queries, given what a user has.

        Raises:
            ContextMismatchError: if it has another context; names both.
        """
        check_stamp(self.index.fingerprint, embedding.context_fingerprint, "the store")
        return self.embedding

    def add(self, ids: list[str], parts: Parts) -> None:
        """Add documents, or replace those whose ids are there."""
        self._refuse_other_writers()
        last = {name: row for row, name in enumerate(ids)}  # of an id given twice stores keep the last
        rows = list(last.values())
        self.index.add(list(last), Parts(parts.dense[rows], parts.sparse[rows]))
        self._write()

    def delete(self, ids: Iterable[str]) -> None:
        """Remove documents."""
        self._refuse_other_writers()
        self.index.delete(ids)
        self._write()

    def delete_gone(self, store: VectorStore) -> None:
        """Remove documents that the store no longer has."""
        self.delete(set(self.index.ids) - _by_id(store, self.index.ids).keys())

    def search(self, store: VectorStore, query: str, count: int, mode: str, fits: Any = None) -> list[Document]:
        """Return the best documents for a query, best first.

        Args:
            store: The store, which gives the documents.
            query: The query.
            count: How many; fewer if fewer fit.
            mode: ``"hybrid"`` or ``"sparse"``.
            fits: Metadata that documents must have, as a mapping of names to values, or a function that is given a
                `Document`; None for all documents.

        Raises:
            ContextMismatchError: if a document was embedded under another context.
            ConfigError: for a filter of another kind.
        """
        predicate, parts = _predicate(fits), self.embedding.embed_query_in_parts(query)
        seen, wanted, found = 0, count, list[Document]()
        while True:
            hits = [hit.id for hit in self.index.search(parts, wanted, mode=mode)]
            documents = _by_id(store, hits[seen:])
            found += [documents[name] for name in hits[seen:] if name in documents and predicate(documents[name])]
            if len(found) >= count or len(hits) < wanted:
                check_stamps(found[:count], self.embedding.stamp)
                return found[:count]
            seen, wanted = len(hits), wanted * _DEEPER

    def stay_in_memory(self) -> None:
        """Write the index only when it is saved."""
        self.folder = self._written = None

    def save(self, folder: Path) -> None:
        """Write the index into a folder."""
        save_index(self.index, folder)

    def _write(self) -> None:
        if self.folder is not None:
            self.save(self.folder)
            self._written = self._state()

    def _refuse_other_writers(self) -> None:
        if self._state() != self._written:
            raise ContextMismatchError(
                f"{index_file(self.folder or '')} was written by another process or store since this one was opened; "
                "open the store again, and let one at a time write"
            )

    def _state(self) -> tuple[int, ...] | None:
        """Return what tells a file from what it was: None for no file."""
        if self.folder is None or not index_file(self.folder).is_file():
            return None
        found = index_file(self.folder).stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what a pickled copy is made from."""
        return _restore, (self.embedding, index_to_bytes(self.index), self.folder)


def _restore(embedding: CDEEmbeddings, data: bytes, folder: Path | None) -> StoreParts:
    return StoreParts(embedding, index_from_bytes(data, embedding.context_fingerprint), folder)


def parts_of(store: VectorStore) -> StoreParts | None:
    """Return what keeps a store's documents in two parts; None if nothing does."""
    return vars(store).get(_ATTRIBUTE)


def attach_parts(store: VectorStore, parts: StoreParts) -> None:
    """Let a guarded store keep its documents in two parts from now on.

    Raises:
        TypeError: if the store cannot return documents by their ids.
        ContextMismatchError: if the store has documents that the index lacks.
    """
    own = getattr(store, "_store_class", type(store))
    if own.get_by_ids is VectorStore.get_by_ids:
        raise TypeError(f"{own.__name__} cannot return documents by their ids (get_by_ids), which hybrid search needs")
    for document in some_documents(store, parts.embedding.stamp, _LOOKED_AT):
        if _id_of(document) not in parts.index:
            raise ContextMismatchError(
                f"the store holds document {document.page_content!r:.60}, which its index of two parts lacks; open "
                "both together, or build a new store with from_documents(..., hybrid=True)"
            )
    if lives_in_memory(own):  # `save_local` writes both together
        parts.stay_in_memory()
    vars(store)[_ATTRIBUTE] = parts


def _by_id(store: VectorStore, ids: list[str]) -> dict[str, Document]:
    """Return those documents that the store has."""
    found: dict[str, Document] = {}
    for start in range(0, len(ids), _IDS_AT_ONCE):
        found |= {_id_of(document): document for document in store.get_by_ids(ids[start : start + _IDS_AT_ONCE])}
    return found


def _id_of(document: Document) -> str:
    """Return a document's id; Qdrant's store puts it into the metadata."""
    return str(document.metadata.get("_id") if document.id is None else document.id)


def _predicate(fits: Any) -> Callable[[Document], bool]:
    if fits is None:
        return lambda _: True
    if callable(fits):
        return lambda document: bool(fits(document))
    plain = isinstance(fits, Mapping) and all(
        isinstance(value, str | int | float) and not str(name).startswith("$") for name, value in fits.items()
    )
    if not plain:
        raise ConfigError(
            f"filter is {fits!r:.80}; hybrid and sparse search take a mapping of metadata to values, or a function "
            "that is given a Document and returns whether it fits"
        )
    return lambda document: all(document.metadata.get(name) == value for name, value in fits.items())
