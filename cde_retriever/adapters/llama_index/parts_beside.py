"""Answer hybrid searches beside an external store that keeps one vector a node, such as Chroma.

`PartsBeside` holds the nodes in two parts in `context_dir` (`cde_retriever.adapters.kept_parts`), and takes the nodes
themselves from the store: what the store has no more is passed over. Filters are applied to the nodes it returns, so
that every filter of LlamaIndex works in every store.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from cde_retriever.adapters.kept_parts import KeptParts, read_index
from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.parts_store import asked_in_parts, embedded_in_parts
from cde_retriever.adapters.llama_index.storage import check_stamps, some_nodes
from cde_retriever.adapters.own_class import own_class
from cde_retriever.adapters.stored_count import stored_count
from cde_retriever.errors import ConfigError, ContextMismatchError


class PartsBeside:
    """The nodes of an external store in two parts.

    Args:
        store: The store, guarded.
        embedding: The index's; it gives dense parts.
        folder: Where the parts are, or are to be.

    Raises:
        ContextMismatchError: if they were made under another context, or the store has nodes that they lack, as far as
            a look at some and the number of all tell.
        ContextFormatError: if they are damaged.
    """

    is_embedding_query = True

    def __init__(self, store: BasePydanticVectorStore, embedding: CDEEmbedding, folder: Path) -> None:
        self._store, self._embedding = store, embedding
        stored = stored_count(store)  # before the index is read, which gets nodes before the store does
        self._kept = KeptParts(read_index(folder, embedding.context_fingerprint), folder)
        for node in some_nodes(store, embedding.dimension, embedding.stamp):
            if node.node_id not in self._kept.index:
                raise ContextMismatchError(
                    f"{type(store).__name__} holds node {node.node_id}, which the index of two parts in {folder} "
                    "lacks; open both together, and insert nodes through the CDEVectorStoreIndex alone"
                )
        if stored is not None and stored > len(self._kept.index):
            raise ContextMismatchError(
                f"{type(store).__name__} holds {stored} nodes, and the index of two parts in {folder} "
                f"{len(self._kept.index)}: some were put into the store past the index, where hybrid search does not "
                "find them; delete these from the store, and insert them through the CDEVectorStoreIndex"
            )

    def add(self, nodes: Sequence[BaseNode]) -> None:
        """Take nodes with their dense parts, which the store is about to get, and count their words."""
        if nodes:
            self._kept.add([node.node_id for node in nodes], embedded_in_parts(nodes, self._embedding))

    def delete(self, node_ids: Sequence[str]) -> None:
        """Forget nodes that the store has no more."""
        if node_ids:
            self._kept.delete(node_ids)

    def nodes_of(self, ref_doc_id: str) -> list[str]:
        """Return the ids of the nodes of a document that the store has."""
        of_document = MetadataFilters(filters=[MetadataFilter(key="ref_doc_id", value=ref_doc_id)])
        found = self._store.get_nodes(node_ids=None, filters=of_document)
        return [node.node_id for node in found if node.ref_doc_id == ref_doc_id]

    def query(self, query: VectorStoreQuery, **_: Any) -> VectorStoreQueryResult:
        """Answer a query as `PartsStore` does, with nodes of the store."""
        mode, parts = asked_in_parts(query, self._embedding, type(self).__name__)
        allowed = set(query.node_ids) if query.node_ids else None  # an index whose nodes are in its store names none
        count = query.similarity_top_k
        found = self._kept.find(parts, count, mode, self._nodes, lambda node: _fits(node, query), allowed)
        nodes, scores = [node for node, _ in found], [score for _, score in found]
        check_stamps(nodes, self._embedding.stamp)
        return VectorStoreQueryResult(nodes=nodes, similarities=scores, ids=[node.node_id for node in nodes])

    async def aquery(self, query: VectorStoreQuery, **_: Any) -> VectorStoreQueryResult:
        """Do the same in another thread."""
        return await asyncio.to_thread(self.query, query)

    def _nodes(self, ids: list[str]) -> dict[str, BaseNode]:
        return {node.node_id: node for node in self._store.get_nodes(node_ids=ids)}


def _fits(node: BaseNode, query: VectorStoreQuery) -> bool:
    """Tell whether a query asks for nodes like this one."""
    if query.doc_ids is not None and node.ref_doc_id not in query.doc_ids:
        return False
    return build_metadata_filter_fn(lambda _: node.metadata, query.filters)(node.node_id)


def check_store(store: BasePydanticVectorStore) -> None:
    """Refuse a store that cannot return nodes by their ids.

    Raises:
        ConfigError: if it cannot.
    """
    own = own_class(store)
    if own.get_nodes is BasePydanticVectorStore.get_nodes:
        raise ConfigError(
            f"parts is 'both', but {own.__name__} cannot return nodes by their ids (get_nodes), which hybrid search "
            "needs; take parts='one', or another store"
        )
