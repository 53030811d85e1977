"""LangChain: `CDEEmbeddings`, entry points that see the whole corpus, and a guard on what stores return.

    from cde_retriever import langchain as cde

    store = cde.from_documents(FAISS, documents, context_dir="index")
    store.save_local("index")
    store = cde.open(lambda e: FAISS.load_local("index", e, allow_dangerous_deserialization=True), "index")
    store.similarity_search("a question")

LangChain shows an embedding slices of the corpus (Qdrant first ``"dummy_text"``, `index` 100 documents at a time) and
stores nothing about it. So fitting is a step of its own, here or in `CDEEmbeddings.fit`; every stored document carries
its context's fingerprint in ``metadata["cde_context"]``; and `guard`, which `from_documents` and `open` apply, makes a
store stamp what is added to it and check what its searches return. A guarded store stays an instance of its class, so
``store.as_retriever()`` and chains are guarded as well. An unguarded store is as LangChain made it and checks
nothing; `CDERetriever` searches one safely.
"""

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from cde_retriever.context import Context, known_documents
from cde_retriever.encoder import ContextualEncoder
from cde_retriever.errors import ContextMismatchError, ContextNotFittedError
from cde_retriever.sharing import shared_encoder

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.vectorstores import VectorStore
    from pydantic import BaseModel, ConfigDict, Field, InstanceOf, PrivateAttr
except ImportError as error:
    raise ImportError('cde_retriever.langchain needs langchain-core; pip install "cde-retriever[langchain]"') from error

from cde_retriever.langchain_guard import check_stamps, guard_store, stamp_documents

PathLike = str | os.PathLike[str]
Store = TypeVar("Store", bound=VectorStore)


class CDEEmbeddings(BaseModel, Embeddings):
    """Contextual document embeddings as a LangChain embedding.

    It embeds nothing before it has a context, and keeps its first context for life: stores share embeddings, so a
    change would leave one of them with queries under a context its documents never saw. A copy shares model and
    context with its original; a pickled one carries the context. Embeddings of one checkpoint share its weights, so a
    new one for a new context costs little.

    Attributes:
        model_name: A checkpoint folder or a Hub id; None for the bundled default.
        revision: Branch, tag or commit on the Hub.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` …; None takes the fastest there is.
        dtype: ``"float32"`` (default), ``"bfloat16"`` or ``"float16"``; ``"int8"`` with the other backends.
        backend: ``"torch"``, ``"onnx"`` or ``"openvino"`` (`ContextualEncoder.from_pretrained`).
        truncate_dim: How many numbers of a vector to keep; None for all. Queries need the number of the index.
        given_context: The argument ``context``: a `Context`, or the path of a saved one.
        context_size: Most context documents to sample; None for the model's own number.
        seed: Seed of the sample.
        batch_size: Texts of 128 tokens through the model at once, of shorter ones more; does not change the result.
        show_progress: Whether to show progress bars on stderr.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_name: str | Path | None = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    backend: Literal["torch", "onnx", "openvino"] = "torch"
    truncate_dim: int | None = Field(default=None, gt=0)
    given_context: InstanceOf[Context] | str | Path | None = Field(default=None, alias="context", exclude=True)
    context_size: int | None = Field(default=None, ge=1)
    seed: int = 0
    batch_size: int = Field(default=32, ge=1)
    show_progress: bool = False

    _encoder: ContextualEncoder = PrivateAttr()
    _lock: Any = PrivateAttr()

    def model_post_init(self, _: Any, /) -> None:
        """Load the model, and the context if one was given.

        Raises:
            CheckpointError: if there is no such model.
            ContextMismatchError: if another model made the context.
            FileNotFoundError: if there is no context at the path.
        """
        self._lock = threading.Lock()
        name = None if self.model_name is None else str(self.model_name)
        self._encoder = shared_encoder(
            name,
            revision=self.revision,
            device=self.device,
            dtype=self.dtype,
            backend=self.backend,
            truncate_dim=self.truncate_dim,
        )
        if self.given_context is not None:
            self.load_context(self.given_context)

    # The context

    @property
    def is_fitted(self) -> bool:
        """Whether there is a context."""
        return self._encoder.has_context

    @property
    def context(self) -> Context:
        """The context.

        Raises:
            ContextNotFittedError: if there is none yet.
        """
        if not self.is_fitted:
            raise ContextNotFittedError(
                "this CDEEmbeddings has no context, and fitting on what happens to be embedded first would be wrong; "
                "use from_documents(StoreClass, documents, embedding), call fit(documents) with the whole corpus, "
                "give CDEEmbeddings(context=path), or call use_null_context() to embed without a corpus"
            )
        return self._encoder.context

    @property
    def context_fingerprint(self) -> str:
        """What tells this context from others; see `context`."""
        return self.context.fingerprint

    @property
    def dimension(self) -> int:
        """Width of the vectors; needs no context."""
        return self._encoder.dimension

    @property
    def cache_namespace(self) -> str:
        """Namespace for `CacheBackedEmbeddings`, which keys on text alone; give queries a byte store of their own.

        Raises:
            ContextNotFittedError: if there is no context yet.
        """
        name = re.sub(r"[^\w.-]", "-", self._encoder.identity.name, flags=re.ASCII)
        return f"cde/{name}/{self.context_fingerprint}"

    def record_namespace(self, base: str) -> str:
        """Return a namespace for a `RecordManager`, which keys on documents alone; new context, new namespace.

        Use a new collection with it too: what was stored under the old context stays where it is.

        Raises:
            ContextNotFittedError: if there is no context yet.
        """
        return f"{base}/{self.context_fingerprint}"

    def fit(self, documents: Iterable[str | Document]) -> Context:
        """Sample the whole corpus and embed under that sample from now on.

        Raises:
            ContextMismatchError: if there is a context already and this corpus gives another.
            ContextError: if no document has any text.
            TypeError: if an item is neither a string nor a `Document`; names its index.
        """
        texts: Any = documents  # one string goes through as it is, and is refused
        if not isinstance(documents, str | bytes):
            texts = (item.page_content if isinstance(item, Document) else item for item in documents)
        context = self._encoder.fork().fit_context(
            texts,
            seed=self.seed,
            context_size=self.context_size,
            batch_size=self.batch_size,
            show_progress=self.show_progress,
        )
        self._bind(context)
        return self.context

    def load_context(self, context: Context | PathLike) -> None:
        """Embed under a saved context from now on.

        Raises:
            ContextMismatchError: if there is another context already, or another model made this one.
            FileNotFoundError: if there is no context at the path.
        """
        self._bind(context if isinstance(context, Context) else Context.load(context))

    def use_null_context(self) -> None:
        """Embed without a corpus from now on.

        Raises:
            ContextMismatchError: if there is another context already.
        """
        self._bind(self._encoder.null_context())

    def save_context(self, path: PathLike) -> Path:
        """Write the context to a folder or a ``.safetensors`` file.

        Raises:
            ContextNotFittedError: if there is no context yet.
            ContextMismatchError: if another context is already there.
        """
        return self.context.save(path)

    def _bind(self, context: Context) -> None:
        with self._lock:
            if not self.is_fitted:
                self._encoder.set_context(context)
            elif context.fingerprint != self.context_fingerprint:
                raise ContextMismatchError(
                    f"this CDEEmbeddings has context {self.context_fingerprint[:12]} for life and was given "
                    f"{context.fingerprint[:12]}; make a new CDEEmbeddings, and a new store for its vectors"
                )

    # Texts to vectors; the asynchronous twins of the base class run these in an executor

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents, given to the model as they are.

        Raises:
            ContextNotFittedError: if there is no context yet.
            TypeError: if a text is not a string; names its index.
        """
        return self._embed(self._encoder.encode_documents, texts)

    def embed_query(self, text: str) -> list[float]:
        """Embed a query; raises as `embed_documents` does."""
        return self._embed(self._encoder.encode_queries, [text])[0]

    def _embed(self, encode: Callable[..., Any], texts: list[str]) -> list[list[float]]:
        _ = self.context
        vectors = encode(texts, batch_size=self.batch_size, show_progress=self.show_progress)
        return cast(list[list[float]], vectors.tolist())

    # Copies

    def __getstate__(self) -> dict[Any, Any]:
        state = dict(super().__getstate__())
        state["__pydantic_private__"] = {"context": self.context.to_bytes() if self.is_fitted else None}
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        context = state["__pydantic_private__"]["context"]
        fields = state["__dict__"] | {"given_context": None if context is None else Context.from_bytes(context)}
        super().__setstate__(state | {"__dict__": fields, "__pydantic_private__": {}})
        self.model_post_init(None)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "CDEEmbeddings":
        return self.model_copy()


# Stores


def stamp(documents: Iterable[Document], embedding: CDEEmbeddings) -> list[Document]:
    """Return copies of documents that say under which context they are about to be embedded.

    For stores filled by other means than `from_documents` or a guarded store, such as `index`.

    Raises:
        ContextNotFittedError: if the embedding has no context.
    """
    return stamp_documents(documents, embedding.context_fingerprint)


def from_documents(
    store_class: type[Store],
    documents: Iterable[Document],
    embedding: CDEEmbeddings | None = None,
    *,
    context_dir: PathLike | None = None,
    **store_kwargs: Any,
) -> Store:
    """Build a guarded store whose vectors know the whole corpus.

    Args:
        store_class: Any LangChain store, such as ``FAISS``.
        documents: The whole corpus. Stored copies carry the fingerprint; the given documents are left alone.
        embedding: Fitted on the documents unless it has a context; None for the default model.
        context_dir: Folder for the context, written before any vector is stored.
        store_kwargs: Further arguments of ``store_class.from_documents``.

    Raises:
        ContextMismatchError: if another context is in `context_dir`, or the store holds vectors of another.
        ContextError: if no document has any text.
    """
    documents = list(documents)
    embedding = embedding or CDEEmbeddings()
    if not embedding.is_fitted:
        embedding.fit(documents)
    elif embedding.context.size and not known_documents(embedding.context, [d.page_content for d in documents]):
        warnings.warn(
            f"none of the {embedding.context.size} context documents of {embedding.context_fingerprint[:12]} is among "
            f"these {len(documents)}; use a new CDEEmbeddings for a new corpus, and add_documents to extend a store",
            stacklevel=2,
        )
    if context_dir is not None:
        embedding.save_context(context_dir)
    return guard(store_class.from_documents(stamp(documents, embedding), embedding, **store_kwargs), embedding)


def open(  # noqa: A001 - the counterpart of from_documents, used with its module's name
    opener: Callable[[CDEEmbeddings], Store],
    context: Context | PathLike,
    *,
    embedding: CDEEmbeddings | None = None,
    **model_kwargs: Any,
) -> Store:
    """Open a stored index under the context it was built with, guarded.

    Args:
        opener: Opens the store with the embedding it is given, such as ``lambda e: Chroma("name", e)``.
        context: The context, or the folder it was saved in.
        embedding: What to embed with; by default a new one.
        model_kwargs: Arguments of the new `CDEEmbeddings`, if none is given.

    Raises:
        ContextMismatchError: if context, model, embedding and stored documents do not belong together.
        FileNotFoundError: if there is no context at the path.
        TypeError: if both an embedding and arguments for one are given.
    """
    if embedding is not None and model_kwargs:
        raise TypeError(f"received an embedding and arguments for a new one ({', '.join(model_kwargs)}); give one")
    embedding = embedding or CDEEmbeddings(**model_kwargs)
    embedding.load_context(context)
    return guard(opener(embedding), embedding)


def guard(store: Store, embedding: CDEEmbeddings) -> Store:
    """Make a store stamp what is added to it and check what its searches return; returns the same object.

    One document is fetched to see at once whether the store belongs to the context; each later search checks what it
    returns. The store may embed with the embedding itself or with a `CacheBackedEmbeddings` around it.

    Raises:
        ContextNotFittedError: if the embedding has no context.
        ContextMismatchError: if the store embeds with something else, or holds vectors of another context.
    """
    fingerprint = embedding.context_fingerprint
    _check_embedding(store.embeddings, fingerprint)
    check_stamps(store.similarity_search_by_vector(embedding.embed_query("probe"), k=1), fingerprint)
    guard_store(store, fingerprint)
    return store


def _check_embedding(found: Any, fingerprint: str) -> None:
    """Check what a store embeds its queries with, which may be behind a cache; a store need not tell."""
    if found is None:
        return
    if getattr(found, "query_embedding_store", None) is getattr(found, "document_embedding_store", found):
        raise ContextMismatchError(
            f"{type(found).__name__} caches documents and queries in one store and would return one's vector for the "
            "other; give query_embedding_cache a byte store of its own, or False"
        )
    found = getattr(found, "underlying_embeddings", found)
    theirs = found.context_fingerprint if isinstance(found, CDEEmbeddings) else None
    if theirs != fingerprint:
        what = f"embeds with {type(found).__name__}" if theirs is None else f"embeds under context {theirs[:12]}"
        raise ContextMismatchError(
            f"the store {what}, not under context {fingerprint[:12]}; build or open it with the embedding given here"
        )


class CDERetriever(BaseRetriever):
    """Search any store by a query embedded here, and check the context of every document it returns.

    Attributes:
        store: The store; it must be able to search by vector.
        embedding: Embeds the queries.
        k: How many documents to return.
        search_kwargs: Further arguments of the store's search, such as ``filter``.
    """

    store: VectorStore
    embedding: CDEEmbeddings
    k: int = Field(default=4, ge=1)
    search_kwargs: dict[str, Any] = Field(default_factory=dict)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
        k: int | None = None,
    ) -> list[Document]:
        vector = self.embedding.embed_query(query)
        found = self.store.similarity_search_by_vector(vector, k=self.k if k is None else k, **self.search_kwargs)
        return cast(list[Document], check_stamps(found, self.embedding.context_fingerprint))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
        k: int | None = None,
    ) -> list[Document]:
        vector = await self.embedding.aembed_query(query)
        found = await self.store.asimilarity_search_by_vector(
            vector, k=self.k if k is None else k, **self.search_kwargs
        )
        return cast(list[Document], check_stamps(found, self.embedding.context_fingerprint))
