"""Have the parts beside an external store forget what is deleted from an index."""

from typing import Any

from llama_index.core import VectorStoreIndex

from cde_retriever.adapters.llama_index.parts_beside import PartsBeside
from cde_retriever.adapters.llama_index.parts_store import PartsStore


class FollowedDeletes(VectorStoreIndex):
    """An index whose deletions reach what holds its nodes in two parts; those of memory follow by themselves.

    Attributes:
        both: What holds the nodes in two parts; None for nothing, or not yet.
    """

    both: PartsStore | PartsBeside | None = None

    def delete_nodes(self, node_ids: list[str], *args: Any, **kwargs: Any) -> None:
        """Delete nodes, as `VectorStoreIndex` does."""
        super().delete_nodes(node_ids, *args, **kwargs)
        self._forget(node_ids)

    async def adelete_nodes(self, node_ids: list[str], *args: Any, **kwargs: Any) -> None:
        """Do the same asynchronously."""
        await super().adelete_nodes(node_ids, *args, **kwargs)
        self._forget(node_ids)

    def delete_ref_doc(self, ref_doc_id: str, *args: Any, **kwargs: Any) -> None:
        """Delete a document's nodes, as `VectorStoreIndex` does."""
        nodes = self._nodes_of(ref_doc_id)
        super().delete_ref_doc(ref_doc_id, *args, **kwargs)
        self._forget(nodes)

    async def adelete_ref_doc(self, ref_doc_id: str, *args: Any, **kwargs: Any) -> None:
        """Do the same asynchronously."""
        nodes = self._nodes_of(ref_doc_id)
        await super().adelete_ref_doc(ref_doc_id, *args, **kwargs)
        self._forget(nodes)

    def _nodes_of(self, ref_doc_id: str) -> list[str]:
        return self.both.nodes_of(ref_doc_id) if isinstance(self.both, PartsBeside) else []

    def _forget(self, node_ids: list[str]) -> None:
        if isinstance(self.both, PartsBeside):
            self.both.delete(node_ids)
