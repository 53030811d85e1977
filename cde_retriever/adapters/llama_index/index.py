"""LlamaIndex: `CDEVectorStoreIndex`, which sees the whole corpus and guards what it returns, and `CDEEmbedding`.

    index = CDEVectorStoreIndex.from_documents(documents)
    index.as_retriever().retrieve("a question")
    index.persist("folder")
    index = CDEVectorStoreIndex.from_storage("folder")

The index fits the context on all nodes before it embeds the first, keeps it with the storage context, stamps every node
with its fingerprint, and checks the stamp of every node it retrieves. With the stock index classes `CDEEmbedding` works
too, and `CDEContextGuard` makes the same check as a node postprocessor.
"""

import asyncio
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from llama_index.core import StorageContext
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.embeddings.utils import EmbedType
from llama_index.core.schema import BaseNode, Document
from llama_index.core.vector_stores.simple import DEFAULT_VECTOR_STORE, SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from cde_retriever.adapters.cut_texts import one_summary
from cde_retriever.adapters.growth import Growth
from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.followed_deletes import FollowedDeletes
from cde_retriever.adapters.llama_index.guard import CDEContextGuard, CDERetriever, require_cde
from cde_retriever.adapters.llama_index.guarded_store import guard_store
from cde_retriever.adapters.llama_index.index_folder import write_index_folder
from cde_retriever.adapters.llama_index.index_struct import CDEIndexDict, register
from cde_retriever.adapters.llama_index.opening import check_storage
from cde_retriever.adapters.llama_index.splitting import SPLIT, transformations_for
from cde_retriever.adapters.llama_index.storage import (
    PathLike,
    attached_context,
    check_digest,
    check_stamps,
    embedded_text,
    stamped,
)
from cde_retriever.adapters.llama_index.two_parts import attach_parts, embedding_for, folder_of_parts
from cde_retriever.adapters.new_collection import check_collection
from cde_retriever.adapters.plain_vectors import begin_plain, open_plain, save_plain
from cde_retriever.context.context import context_file, known_documents
from cde_retriever.context.drift import Drift
from cde_retriever.errors import ContextNotFittedError
from cde_retriever.files.replacing import read_unchanged

__all__ = ["CDEContextGuard", "CDEEmbedding", "CDERetriever", "CDEVectorStoreIndex"]


class CDEVectorStoreIndex(FollowedDeletes):
    """A vector store index that embeds documents and queries under one context of its corpus.

    ``from_documents``, ``insert`` and the rest are those of `VectorStoreIndex`. Documents inserted later are embedded
    under the same context; vectors that are there never change.

    Args:
        nodes: Nodes to index; with an embedding only if `embed_model` made it.
        embed_model: A `CDEEmbedding`; None for ``CDEEmbedding()``. Without a context yet it is fitted on all nodes.
        context_dir: Folder or ``.safetensors`` file to which the context is saved before the first vector is stored.
            Give it with an external vector store, unless you persist the storage context yourself.
        parts: ``"both"`` keeps nodes in two parts, dense and sparse, for hybrid search; ``"one"`` in one vector. None:
            both for a model with a corpus head in memory, or in a store made for sparse vectors (docs/hybrid.md).
            Beside other stores both are kept in `context_dir`, and found there.
        keep_plain: Whether `persist` writes the nodes' plain vectors too, so that `refit` needs no model
            (docs/lifecycle.md); an index that was persisted with them goes on. For vectors in memory.
        kwargs: As for `VectorStoreIndex`.

    Raises:
        ConfigError: for two parts, or plain vectors, where model or store do not allow them.
        TypeError: if `embed_model` is something else.
        ContextMismatchError: if the storage context, the vector store, `context_dir` or a node has another context.
        ContextNotFittedError: if the vector store holds vectors and `embed_model` has no context.
    """

    index_struct_cls = CDEIndexDict

    def __init__(
        self,
        nodes: Sequence[BaseNode] | None = None,
        *,
        embed_model: EmbedType | None = None,
        context_dir: PathLike | None = None,
        parts: str | None = None,
        keep_plain: bool = False,
        **kwargs: Any,
    ) -> None:
        self._context_dir = context_dir
        self._prepared = False
        self._building = False
        self._fitted_on: frozenset[str] = frozenset()
        storage = kwargs.get("storage_context")
        if embed_model is None:
            context = None if storage is None else attached_context(storage)
            embed_model = CDEEmbedding(context=context)
        if kwargs.get("index_struct") is not None:
            kwargs["index_struct"] = CDEIndexDict.of(kwargs["index_struct"])
        if kwargs.get("transformations") is None:
            kwargs["transformations"] = transformations_for(require_cde(embed_model).encoder)
        self._parts_folder = folder_of_parts(storage, context_dir, parts)
        own = embedding_for(require_cde(embed_model), storage, parts, self._parts_folder)
        if keep_plain:
            store = None if storage is None else storage.vector_store
            begin_plain(own.encoder, None if isinstance(store, SimpleVectorStore | None) else type(store).__name__)
        super().__init__(nodes=nodes, embed_model=own, **kwargs)
        if not self._prepared:  # nothing was built: an index that is opened
            self._open()

    @property
    def embedding(self) -> CDEEmbedding:
        """The embedding the index was built or opened with."""
        return require_cde(self._embed_model)

    @property
    def drift(self) -> Drift:
        """How many nodes joined since the context was fitted, and how unlike that they are (docs/lifecycle.md).

        Nodes that an `IngestionPipeline` writes past the index are not counted.

        Raises:
            ContextNotFittedError: if the index has no context yet.
        """
        _ = self.embedding.context
        return self._growth.drift

    @classmethod
    def from_documents(
        cls, documents: Sequence[Document], *args: Any, embed_model: EmbedType | None = None, **kwargs: Any
    ) -> Self:
        """Build an index of documents, which are split into nodes that the model reads whole.

        Args:
            documents: The corpus.
            args: As for `VectorStoreIndex.from_documents`.
            embed_model: A `CDEEmbedding`; None for ``CDEEmbedding()``.
            kwargs: As for the constructor; ``transformations`` splits otherwise, and so does a splitter or
                ``chunk_size`` that was put into LlamaIndex's `Settings`.

        Raises:
            CDEError: as the constructor does.
        """
        embedding = require_cde(CDEEmbedding() if embed_model is None else embed_model)
        if len(args) < 4 and kwargs.get("transformations") is None:
            kwargs["transformations"] = transformations_for(embedding.encoder)
        return super().from_documents(documents, *args, embed_model=embedding, **kwargs)

    @classmethod
    def from_vector_store(
        cls,
        vector_store: BasePydanticVectorStore | Callable[[], BasePydanticVectorStore],
        embed_model: EmbedType | None = None,
        *,
        context_dir: PathLike | None = None,
        **kwargs: Any,
    ) -> Self:
        """Open an index whose vectors are in an external store.

        Args:
            vector_store: The store, or a function that opens it, called again if the index is refitted meanwhile. After
            a refit its collection has another name, which ``collection_in(context_dir, name)`` tells.
            embed_model: A `CDEEmbedding` under the store's context; None for the one saved in `context_dir`.
            context_dir: Where the context was saved, or is to be if the store is empty.
            kwargs: As for the constructor.

        Raises:
            ContextMismatchError: if the store's vectors were made under another context.
            ContextNotFittedError: if there are vectors and no context.
        """
        if not isinstance(vector_store, BasePydanticVectorStore):
            opened: Self = read_unchanged(
                Path(context_dir or "."),
                lambda: cls.from_vector_store(vector_store(), embed_model, context_dir=context_dir, **kwargs),
            )
            return opened
        if context_dir is not None:
            check_collection(vector_store, Path(context_dir))
        if embed_model is None and context_dir is not None and context_file(context_dir).exists():
            embed_model = CDEEmbedding.from_storage(context_dir)
        index = super().from_vector_store(vector_store, embed_model, context_dir=context_dir, **kwargs)
        return index  # type: ignore[return-value] # the base class makes a cls

    @classmethod
    def from_storage(
        cls,
        source: StorageContext | PathLike,
        embed_model: CDEEmbedding | None = None,
        *,
        index_id: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Open a persisted index.

        Args:
            source: A storage context, or the folder it was persisted to.
            embed_model: A `CDEEmbedding` under the index's context; None for the bundled model under it.
            index_id: Which index, if there are several.
            kwargs: As for the constructor.

        Raises:
            ContextMismatchError: if the index belongs to another context or model.
            ContextNotFittedError: if no context was stored.
            ValueError: if there is no such index, several and no `index_id`, or the vectors are elsewhere.
        """
        if isinstance(source, StorageContext):
            return cls._from_storage_context(source, embed_model, index_id, kwargs)
        folder = source

        def read() -> Any:
            embedding = embed_model or CDEEmbedding.from_storage(folder)
            open_plain(embedding.encoder, Path(folder))
            storage = StorageContext.from_defaults(persist_dir=os.fspath(folder))
            return cls._from_storage_context(storage, embedding, index_id, kwargs)

        index: Self = read_unchanged(Path(folder), read)
        return index

    @classmethod
    def _from_storage_context(
        cls, source: StorageContext, embed_model: CDEEmbedding | None, index_id: str | None, kwargs: dict[str, Any]
    ) -> Self:
        embed_model = embed_model or CDEEmbedding.from_storage(source)
        if DEFAULT_VECTOR_STORE not in source.vector_stores:
            raise ValueError(
                "the storage holds no vectors, so they are in an external store; pass both: source="
                "StorageContext.from_defaults(vector_store=..., persist_dir=...)"
            )
        structs = {struct.index_id: struct for struct in source.index_store.index_structs()}
        wanted = index_id or (next(iter(structs)) if len(structs) == 1 else None)
        if wanted not in structs:
            raise ValueError(f"index_id is {index_id!r}, the storage context has {sorted(structs)}; name one of them")
        return cls(index_struct=structs[wanted], storage_context=source, embed_model=embed_model, **kwargs)

    def persist(self, folder: PathLike) -> Path:
        """Write the index to a folder as a whole: a killed process leaves the old index there or the new one.

        Vectors in an external store are that store's to keep; the folder then holds the context and the documents.

        Args:
            folder: The index's own folder, for `from_storage`; other files in it stay.

        Raises:
            OutputError: if there are folders in it, which another program may be writing to.
            ContextMismatchError: if it keeps the context of vectors that are elsewhere, and this index has another.
            OSError: if it cannot be written; what was there is as it was.
        """
        if self.embedding.is_fitted:
            self.embedding.attach_to(self._storage_context)
        return write_index_folder(self._storage_context, folder, self._write_plain)

    def _write_plain(self, folder: Path) -> None:
        nodes = self.docstore.get_nodes(list(self.index_struct.nodes_dict.values()), raise_error=False)
        save_plain(self.embedding.encoder, folder, map(embedded_text, nodes))

    def as_retriever(self, *, mode: str | None = None, **kwargs: Any) -> BaseRetriever:
        """Return a retriever that refuses nodes of another context; query and chat engines use it too.

        Args:
            mode: ``"hybrid"``, ``"dense"`` or ``"sparse"``; None for the best that the index allows (`CDERetriever`).
            kwargs: As for `VectorIndexRetriever`.

        Raises:
            ConfigError: for a mode that the index's form does not allow.
        """
        return CDERetriever(
            self,
            mode=mode,
            node_ids=list(self.index_struct.nodes_dict.values()),
            callback_manager=self._callback_manager,
            object_map=self._object_map,
            **kwargs,
        )

    def build_index_from_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> IndexDict:
        """Build the index; warn if the context it is to have was fitted on another corpus."""
        texts = [text for text in map(embedded_text, nodes) if text]
        if texts and self.embedding.is_fitted:
            context = self.embedding.context
            if context.size and not known_documents(context, texts):
                warnings.warn(
                    f"none of the documents of context {context.fingerprint[:12]} is among the {len(texts)} texts to "
                    "index: it was fitted on another corpus, or on texts split or labelled otherwise; pass a new "
                    "CDEEmbedding() to fit this corpus",
                    stacklevel=3,
                )
        self._building = True
        try:
            return super().build_index_from_nodes(nodes, **insert_kwargs)
        finally:
            self._building = False

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
        self._growth.join([embedded_text(node) for node in nodes], [node.get_embedding() for node in nodes])
        if isinstance(self._index_struct, CDEIndexDict):
            self._index_struct.growth = self._growth.record()

    @cached_property
    def _growth(self) -> Growth:
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


register(CDEVectorStoreIndex)
