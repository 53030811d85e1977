"""Find what a LangChain store embeds with, and refuse what is not the embedding its vectors were made by.

A store's embedding is an attribute that anyone may replace, so it is looked at whenever the store embeds, not once. A
`CacheBackedEmbeddings` is looked through: what it embeds with, and whether its keys tell contexts apart.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.adapters.stamps import describe
from cde_retriever.errors import ContextMismatchError


def check_embedders(store: VectorStore, stamp: str) -> None:
    """Refuse a store that does not embed as its stamp says.

    Args:
        store: The store, guarded or not.
        stamp: The stamp of its vectors.

    Raises:
        ContextMismatchError: if it embeds with something else, or does not show what it embeds with.
        ContextNotFittedError: if its embedding has no context.
    """
    embedders = list(_embedders_of(store))
    if not embedders:
        name = type(store).__name__
        raise ContextMismatchError(
            f"{name} does not show what it embeds with, so nobody would notice another embedding; fill it by "
            f"{name}.from_documents(stamp(documents, embedding), embedding) and search it by "
            "CDERetriever(store=store, embedding=embedding)"
        )
    for embedder in embedders:
        _check(embedder, stamp)


def embedding_of(store: VectorStore) -> CDEEmbeddings:
    """Return what a guarded store embeds with.

    Raises:
        ContextMismatchError: if it does not embed with a `CDEEmbeddings`, directly or behind a cache.
    """
    for embedder in _embedders_of(store):
        found = getattr(embedder, "underlying_embeddings", embedder)
        if isinstance(found, CDEEmbeddings):
            return found
    raise ContextMismatchError(f"{type(store).__name__} embeds with no CDEEmbeddings, so it has no context")


def _embedders_of(store: VectorStore) -> Iterator[Any]:
    """Yield the embeddings that a store shows, and functions that it may embed with."""
    if store.embeddings is not None:
        yield store.embeddings
    for name, value in vars(store).items():
        owner = value.__self__ if inspect.ismethod(value) else value  # such as `embedding.embed_query`
        if isinstance(owner, Embeddings):
            yield owner
        elif isinstance(getattr(value, "dense_embedding", None), CDEEmbeddings):  # `CDESparseEmbeddings`
            yield value.dense_embedding
        elif "embed" in name.lower() and callable(value):
            yield value


def _check(embedder: Any, stamp: str) -> None:
    if isinstance(embedder, CDEEmbeddings):
        if embedder.stamp != stamp:
            _refuse(f"under {describe(embedder.stamp)}", stamp)
    elif hasattr(embedder, "underlying_embeddings") and hasattr(embedder, "document_embedding_store"):
        _check(embedder.underlying_embeddings, stamp)
        _check_cache(embedder, stamp)
    else:
        _refuse(f"with {type(embedder).__name__}", stamp)


def _refuse(how: str, stamp: str) -> None:
    raise ContextMismatchError(
        f"the store embeds {how}, not under {describe(stamp)}; build or open it with the embedding of that context"
    )


def _check_cache(cache: Any, stamp: str) -> None:
    """Refuse a cache that returns one text's vector for another kind of vector of that text."""
    documents, queries = cache.document_embedding_store, cache.query_embedding_store
    if queries is not None and not {_place(documents), id(documents)}.isdisjoint((_place(queries), id(queries))):
        raise ContextMismatchError(
            f"{type(cache).__name__} caches documents and queries in one store and would return one's vector for the "
            "other; give query_embedding_cache a byte store of its own, or False"
        )
    for store in (documents, queries):
        if store is not None and not _tells_contexts_apart(store, stamp):
            raise ContextMismatchError(
                f"{type(cache).__name__} keeps vectors under keys without {describe(stamp)}, so it may return those of "
                "another context; build it with namespace=embedding.cache_namespace, or a key_encoder that puts that "
                "before each key"
            )


def _place(store: Any) -> Any:
    """Return what tells where a store of vectors keeps its bytes."""
    inner = getattr(store, "store", store)
    return str(getattr(inner, "root_path", id(inner)))


def _tells_contexts_apart(store: Any, stamp: str) -> bool:
    encode = getattr(store, "key_encoder", None)
    key = encode("probe") if callable(encode) else ""
    context, _, kept = stamp.partition("/")
    found = re.search(rf"{re.escape(context)}(?:/(\w+)/)?", str(key))
    return found is not None and (found[1] or "") == kept
