"""Look at the pipeline an embedding runs in, so that a later run goes on under the context of the first.

A transformation is shown nodes and nothing else: not the docstore that left only three new documents of a corpus, nor
the store that holds vectors of the others. So a span handler of LlamaIndex's instrumentation notes which pipeline runs,
and the embedding asks it. The context travels with the pipeline, in a collection of its own of the pipeline's cache and
of its docstore; ``pipeline.persist()`` writes it and ``pipeline.load()`` reads it like the rest.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from inspect import BoundArguments
from typing import Any, cast

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import BaseNode
from llama_index.core.storage.kvstore.types import BaseKVStore
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.span import BaseSpan
from llama_index_instrumentation.span_handlers import BaseSpanHandler

from cde_retriever.adapters.llama_index.guarded_store import guard_store, stored_stamps
from cde_retriever.adapters.llama_index.native_parts import form_for
from cde_retriever.adapters.stamps import describe
from cde_retriever.context.context import Context
from cde_retriever.errors import ContextFormatError, ContextNotFittedError

COLLECTION = "cde_context"

_running: ContextVar[tuple[tuple[str, IngestionPipeline], ...]] = ContextVar("cde_running_pipelines", default=())


class _PipelineWatch(BaseSpanHandler[BaseSpan]):
    """Notes which pipeline runs in this thread or task; keeps no spans."""

    def span_enter(self, id_: str, bound_args: BoundArguments, instance: Any | None = None, *_: Any, **__: Any) -> None:
        """Note a pipeline that starts."""
        if isinstance(instance, IngestionPipeline):
            _running.set((*_running.get(), (id_, instance)))
            if (bound_args.arguments.get("num_workers") or 1) > 1:
                _guard_for_workers(instance)

    def span_exit(self, id_: str, *_: Any, **__: Any) -> None:
        """Forget a pipeline that ends."""
        _running.set(tuple(entry for entry in _running.get() if entry[0] != id_))

    def span_drop(self, id_: str, *_: Any, **__: Any) -> None:
        """Forget a pipeline that fails."""
        self.span_exit(id_)

    def new_span(self, *_: Any, **__: Any) -> None:
        """Make none."""

    def prepare_to_exit_span(self, *_: Any, **__: Any) -> None:
        """Have none."""

    def prepare_to_drop_span(self, *_: Any, **__: Any) -> None:
        """Have none."""


get_dispatcher(IngestionPipeline.__module__).add_span_handler(_PipelineWatch())


def running_pipeline() -> IngestionPipeline | None:
    """Return the pipeline in whose run this is called, None outside of one."""
    running = _running.get()
    return running[-1][1] if running else None


def earlier_context(pipeline: IngestionPipeline, nodes: Sequence[BaseNode], dimension: int) -> Context | None:
    """Return the context under which a pipeline ran before, None if this is its first run.

    Args:
        pipeline: The pipeline.
        nodes: The nodes of this run.
        dimension: How many numbers the vectors have.

    Raises:
        ContextNotFittedError: if it ran before and the context is not kept with it; without nodes there is no need.
        ContextMismatchError: if its vector store holds vectors of several contexts.
        ContextFormatError: if the context is damaged.
    """
    stamps = _stamps(pipeline, dimension)
    known = _documents_before(pipeline, nodes)
    if not stamps and not known:
        return None
    kept = _kept_contexts(pipeline)
    wanted = {str(stamp).partition("/")[0] for stamp in stamps} if stamps else set(kept)
    if len(wanted) == 1 and wanted <= kept.keys():
        return kept[wanted.pop()]
    if not nodes:
        return None
    owner = f"its vector store holds vectors of {describe(next(iter(stamps)))}" if stamps else None
    raise ContextNotFittedError(
        f"this pipeline ran before: {owner or f'its docstore knows {len(known)} other documents'}, and that context is "
        f"not kept with it, so {len(nodes)} new nodes are not made another; pass CDEEmbedding(context=folder) with the "
        "context of the first run (kept by embed.save_context(folder), or by pipeline.persist() after the run), or "
        "start anew with empty stores"
    )


def _guard_for_workers(pipeline: IngestionPipeline) -> None:
    """Guard the vector store from here: an embedding in another process cannot look at it."""
    for step in pipeline.transformations:
        if pipeline.vector_store is not None and isinstance(step, BaseEmbedding) and getattr(step, "is_fitted", False):
            embedder = form_for(pipeline.vector_store, cast(Any, step))
            stamps = stored_stamps(pipeline.vector_store, embedder.dimension)
            guard_store(pipeline.vector_store, next(iter(stamps), embedder.stamp), embedder.dimension)


def guard_pipeline(pipeline: IngestionPipeline, stamp: str, dimension: int) -> None:
    """Guard the vector store that a pipeline is about to write to.

    Raises:
        ContextMismatchError: if it holds vectors of another stamp; names both.
    """
    if pipeline.vector_store is not None:
        guard_store(pipeline.vector_store, stamp, dimension)


def keep_context(pipeline: IngestionPipeline, context: Context) -> None:
    """Put a context where the pipeline persists its cache and docstore."""
    content = None
    for store in _key_value_stores(pipeline):
        if store.get(context.fingerprint, collection=COLLECTION) is None:
            content = content or base64.b64encode(context.to_bytes()).decode("ascii")
            store.put(context.fingerprint, {"context": content}, collection=COLLECTION)


def _stamps(pipeline: IngestionPipeline, dimension: int) -> set[Any]:
    return set() if pipeline.vector_store is None else stored_stamps(pipeline.vector_store, dimension)


def _documents_before(pipeline: IngestionPipeline, nodes: Sequence[BaseNode]) -> set[str]:
    """Return the documents a pipeline's docstore knows beside those of this run."""
    if pipeline.docstore is None:
        return set()
    now = {node.node_id for node in nodes} | {node.ref_doc_id for node in nodes}
    return set(pipeline.docstore.get_all_document_hashes().values()) - now


def _kept_contexts(pipeline: IngestionPipeline) -> dict[str, Context]:
    found = {}
    for store in _key_value_stores(pipeline):
        for fingerprint, value in store.get_all(collection=COLLECTION).items():
            if fingerprint not in found:
                found[fingerprint] = _decode(value)
    return found


def _decode(value: Any) -> Context:
    source = "the pipeline's cache or docstore"
    try:
        return Context.from_bytes(base64.b64decode(value["context"], validate=True), source=source)
    except (binascii.Error, TypeError, KeyError) as error:
        raise ContextFormatError(f"the context in {source} is damaged ({error!r}); restore it or re-index") from error


def _key_value_stores(pipeline: IngestionPipeline) -> Iterable[BaseKVStore]:
    if pipeline.cache is not None:
        yield pipeline.cache.cache
    kept = getattr(pipeline.docstore, "_kvstore", None)  # LlamaIndex shows it to subclasses only
    if isinstance(kept, BaseKVStore):
        yield kept
