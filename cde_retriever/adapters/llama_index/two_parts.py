"""Decide whether an index holds its nodes in one vector or in two parts, and who searches the two.

Two parts rank best on most corpora, and one vector serves every store. So an index holds two parts by default where
they cost nobody anything: in memory, where a `PartsStore` stands beside the vectors, and in a store that was made for
sparse vectors. Others get one vector, or, if they are asked for both, `PartsBeside` in `context_dir`, which needs a
place on disk. An index keeps its form for life: queries of the two differ, and so do their stamps.
"""

from collections.abc import Sequence
from pathlib import Path

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.simple import SimpleVectorStore

from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.native_parts import NativeParts, check_functions, keeps_sparse_vectors
from cde_retriever.adapters.llama_index.parts_beside import PartsBeside, check_store
from cde_retriever.adapters.llama_index.parts_store import MODES, NAMESPACE, PartsStore
from cde_retriever.adapters.llama_index.storage import PathLike
from cde_retriever.adapters.stamps import STAMP, is_dense
from cde_retriever.errors import ConfigError
from cde_retriever.search.index_file import index_file

__all__ = ["MODES", "attach_parts", "embedding_for", "folder_of_parts", "searcher"]

FORMS = ("one", "both")


def embedding_for(
    embedding: CDEEmbedding,
    storage: StorageContext | None,
    parts: str | None,
    beside: Path | None,
    nodes: Sequence[BaseNode],
) -> CDEEmbedding:
    """Return the embedding whose vectors an index holds: the given one, or its dense part.

    Args:
        embedding: What the index was given.
        storage: Where it is, or is to be; None for memory.
        parts: ``"one"`` or ``"both"``; None for what suits model, storage and nodes.
        beside: What `folder_of_parts` gave.
        nodes: What it is built of; those that come with one vector each, as from a pipeline, keep that.

    Raises:
        ConfigError: for another form, or two parts of a model that has none.
    """
    if parts not in (*FORMS, None):
        raise ConfigError(f"parts is {parts!r}, expected one of {', '.join(map(repr, FORMS))}")
    if embedding.parts == "dense" or parts == "one":
        return embedding
    both = parts == "both" or beside or (embedding.has_corpus_head and _suits_both(embedding, storage, nodes))
    return embedding.dense_part() if both else embedding


def folder_of_parts(storage: StorageContext | None, context_dir: PathLike | None, parts: str | None) -> Path | None:
    """Return where an index keeps both parts beside an external store; None if it does not.

    Args:
        storage: Where the index is, or is to be; None for memory.
        context_dir: Where its context is, or is to be.
        parts: As for `embedding_for`; by None parts that are there are found.

    Raises:
        ConfigError: for two parts without a folder, or in a store that cannot return nodes by their ids.
    """
    if storage is None or _takes_both(storage):
        return None
    folder = None if context_dir is None or Path(context_dir).suffix == ".safetensors" else Path(context_dir)
    if parts == "both":
        if folder is None:
            raise ConfigError(
                f"parts is 'both', but {type(storage.vector_store).__name__} keeps no sparse vectors, and context_dir "
                f"is {context_dir!r}; give a folder, where both parts are kept beside the store, or take parts='one'"
            )
        check_store(storage.vector_store)
        return folder
    return folder if parts is None and folder is not None and index_file(folder).is_file() else None


def _takes_both(storage: StorageContext | None) -> bool:
    store = None if storage is None else storage.vector_store
    return store is None or isinstance(store, SimpleVectorStore) or keeps_sparse_vectors(store)


def _suits_both(embedding: CDEEmbedding, storage: StorageContext | None, nodes: Sequence[BaseNode]) -> bool:
    store = None if storage is None else storage.vector_store
    if storage is not None and isinstance(store, SimpleVectorStore) and store.data.embedding_dict:
        return NAMESPACE in storage.vector_stores  # an index that is there keeps its form
    if keeps_sparse_vectors(store):
        return True
    in_one = any(node.embedding is not None and not is_dense(node.metadata.get(STAMP)) for node in nodes)
    return _takes_both(storage) and embedding.truncate_dim is None and not in_one


def attach_parts(
    storage: StorageContext, embedding: CDEEmbedding, beside: Path | None
) -> PartsStore | PartsBeside | None:
    """Return what keeps both parts beside a vector store; None if nothing does, or the vector store itself.

    Args:
        storage: The index's.
        embedding: The index's, with its context.
        beside: What `folder_of_parts` gave.

    Raises:
        ContextMismatchError: if it was made under another context, or for other nodes.
        ContextFormatError: if it is damaged.
    """
    vectors, there = storage.vector_store, storage.vector_stores.get(NAMESPACE)
    check_functions(vectors, embedding)
    if beside is not None:
        return PartsBeside(vectors, embedding, beside)
    if embedding.parts == "one" or not isinstance(vectors, SimpleVectorStore) or isinstance(there, PartsStore):
        return there if isinstance(there, PartsStore) else None
    if isinstance(there, SimpleVectorStore):
        store = PartsStore.open(there, vectors, embedding)
    else:
        store = PartsStore.empty(vectors, embedding)
    storage.add_vector_store(store, NAMESPACE)
    return store


def searcher(index: VectorStoreIndex) -> PartsStore | PartsBeside | NativeParts | None:
    """Return what searches an index in two parts; None for an index of one vector a node."""
    for both in (getattr(index, "both", None), index.storage_context.vector_stores.get(NAMESPACE)):
        if isinstance(both, PartsBeside | PartsStore):
            return both
    embedding = index._embed_model
    two_parts = isinstance(embedding, CDEEmbedding) and embedding.parts == "dense"
    return NativeParts(index.vector_store) if two_parts and keeps_sparse_vectors(index.vector_store) else None
