"""Stamp documents with what made their vectors, and check the stamps of documents that a search returned."""

from collections.abc import Iterable
from typing import Any

from langchain_core.documents import Document

from cde_retriever.adapters.stamps import STAMP, check_stamp, fingerprint_of


def checked(documents: Iterable[Document]) -> list[Document]:
    """Return documents as a list.

    Raises:
        TypeError: if one is no `Document`; names its index.
    """
    documents = list(documents)
    for number, document in enumerate(documents):
        if not isinstance(document, Document):
            raise TypeError(
                f"document {number} is {type(document).__name__}, expected Document: {document!r:.80}; LangChain's "
                "Document(text) makes one of a text"
            )
    return documents


def stamp_documents(documents: Iterable[Document], stamp: str) -> list[Document]:
    """Return copies of documents with this stamp in their metadata; raises as `checked` does."""
    documents = checked(documents)
    return [d.model_copy(update={"metadata": {**d.metadata, STAMP: stamp}}) for d in documents]


def texts_of(store: Any) -> list[str]:
    """Return the texts of a store that lives in memory: FAISS and its kin, or an `InMemoryVectorStore`."""
    names = store.index_to_docstore_id.values() if hasattr(store, "index_to_docstore_id") else store.store
    return [document.page_content for document in store.get_by_ids(list(names))]


def check_stamps(results: Any, stamp: str) -> Any:
    """Return a search's results, if every document, alone or first in a tuple, has this stamp.

    The context without a number is enough for vectors that were cut: version 0.1.0 stored no number, and no store
    compares vectors of two widths.

    Raises:
        ContextMismatchError: if one was embedded under another context, or has no stamp.
    """
    for result in results:
        document = result[0] if isinstance(result, tuple) else result
        found = document.metadata.get(STAMP)
        if found != fingerprint_of(stamp):
            check_stamp(found, stamp, f"document {document.page_content!r:.60}")
    return results
