"""Decide whether an index holds its nodes in one vector or in two parts, and who searches the two.

Two parts rank best, and one vector serves every store. So an index holds two parts by default where they cost nobody
anything: in memory, where a `PartsStore` stands beside the vectors, and in a store that was made for sparse vectors.
Others get one vector. An index keeps its form for life: vectors of the two differ, and so do their stamps.
"""

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.vector_stores.simple import SimpleVectorStore

from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.native_parts import NativeParts, check_functions, keeps_sparse_vectors
from cde_retriever.adapters.llama_index.parts_store import MODES, NAMESPACE, PartsStore
from cde_retriever.errors import ConfigError

__all__ = ["MODES", "attach_parts", "embedding_for", "searcher"]

FORMS = ("one", "both")


def embedding_for(embedding: CDEEmbedding, storage: StorageContext | None, parts: str | None) -> CDEEmbedding:
    """Return the embedding whose vectors an index holds: the given one, or its dense part.

    Args:
        embedding: What the index was given.
        storage: Where it is, or is to be; None for memory.
        parts: ``"one"`` or ``"both"``; None for what suits model and storage.

    Raises:
        ConfigError: for another form, or two parts where model or store do not allow them.
    """
    if parts not in (*FORMS, None):
        raise ConfigError(f"parts is {parts!r}, expected one of {', '.join(map(repr, FORMS))}")
    if parts == "both" and not _takes_both(storage):
        raise ConfigError(
            f"parts is 'both', but {type(storage.vector_store).__name__ if storage else None} keeps no sparse vectors; "
            "leave the vectors in memory, use QdrantVectorStore(enable_hybrid=True, **sparse_functions(embedding)), or "
            "take parts='one'"
        )
    if embedding.parts == "dense" or parts == "one":
        return embedding
    both = parts == "both" or (embedding.has_corpus_head and _suits_both(embedding, storage))
    return embedding.dense_part() if both else embedding


def _takes_both(storage: StorageContext | None) -> bool:
    store = None if storage is None else storage.vector_store
    return store is None or isinstance(store, SimpleVectorStore) or keeps_sparse_vectors(store)


def _suits_both(embedding: CDEEmbedding, storage: StorageContext | None) -> bool:
    store = None if storage is None else storage.vector_store
    if storage is not None and isinstance(store, SimpleVectorStore) and store.data.embedding_dict:
        return NAMESPACE in storage.vector_stores  # an index that is there keeps its form
    return keeps_sparse_vectors(store) or (_takes_both(storage) and embedding.truncate_dim is None)


def attach_parts(storage: StorageContext, embedding: CDEEmbedding) -> PartsStore | None:
    """Return the store of both parts of a storage context; None if there is none, and its vector store keeps both.

    Args:
        storage: The index's.
        embedding: The index's, with its context.

    Raises:
        ContextMismatchError: if it was made under another context, or for other nodes.
        ContextFormatError: if it is damaged.
    """
    check_functions(storage.vector_store, embedding)
    beside, there = storage.vector_store, storage.vector_stores.get(NAMESPACE)
    if embedding.parts == "one" or not isinstance(beside, SimpleVectorStore) or isinstance(there, PartsStore):
        return there if isinstance(there, PartsStore) else None
    if isinstance(there, SimpleVectorStore):
        store = PartsStore.open(there, beside, embedding)
    else:
        store = PartsStore.empty(beside, embedding)
    storage.add_vector_store(store, NAMESPACE)
    return store


def searcher(index: VectorStoreIndex) -> PartsStore | NativeParts | None:
    """Return what searches an index in two parts; None for an index of one vector a node."""
    there = index.storage_context.vector_stores.get(NAMESPACE)
    if isinstance(there, PartsStore):
        return there
    embedding = index._embed_model
    two_parts = isinstance(embedding, CDEEmbedding) and embedding.parts == "dense"
    return NativeParts(index.vector_store) if two_parts and keeps_sparse_vectors(index.vector_store) else None
