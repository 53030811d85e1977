"""Compare the embedding an index is opened or added to with against everything stored that knows its context.

That is the context in the storage context or in `context_dir`, the stamps of the vectors (all in memory, a few
elsewhere), and those of a few nodes in the docstore. What differs is refused before anything is written or asked.
"""

from collections.abc import Sequence
from pathlib import Path

from llama_index.core import StorageContext
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.guarded_store import check_stored, stored_stamps
from cde_retriever.adapters.llama_index.storage import PathLike, attached_context, check_stamps
from cde_retriever.adapters.stamps import STAMP, describe
from cde_retriever.adapters.stored_count import stored_count
from cde_retriever.context.context import Context, context_file
from cde_retriever.errors import ContextMismatchError, ContextNotFittedError


def check_storage(
    storage_context: StorageContext, struct: IndexDict | None, context_dir: PathLike | None, embedding: CDEEmbedding
) -> bool:
    """Refuse a storage that belongs to another context than the embedding's; return whether it shows vectors.

    Args:
        storage_context: Where the index is, or is to be.
        struct: The index's record; None while it is built.
        context_dir: Where its context is saved, if there is such a place.
        embedding: What the index is opened or added to with.

    Raises:
        ContextMismatchError: if anything stored is under another context, or under an unknown one.
        ContextNotFittedError: if anything is stored, and the embedding has no context.
    """
    recorded = _recorded(storage_context, context_dir, embedding)
    nodes = _some_documents(storage_context, struct)
    store = storage_context.vector_store
    if not embedding.is_fitted and recorded is None and context_dir is not None:
        _refuse_missing(store, context_file(context_dir))
    stamps = stored_stamps(store, embedding.dimension) | {node.metadata.get(STAMP) for node in nodes}
    if not embedding.is_fitted:
        if recorded is not None or stamps:
            owner = describe(recorded.fingerprint if recorded is not None else next(iter(stamps)))
            raise ContextNotFittedError(
                f"the index to open or add to belongs to {owner}, and embed_model has none; pass "
                "CDEEmbedding.from_storage(storage_context, persist folder or context_dir)"
            )
        return False
    if recorded is not None and recorded.fingerprint != embedding.context_fingerprint:
        raise ContextMismatchError(
            f"the index to open or add to belongs to context {recorded.fingerprint[:12]}, and embed_model has "
            f"context {embedding.context_fingerprint[:12]}; pass CDEEmbedding.from_storage(storage_context, "
            "persist folder or context_dir), or build a new index elsewhere"
        )
    check_stamps(nodes, embedding.stamp)
    if stamps:
        check_stored(store, embedding.stamp, embedding.dimension)
    return bool(stamps)


def _refuse_missing(store: BasePydanticVectorStore, file: Path) -> None:
    """Refuse a store with nodes if their context is not where it should be, before widths of vectors are compared."""
    if not file.exists() and (stored := stored_count(store)):
        raise ContextNotFittedError(
            f"{type(store).__name__} holds {stored} nodes, and there is no context at {file}; to open or add to them, "
            "give the context_dir that they were built with; for a new index, give it an empty collection"
        )


def _recorded(storage_context: StorageContext, context_dir: PathLike | None, embedding: CDEEmbedding) -> Context | None:
    recorded = attached_context(storage_context)
    file = None if context_dir is None else context_file(context_dir)
    if recorded is None and file is not None and file.exists() and embedding.is_fitted:
        return Context.load(file)
    return recorded


def _some_documents(storage_context: StorageContext, struct: IndexDict | None) -> Sequence[BaseNode]:
    """Return a few of the nodes that are in the docstore already."""
    if struct is None:
        return []
    return storage_context.docstore.get_nodes(list(struct.nodes_dict.values())[:4], raise_error=False)
