"""Let nodes join an index under its one context: fit it first, stamp, count, and give both parts what they search."""

import asyncio
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.schema import BaseNode

from cde_retriever.adapters.cut_texts import one_summary
from cde_retriever.adapters.growth import Growth
from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.followed_deletes import FollowedDeletes
from cde_retriever.adapters.llama_index.guard import require_cde
from cde_retriever.adapters.llama_index.guarded_store import guard_store
from cde_retriever.adapters.llama_index.index_struct import CDEIndexDict
from cde_retriever.adapters.llama_index.opening import check_storage
from cde_retriever.adapters.llama_index.splitting import SPLIT
from cde_retriever.adapters.llama_index.storage import (
    PathLike,
    attached_context,
    check_digest,
    check_stamps,
    embedded_text,
    stamped,
)
from cde_retriever.adapters.llama_index.two_parts import attach_parts
from cde_retriever.errors import ContextNotFittedError


class JoiningNodes(FollowedDeletes):
    """A vector store index whose nodes join under one context, fitted on the first of them if it is not there."""

    _context_dir: PathLike | None = None
    _parts_folder: Path | None = None
    _prepared = False
    """Whether storage and context are known to agree."""
    _building = False
    """Whether the nodes are those the index is built from."""
    _fitted_on: frozenset[str] = frozenset()
    """Ids of the nodes that a context was fitted on after an index without nodes was built."""

    @property
    def embedding(self) -> CDEEmbedding:
        """The embedding the index was built or opened with."""
        return require_cde(self._embed_model)

    def _add_nodes_to_index(
        self, index_struct: IndexDict, nodes: Sequence[BaseNode], show_progress: bool = False, **insert_kwargs: Any
    ) -> None:
        ready = self._ready(index_struct, nodes, show_progress)
        with one_summary(SPLIT):
            super()._add_nodes_to_index(index_struct, ready, show_progress, **insert_kwargs)

    async def _async_add_nodes_to_index(
        self, index_struct: IndexDict, nodes: Sequence[BaseNode], show_progress: bool = False, **insert_kwargs: Any
    ) -> None:
        ready = await asyncio.to_thread(self._ready, index_struct, nodes, show_progress)
        with one_summary(SPLIT):
            await super()._async_add_nodes_to_index(index_struct, ready, show_progress, **insert_kwargs)

    def _get_node_with_embedding(self, nodes: Sequence[BaseNode], show_progress: bool = False) -> list[BaseNode]:
        return self._kept(super()._get_node_with_embedding(nodes, show_progress))

    async def _aget_node_with_embedding(self, nodes: Sequence[BaseNode], show_progress: bool = False) -> list[BaseNode]:
        return self._kept(await super()._aget_node_with_embedding(nodes, show_progress))

    def _kept(self, embedded: Sequence[BaseNode]) -> list[BaseNode]:
        """Return stamped nodes for the vector store; what searches two parts has them from here on."""
        nodes = [stamped(node, self.embedding.stamp, node.get_embedding()) for node in embedded]
        if self.both is not None:
            self.both.add(nodes)
        if not self._building:
            self._count([node for node in nodes if node.node_id not in self._fitted_on])
        return nodes

    def _count(self, nodes: Sequence[BaseNode]) -> None:
        """Count nodes that join the index after it was built."""
        self.growth.join([embedded_text(node) for node in nodes], [node.get_embedding() for node in nodes])
        if isinstance(self._index_struct, CDEIndexDict):
            self._index_struct.growth = self.growth.record()

    @cached_property
    def growth(self) -> Growth:
        """What joined since the context was fitted; raises `ContextNotFittedError` where there is none yet."""
        folder = self._context_dir
        if folder is not None and Path(folder).suffix != ".safetensors":
            return Growth.open(self.embedding, Path(folder), keep=True)
        return Growth(self.embedding, getattr(self._index_struct, "growth", None))

    def _open(self) -> None:
        """Check what is stored against the embedding, and guard it from here on."""
        self._check_storage()
        if self.embedding.is_fitted:
            self._mark(self._index_struct)
            self._storage_context.index_store.add_index_struct(self._index_struct)

    def _mark(self, struct: IndexDict) -> None:
        """Let vector store and record of the index know their stamp."""
        guard_store(self._vector_store, self.embedding.stamp, self.embedding.dimension)
        self.both = attach_parts(self._storage_context, self.embedding, self._parts_folder)
        if isinstance(struct, CDEIndexDict):
            struct.stamp = self.embedding.stamp

    def _ready(self, struct: IndexDict, nodes: Sequence[BaseNode], show_progress: bool) -> list[BaseNode]:
        """Return stamped nodes for a storage that knows their context, which exists from here on."""
        if not nodes:
            return []
        embedded = [node for node in nodes if node.embedding is not None]
        if embedded and not self.embedding.is_fitted:
            raise ContextNotFittedError(
                f"{len(embedded)} nodes come with embeddings, and the index's embed_model has no context; pass the "
                "CDEEmbedding that made them as embed_model="
            )
        first = not self._prepared
        if first:
            holds_vectors = self._check_storage()
            if not self.embedding.is_fitted:  # by the first nodes of an empty index
                self._fitted_on = frozenset(node.node_id for node in nodes)
            texts = [embedded_text(node) for node in nodes]
            self.embedding.fit_if_missing(
                texts,
                kinds=self.embedding.kinds_of(nodes),
                show_progress=show_progress,
                fewest=1 if self._building else None,
            )
        stamp = self.embedding.stamp
        check_stamps(embedded, stamp)
        for node in embedded:
            check_digest(node.metadata, node.get_embedding(), f"node {node.node_id}")
        if first:
            self._keep_context(holds_vectors)
            self._mark(struct)
            self._prepared = True
        return [stamped(node, stamp) for node in nodes]

    def _check_storage(self) -> bool:
        struct: IndexDict | None = getattr(self, "_index_struct", None)  # not there while the index is built
        return check_storage(self._storage_context, struct, self._context_dir, self.embedding)

    def _keep_context(self, holds_vectors: bool) -> None:
        """Store the context before the first vector that needs it."""
        if self._context_dir is not None:
            self.embedding.save_context(self._context_dir)
        elif self._vector_store.stores_text and not holds_vectors and attached_context(self._storage_context) is None:
            warnings.warn(
                f"the vectors go to {type(self._vector_store).__name__} and their context is nowhere on disk; without "
                "it they cannot be searched again: pass context_dir=, or call storage_context.persist(folder)",
                stacklevel=4,
            )
        self.embedding.attach_to(self._storage_context)
