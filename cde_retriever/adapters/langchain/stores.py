"""LangChain: `CDEEmbeddings`, entry points that see the whole corpus, and a guard on what stores return.

    from cde_retriever import langchain as cde

    store = cde.from_documents(FAISS, documents, context_dir="index")
    store.save_local("index")
    store = cde.open(lambda e: FAISS.load_local("index", e, allow_dangerous_deserialization=True), "index")
    store.similarity_search("a question")

LangChain shows an embedding slices of the corpus (Qdrant first ``"dummy_text"``, `index` 100 documents at a time) and
stores nothing about it. So fitting is a step of its own, here or in `CDEEmbeddings.fit`; every stored document carries
its context's fingerprint in ``metadata["cde_context"]``; and `guard`, which `from_documents` and `open` apply, makes a
store stamp what is added to it and check what its searches return. A guarded store stays an instance of its class, so
``store.as_retriever()`` and chains are guarded as well. An unguarded store is as LangChain made it and checks
nothing; `CDERetriever` searches one safely.
"""

import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import Field

from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.adapters.langchain.guard import check_stamps, guard_store, stamp_documents
from cde_retriever.context.context import Context, known_documents
from cde_retriever.errors import ContextMismatchError

PathLike = str | os.PathLike[str]
Store = TypeVar("Store", bound=VectorStore)


# Stores


def stamp(documents: Iterable[Document], embedding: CDEEmbeddings) -> list[Document]:
    """Return copies of documents that say under which context they are about to be embedded.

    For stores filled by other means than `from_documents` or a guarded store, such as `index`.

    Raises:
        ContextNotFittedError: if the embedding has no context.
    """
    return stamp_documents(documents, embedding.context_fingerprint)


def from_documents(
    store_class: type[Store],
    documents: Iterable[Document],
    embedding: CDEEmbeddings | None = None,
    *,
    context_dir: PathLike | None = None,
    **store_kwargs: Any,
) -> Store:
    """Build a guarded store whose vectors know the whole corpus.

    Args:
        store_class: Any LangChain store, such as ``FAISS``.
        documents: The whole corpus. Stored copies carry the fingerprint; the given documents are left alone.
        embedding: Fitted on the documents unless it has a context; None for the default model.
        context_dir: Folder for the context, written before any vector is stored.
        store_kwargs: Further arguments of ``store_class.from_documents``.

    Raises:
        ContextMismatchError: if another context is in `context_dir`, or the store holds vectors of another.
        ContextError: if no document has any text.
    """
    documents = list(documents)
    embedding = embedding or CDEEmbeddings()
    if not embedding.is_fitted:
        embedding.fit(documents)
    elif embedding.context.size and not known_documents(embedding.context, [d.page_content for d in documents]):
        warnings.warn(
            f"none of the {embedding.context.size} context documents of {embedding.context_fingerprint[:12]} is among "
            f"these {len(documents)}; use a new CDEEmbeddings for a new corpus, and add_documents to extend a store",
            stacklevel=2,
        )
    if context_dir is not None:
        embedding.save_context(context_dir)
    return guard(store_class.from_documents(stamp(documents, embedding), embedding, **store_kwargs), embedding)


def open(  # noqa: A001 - the counterpart of from_documents, used with its module's name
    opener: Callable[[CDEEmbeddings], Store],
    context: Context | PathLike,
    *,
    embedding: CDEEmbeddings | None = None,
    **model_kwargs: Any,
) -> Store:
    """Open a stored index under the context it was built with, guarded.

    Args:
        opener: Opens the store with the embedding it is given, such as ``lambda e: Chroma("name", e)``.
        context: The context, or the folder it was saved in.
        embedding: What to embed with; by default a new one.
        model_kwargs: Arguments of the new `CDEEmbeddings`, if none is given.

    Raises:
        ContextMismatchError: if context, model, embedding and stored documents do not belong together.
        FileNotFoundError: if there is no context at the path.
        TypeError: if both an embedding and arguments for one are given.
    """
    if embedding is not None and model_kwargs:
        raise TypeError(f"received an embedding and arguments for a new one ({', '.join(model_kwargs)}); give one")
    embedding = embedding or CDEEmbeddings(**model_kwargs)
    embedding.load_context(context)
    return guard(opener(embedding), embedding)


def guard(store: Store, embedding: CDEEmbeddings) -> Store:
    """Make a store stamp what is added to it and check what its searches return; returns the same object.

    One document is fetched to see at once whether the store belongs to the context; each later search checks what it
    returns. The store may embed with the embedding itself or with a `CacheBackedEmbeddings` around it.

    Raises:
        ContextNotFittedError: if the embedding has no context.
        ContextMismatchError: if the store embeds with something else, or holds vectors of another context.
    """
    fingerprint = embedding.context_fingerprint
    _check_embedding(store.embeddings, fingerprint)
    check_stamps(store.similarity_search_by_vector(embedding.embed_query("probe"), k=1), fingerprint)
    guard_store(store, fingerprint)
    return store


def _check_embedding(found: Any, fingerprint: str) -> None:
    """Check what a store embeds its queries with, which may be behind a cache; a store need not tell."""
    if found is None:
        return
    if getattr(found, "query_embedding_store", None) is getattr(found, "document_embedding_store", found):
        raise ContextMismatchError(
            f"{type(found).__name__} caches documents and queries in one store and would return one's vector for the "
            "other; give query_embedding_cache a byte store of its own, or False"
        )
    found = getattr(found, "underlying_embeddings", found)
    theirs = found.context_fingerprint if isinstance(found, CDEEmbeddings) else None
    if theirs != fingerprint:
        what = f"embeds with {type(found).__name__}" if theirs is None else f"embeds under context {theirs[:12]}"
        raise ContextMismatchError(
            f"the store {what}, not under context {fingerprint[:12]}; build or open it with the embedding given here"
        )


class CDERetriever(BaseRetriever):
    """Search any store by a query embedded here, and check the context of every document it returns.

    Attributes:
        store: The store; it must be able to search by vector.
        embedding: Embeds the queries.
        k: How many documents to return.
        search_kwargs: Further arguments of the store's search, such as ``filter``.
    """

    store: VectorStore
    embedding: CDEEmbeddings
    k: int = Field(default=4, ge=1)
    search_kwargs: dict[str, Any] = Field(default_factory=dict)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
        k: int | None = None,
    ) -> list[Document]:
        vector = self.embedding.embed_query(query)
        found = self.store.similarity_search_by_vector(vector, k=self.k if k is None else k, **self.search_kwargs)
        return cast(list[Document], check_stamps(found, self.embedding.context_fingerprint))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
        k: int | None = None,
    ) -> list[Document]:
        vector = await self.embedding.aembed_query(query)
        found = await self.store.asimilarity_search_by_vector(
            vector, k=self.k if k is None else k, **self.search_kwargs
        )
        return cast(list[Document], check_stamps(found, self.embedding.context_fingerprint))
