"""`CDEEmbedding`: a contextual encoder as a LlamaIndex embedding.

LlamaIndex shows an embedding slices of a corpus (2,048 texts at a time, one text, a sentence splitter's groups), caches
vectors by text, and persists nothing of it. So an object keeps the first context it gets for life, fits by itself on
batches of documents only and says on how many, and puts its context's fingerprint into every cache key and stamp.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

from llama_index.core.base.embeddings.base import Embedding, dispatcher
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode
from llama_index.core.storage.storage_context import StorageContext

from cde_retriever.adapters.llama_index.embedding_settings import EmbeddingSettings
from cde_retriever.adapters.llama_index.first_batch import (
    WAYS_OUT,
    refuse_automatic_fit,
    warn_of_full_slice,
    warn_of_more_texts,
)
from cde_retriever.adapters.llama_index.native_parts import form_for
from cde_retriever.adapters.llama_index.pipeline_run import (
    earlier_context,
    guard_pipeline,
    keep_context,
    running_pipeline,
)
from cde_retriever.adapters.llama_index.splitting import SPLIT, splitter_for
from cde_retriever.adapters.llama_index.storage import PathLike, attach_context, embedded_text, read_context, stamped
from cde_retriever.adapters.stamps import StampedVector
from cde_retriever.context.context import Context
from cde_retriever.context.selection import kind_of
from cde_retriever.files.forking import ThreadLock


class CDEEmbedding(EmbeddingSettings):
    """Contextual document embeddings for LlamaIndex.

    The weights are shared with every other `CDEEmbedding` of the same checkpoint, device and dtype; the context is its
    own, and stays: an index under another context needs another object, so no object ever serves two.

    Args:
        model_name: A CDE checkpoint or any encoder (docs/encoders.md), as folder or Hub id; None for the bundled one.
        context: A `Context`, or where one is saved; by default there is none yet.
        settings: The fields below, and those of `BaseEmbedding`.

    Attributes:
        revision, device, dtype, backend, truncate_dim, pooling, max_length, prompts, variant, long_texts, vector_size,
            context_for: As `ContextualEncoder.from_pretrained` takes them; None leaves it to the model.
        parts: ``"one"``: vectors that hold all the context knows. ``"dense"``: the dense part alone, for a store that
            keeps the sparse part beside it; `CDEVectorStoreIndex` chooses by itself.
        context_size: Most context documents; None for the model's own number.
        seed: Seed of the sample.
        language: Whose words a corpus is counted in, such as ``"german"``, ``"none"`` for no stemmer; None for the
            model's own language. A context says its own.
        selection: How context documents are chosen: ``"random"``, ``"stratified"``, ``"kmeans"`` or ``"k-center"``
            (docs/contexts.md).
        kind_field: Metadata field that says what kind of document a node is of, for ``"stratified"`` alone.
        on_missing_context: ``"fit"``: the first batch of documents becomes the context; ``"error"``: it raises.
            Copies that travel to another process without a context raise. Queries and single texts always do.
        min_context_documents: Fewest distinct texts of such a batch; `fit` takes any number.
        embed_batch_size: Texts through the model at once; does not change the result.

    Raises:
        CheckpointError: if there is no such model.
        ConfigError: for an ``embeddings_cache``.
        ContextMismatchError: if another model made the context.
        ContextNotFittedError: if there is no context where one should be.
    """

    without_context: ClassVar[str] = (
        f"this CDEEmbedding has no context, so a query or a single text cannot be embedded; {WAYS_OUT} "
        "(the width of the vectors is known without: .dimension)"
    )
    where_cut: ClassVar[str] = SPLIT

    _first: Any = PrivateAttr(default_factory=ThreadLock)
    _slice: int | None = PrivateAttr(default=None)

    def __init__(  # type checkers make one of the fields for a class without
        self, model_name: PathLike | None = None, *, context: Context | PathLike | None = None, **settings: Any
    ) -> None:
        super().__init__(model_name, context=context, **settings)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises the class under."""
        return "CDEEmbedding"

    # The context

    def fit(self, texts: Iterable[str], *, kinds: Iterable[str] | None = None, show_progress: bool = False) -> Context:
        """Sample the whole corpus and embed under that sample from now on.

        Args:
            texts: The corpus as it will be embedded (``node.get_content(MetadataMode.EMBED)``); any iterable.
            kinds: For each its kind, if `selection` is ``"stratified"``.
            show_progress: Whether to show a progress bar on stderr.

        Raises:
            ContextMismatchError: if there is another context already; fitting the same one again does nothing.
            ContextError: if no text has any content.
        """
        return self._fit(texts, kinds, self.embed_batch_size, show_progress)

    def fit_if_missing(
        self,
        texts: Sequence[str],
        *,
        kinds: Sequence[str] | None = None,
        whole: bool = True,
        fewest: int | None = None,
        show_progress: bool = False,
    ) -> None:
        """Fit on these documents if there is no context yet and `on_missing_context` allows it; none never fit.

        Args:
            texts: Documents about to be embedded.
            kinds: As for `fit`.
            whole: Whether they are known to be the whole corpus; if not, say what was seen, now and when more come.
            fewest: Fewest distinct texts; None for `min_context_documents`.
            show_progress: Whether to show a progress bar on stderr.

        Raises:
            ContextNotFittedError: if fitting is not allowed, or on fewer distinct texts.
        """
        if not texts:
            return
        with self._first:
            if not self.is_fitted:
                fewest = self.min_context_documents if fewest is None else fewest
                refuse_automatic_fit(texts, allowed=self.on_missing_context == "fit", fewest=fewest)
                self.fit(texts, kinds=kinds, show_progress=show_progress)
                if not whole:
                    self._slice = len(texts)
                    warn_of_full_slice(len(texts))
            elif self._slice is not None:
                warn_of_more_texts(len(texts), seen=self._slice)
                self._slice = None

    def kinds_of(self, nodes: Sequence[BaseNode]) -> list[str] | None:
        """Return the kinds of nodes by `kind_field`; None without one."""
        return None if self.kind_field is None else [kind_of(node.metadata, self.kind_field) for node in nodes]

    def load_context(self, source: Context | PathLike) -> None:
        """Embed under this context from now on: a `Context`, or the file or folder of a saved one.

        Raises:
            ContextMismatchError: if there is another context already, or another model made this one.
            ContextNotFittedError: if there is none at that path.
        """
        self._own.set(source if isinstance(source, Context) else read_context(source))

    def attach_to(self, storage_context: StorageContext) -> None:
        """Put the context into a storage context, so that ``persist()`` keeps it; `CDEVectorStoreIndex` does so itself.

        Raises:
            ContextNotFittedError: if there is no context.
            ContextMismatchError: if the storage context has another one.
        """
        attach_context(storage_context, self.context)

    def sentence_splitter(self, chunk_overlap: int | None = None) -> SentenceSplitter:
        """Return a splitter whose nodes this model reads whole, embedded metadata included.

        Args:
            chunk_overlap: How many tokens neighbouring nodes share; None for an eighth of what the model reads.
        """
        return splitter_for(self._encoder, chunk_overlap)

    @classmethod
    def from_storage(
        cls, source: StorageContext | PathLike, model_name: PathLike | None = None, **settings: Any
    ) -> Self:
        """Return an embedding under the context of a stored index.

        Args:
            source: A storage context, the folder it was persisted to, or a context folder.
            model_name: The checkpoint the index was built with; None for the bundled default.
            settings: As for the constructor.

        Raises:
            ContextNotFittedError: if no context is stored there.
            ContextMismatchError: if another model made it; names both.
            ContextFormatError: if it is damaged.
        """
        return cls(model_name, context=read_context(source), **settings)

    # Texts to vectors

    @dispatcher.span
    def get_text_embedding_batch(self, texts: list[str], show_progress: bool = False, **_: Any) -> list[Embedding]:
        """Embed documents; the first ones become the context if there is none (`on_missing_context`).

        LlamaIndex would cut them into batches in the order given; the encoder cuts them by length, with less padding.
        """
        if not texts:
            return []
        self.fit_if_missing(texts, whole=False, show_progress=show_progress)
        model = self.to_payload()
        dispatcher.event(EmbeddingStartEvent(model_dict=model))
        with self.callback_manager.event(CBEventType.EMBEDDING, payload={EventPayload.SERIALIZED: model}) as event:
            vectors = self._embed(texts, show_progress)
            event.on_end(payload={EventPayload.CHUNKS: texts, EventPayload.EMBEDDINGS: vectors})
        dispatcher.event(EmbeddingEndEvent(chunks=texts, embeddings=vectors))
        return vectors

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Embedding]:
        """Embed documents in a thread, one batch after the other, so that memory does not grow with their number."""
        return await asyncio.to_thread(self.get_text_embedding_batch, texts, show_progress, **kwargs)

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Return embedded and stamped copies of the nodes; fit on all of them if there is no context.

        In a pipeline that ran before, the context of its first run is taken over (`pipeline_run`). Where the pipeline's
        vector store keeps sparse vectors too, the dense part is given, as `CDEVectorStoreIndex` gives it there.

        Raises:
            ContextNotFittedError: if that context cannot be found, or fitting is not allowed (`fit_if_missing`).
            ContextMismatchError: if the pipeline's vector store holds vectors of another context.
        """
        pipeline = running_pipeline()
        own = self if pipeline is None else form_for(pipeline.vector_store, self)
        if own is not self:
            return own(nodes, **kwargs)
        texts = [embedded_text(node) for node in nodes]
        show_progress = bool(kwargs.get("show_progress"))
        if pipeline is not None:
            self._join(pipeline, nodes)
        self.fit_if_missing(texts, kinds=self.kinds_of(nodes), show_progress=show_progress)
        if pipeline is not None and self.is_fitted:
            guard_pipeline(pipeline, self.stamp, self.dimension)
            keep_context(pipeline, self.context)
        embeddings = self.get_text_embedding_batch(texts, show_progress=show_progress)
        return [stamped(node, self.stamp, vector) for node, vector in zip(nodes, embeddings, strict=True)]

    def _join(self, pipeline: IngestionPipeline, nodes: Sequence[BaseNode]) -> None:
        """Take over the context of a pipeline that ran before."""
        with self._first:
            if not self.is_fitted:
                context = earlier_context(pipeline, nodes, self.dimension)
                if context is not None:
                    self._own.set(context)

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Do the same in a thread."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)

    def get_agg_embedding_from_queries(
        self, queries: list[str], agg_fn: Callable[..., Embedding] | None = None
    ) -> Embedding:
        """Return one vector for several queries, by default their mean; it bears the stamp."""
        return StampedVector(super().get_agg_embedding_from_queries(queries, agg_fn), self.stamp)

    async def aget_agg_embedding_from_queries(
        self, queries: list[str], agg_fn: Callable[..., Embedding] | None = None
    ) -> Embedding:
        """Do the same asynchronously."""
        return StampedVector(await super().aget_agg_embedding_from_queries(queries, agg_fn), self.stamp)

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._embed_one_query(query)

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._embed(texts, show_progress=False)

    def _embed(self, texts: list[str], show_progress: bool) -> list[Embedding]:
        vectors = self._encode_documents(texts, self.parts, self.embed_batch_size, show_progress)
        return [StampedVector(vector, self.stamp) for vector in vectors.tolist()]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
