"""Bind the documents of a FAISS index to its vectors and to its guard.

`FAISS.save_local` writes vectors to one file and documents to another. In a guarded store the documents carry the
sha256 of the vectors they were saved with, so that a vector file copied from elsewhere is noticed; and they are shown
to a guarded store alone, so that ``FAISS.load_local(folder, other_embedding)`` raises instead of answering.
"""

import hashlib
from importlib import import_module
from typing import Any

from cde_retriever.adapters.langchain.active import active_store
from cde_retriever.adapters.langchain.documents import check_stamps
from cde_retriever.adapters.stamps import check_stamp, describe
from cde_retriever.errors import ContextMismatchError

DOOR = "cde_retriever.langchain"
"""Where files look for what restores them: the public module, because private ones may move."""


def guard_docstore(store: Any, stamp: str) -> None:
    """Show the documents of a store that keeps them in a docstore to guarded stores of this stamp alone.

    Raises:
        ContextMismatchError: if they belong to another context, or to other vectors than the store's.
    """
    docstore = getattr(store, "docstore", None)
    if docstore is None:
        return
    if not _is_guarded(docstore):
        docstore.__class__ = _guarded(type(docstore), stamp)
    elif docstore._stamp != stamp:
        raise ContextMismatchError(
            f"the documents of the store belong to {describe(docstore._stamp)}, the embedding in use has "
            f"{describe(stamp)}; open the store with the context it was built with"
        )
    elif docstore._vectors_sha256 not in (None, _sha256_of(store.index)):
        raise ContextMismatchError(
            "the vectors of the store are not those that its documents were saved with: index.faiss was copied from "
            "another index, or is damaged; restore both files together, or embed the documents again"
        )


def bind_vectors(store: Any) -> None:
    """Note in the documents of a store which vectors they are about to be saved with."""
    docstore: Any = getattr(store, "docstore", None)
    if _is_guarded(docstore):
        docstore._vectors_sha256 = _sha256_of(store.index)


def check_merged(store: Any, other: Any) -> None:
    """Refuse to merge a store into another if one of its documents was embedded under another context.

    Raises:
        ContextMismatchError: if one was.
    """
    theirs = getattr(other.docstore, "_stamp", store.guard_stamp)
    check_stamp(theirs, store.guard_stamp, "the store to merge")
    check_stamps([other.docstore.search(key) for key in other.index_to_docstore_id.values()], store.guard_stamp)


def _sha256_of(index: Any) -> str | None:
    """Return the sha256 of what FAISS writes for an index, None for an index of another library."""
    if not type(index).__module__.startswith("faiss"):
        return None
    faiss: Any = import_module("faiss")

    digest = hashlib.sha256()
    faiss.write_index(index, faiss.PyCallbackIOWriter(digest.update))
    return digest.hexdigest()


def _is_guarded(docstore: Any) -> bool:
    return hasattr(type(docstore), "_docstore_class")


def _guarded(docstore_class: Any, stamp: str) -> type:
    """Return a subclass of a docstore's class that opens to guarded stores of this stamp alone.

    It has no other base, because an object changes its class only to one of the same layout.
    """

    def search(self: Any, search: str) -> Any:
        _require_guard(stamp)
        return docstore_class.search(self, search)

    def add(self: Any, texts: Any) -> None:
        _require_guard(stamp)
        self._vectors_sha256 = None
        docstore_class.add(self, texts)

    def delete(self: Any, ids: Any) -> None:
        self._vectors_sha256 = None
        docstore_class.delete(self, ids)

    def reduce(self: Any, protocol: Any) -> Any:
        return (_restore_docstore, (docstore_class, stamp), *docstore_class.__reduce_ex__(self, protocol)[2:])

    methods = {"search": search, "add": add, "delete": delete, "__reduce_ex__": reduce}
    facts = {"_docstore_class": docstore_class, "_stamp": stamp, "_vectors_sha256": None}
    return type(docstore_class.__name__, (docstore_class,), methods | facts)


def _require_guard(stamp: str) -> None:
    if getattr(active_store(), "guard_stamp", None) != stamp:
        raise ContextMismatchError(
            f"these documents belong to vectors under {describe(stamp)}, and only a guarded store of that context "
            "reads or extends them; open the index with cde_retriever.langchain.open, or guard(store, embedding)"
        )


def _restore_docstore(docstore_class: type, stamp: str) -> Any:
    """Make an empty guarded docstore, for pickles, which fill it."""
    cls: Any = _guarded(docstore_class, stamp)
    return cls.__new__(cls)


_restore_docstore.__module__ = DOOR
