"""LlamaIndex: `CDEVectorStoreIndex`, which sees the whole corpus and guards what it returns, and `CDEEmbedding`.

    index = CDEVectorStoreIndex.from_documents(documents)
    index.as_retriever().retrieve("a question")
    index.persist("folder")
    index = CDEVectorStoreIndex.from_storage("folder")

The index fits the context on all nodes before it embeds the first, keeps it with the storage context, stamps every node
with its fingerprint, and checks the stamp of every node it retrieves. With the stock index classes `CDEEmbedding` works
too, and `CDEContextGuard` makes the same check as a node postprocessor.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from llama_index.core import StorageContext
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.embeddings.utils import EmbedType
from llama_index.core.schema import BaseNode, Document
from llama_index.core.vector_stores.simple import DEFAULT_VECTOR_STORE, SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.guard import CDEContextGuard, CDERetriever, require_cde
from cde_retriever.adapters.llama_index.index_folder import read_index_folder, write_index_folder
from cde_retriever.adapters.llama_index.index_struct import CDEIndexDict, register
from cde_retriever.adapters.llama_index.joining import JoiningNodes
from cde_retriever.adapters.llama_index.splitting import transformations_for
from cde_retriever.adapters.llama_index.storage import (
    PathLike,
    attached_context,
    embedded_text,
)
from cde_retriever.adapters.llama_index.two_parts import embedding_for, folder_of_parts
from cde_retriever.adapters.misplaced_settings import refuse_unused
from cde_retriever.adapters.new_collection import check_collection
from cde_retriever.adapters.plain_vectors import begin_plain, open_plain, save_plain
from cde_retriever.context.context import context_file, known_documents
from cde_retriever.context.drift import Drift
from cde_retriever.context.whole_numbers import true_or_false
from cde_retriever.files.replacing import read_unchanged

__all__ = ["CDEContextGuard", "CDEEmbedding", "CDERetriever", "CDEVectorStoreIndex"]


class CDEVectorStoreIndex(JoiningNodes):
    """A vector store index that embeds documents and queries under one context of its corpus.

    ``from_documents``, ``insert`` and the rest are those of `VectorStoreIndex`. Documents inserted later are embedded
    under the same context; vectors that are there never change.

    Args:
        nodes: Nodes to index; with an embedding only if `embed_model` made it.
        embed_model: A `CDEEmbedding`; None for ``CDEEmbedding()``. Without a context yet it is fitted on all nodes.
        context_dir: Folder or ``.safetensors`` file to which the context is saved before the first vector is stored.
            Give it with an external vector store, unless you persist the storage context yourself.
        parts: ``"both"`` keeps nodes in two parts, dense and sparse, for hybrid search; ``"one"`` in one vector. None:
            both for a model with a corpus head in memory, or in a store made for sparse vectors (docs/hybrid.md);
            nodes that come with one vector each keep it.
            Beside other stores both are kept in `context_dir`, and found there.
        keep_plain: Whether `persist` writes the nodes' plain vectors too, so that `refit` needs no model
            (docs/lifecycle.md); beside an external store they are in `context_dir`. An index that has them goes on.
        kwargs: As for `VectorStoreIndex`.

    Raises:
        ConfigError: for two parts, or plain vectors, where model or store do not allow them; for settings of an
            embedding, which go to ``CDEEmbedding``.
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
        storage = kwargs.get("storage_context")
        self._refuse_unused(kwargs, None if kwargs.get("index_struct") is None else storage)
        self._context_dir = context_dir
        if embed_model is None:
            context = None if storage is None else attached_context(storage)
            embed_model = CDEEmbedding(context=context)
        if kwargs.get("index_struct") is not None:
            kwargs["index_struct"] = CDEIndexDict.of(kwargs["index_struct"])
        if kwargs.get("transformations") is None:
            kwargs["transformations"] = transformations_for(require_cde(embed_model).encoder)
        self._parts_folder = folder_of_parts(storage, context_dir, parts)
        own = embedding_for(require_cde(embed_model), storage, parts, self._parts_folder, nodes or ())
        if true_or_false("keep_plain", keep_plain):
            store = None if storage is None else storage.vector_store
            name = None if isinstance(store, SimpleVectorStore | None) else type(store).__name__
            begin_plain(own.encoder, name, None if context_dir is None else Path(context_dir))
        super().__init__(nodes=nodes, embed_model=own, **kwargs)
        if not self._prepared:  # nothing was built: an index that is opened
            self._open()

    @property
    def drift(self) -> Drift:
        """How many nodes joined since the context was fitted, and how unlike that they are (docs/lifecycle.md).

        Nodes that an `IngestionPipeline` writes past the index are not counted.

        Raises:
            ContextNotFittedError: if the index has no context yet.
        """
        return self.growth.drift

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
        cls._refuse_unused(kwargs)
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
        saved = context_dir if context_dir is not None and context_file(context_dir).exists() else None
        cls._refuse_unused(kwargs, saved)
        if not isinstance(vector_store, BasePydanticVectorStore):
            opened: Self = read_unchanged(
                Path(context_dir or "."),
                lambda: cls.from_vector_store(vector_store(), embed_model, context_dir=context_dir, **kwargs),
            )
            return opened
        if context_dir is not None:
            check_collection(vector_store, Path(context_dir))
        if embed_model is None and saved is not None:
            embed_model = CDEEmbedding.from_storage(saved)
        if embed_model is not None and context_dir is not None:
            open_plain(require_cde(embed_model).encoder, Path(context_dir))
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
        cls._refuse_unused(kwargs, source)
        if isinstance(source, StorageContext):
            return cls._from_storage_context(source, embed_model, index_id, kwargs)
        folder = source

        def read() -> Any:
            embedding = CDEEmbedding.from_storage(folder) if embed_model is None else require_cde(embed_model)
            open_plain(embedding.encoder, Path(folder))
            storage = read_index_folder(folder)
            return cls._from_storage_context(storage, embedding, index_id, kwargs)

        index: Self = read_unchanged(Path(folder), read)
        return index

    @classmethod
    def _refuse_unused(cls, given: dict[str, Any], source: StorageContext | PathLike | None = None) -> None:
        """Refuse misspelt names, and settings of an embedding.

        `source` is where the context is that an embedding needs, None for a new one.
        """
        made_by = "CDEEmbedding("
        if source is not None and "context" not in given:
            where = "storage_context" if isinstance(source, StorageContext) else repr(str(source))
            made_by = f"CDEEmbedding.from_storage({where}, "
        refuse_unused(given, CDEEmbedding, cls, f"embed_model={made_by}")

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
        found = source.index_store.index_structs()
        structs = {struct.index_id: struct for struct in found if isinstance(struct, IndexDict)}
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
            kwargs: As for `VectorIndexRetriever`; ``alpha`` weighs vectors beside words (`CDERetriever`).

        Raises:
            ConfigError: for a mode, or an alpha, that the index's form does not allow.
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


register(CDEVectorStoreIndex)
