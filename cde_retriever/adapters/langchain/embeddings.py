"""`CDEEmbeddings`: a contextual encoder as a LangChain embedding."""

import re
from collections.abc import Iterable, Iterator
from itertools import tee
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from pydantic import ConfigDict, Field, InstanceOf

from cde_retriever.adapters.contextual_embedding import ContextualEmbedding, PathLike
from cde_retriever.adapters.langchain.known_vectors import find_vectors
from cde_retriever.adapters.langchain.noted_vectors import note
from cde_retriever.adapters.stamps import StampedVector
from cde_retriever.adapters.token_counter import token_counter, tokens_for_text
from cde_retriever.context.context import Context
from cde_retriever.context.knowledge import Parts
from cde_retriever.context.selection import kind_of

SPLIT = (
    "split documents with RecursiveCharacterTextSplitter(chunk_size=embedding.max_tokens, "
    "length_function=embedding.count_tokens)"
)
"""What to do where texts were cut."""


class CDEEmbeddings(ContextualEmbedding, Embeddings):
    """Contextual document embeddings as a LangChain embedding.

    It embeds nothing before it has a context, and keeps its first context for life: stores share embeddings, so a
    change would leave one of them with queries under a context its documents never saw. A copy shares model and
    context with its original; a pickled one carries the context. Embeddings of one checkpoint share its weights, so a
    new one for a new context costs little.

    Attributes:
        model_name: A CDE checkpoint or any encoder (docs/encoders.md), as folder or Hub id; None for the bundled one.
        revision, device, dtype, backend, truncate_dim, pooling, max_length, prompts, variant, long_texts, vector_size,
            context_for: As `ContextualEncoder.from_pretrained` takes them; None leaves it to the model.
        parts: ``"one"``: vectors that hold all the context knows. ``"dense"``: the dense part alone, for hybrid search,
            where the sparse part is kept beside it.
        given_context: The argument ``context``: a `Context`, or the path of a saved one.
        context_size: Most context documents to sample; None for the model's own number.
        seed: Seed of the sample.
        language: Whose words a corpus is counted in, such as ``"german"``, ``"none"`` for no stemmer; None for the
            model's own language. A context says its own.
        selection: How context documents are chosen: ``"random"``, ``"stratified"``, ``"kmeans"`` or ``"k-center"``
            (docs/contexts.md).
        kind_field: Metadata field that says what kind of document one is, for ``"stratified"`` alone.
        batch_size: Texts of 128 tokens through the model at once, of shorter ones more; does not change the result.
        show_progress: Whether to show progress bars on stderr.
    """

    model_config = ConfigDict(frozen=True)

    without_context: ClassVar[str] = (
        "this CDEEmbeddings has no context, and fitting on what happens to be embedded first would be wrong; "
        "use from_documents(StoreClass, documents, embedding), call fit(documents) with the whole corpus, "
        "give CDEEmbeddings(context=path), or call use_null_context() to embed without a corpus"
    )
    where_cut: ClassVar[str] = SPLIT

    given_context: InstanceOf[Context] | str | Path | None = Field(default=None, alias="context", exclude=True)
    batch_size: int = Field(default=32, ge=1)
    show_progress: bool = False

    def model_post_init(self, _: Any, /) -> None:
        """Load the model, and the context if one was given.

        Raises:
            CheckpointError: if there is no such model.
            ConfigError: if the model has no dense part.
            ContextMismatchError: if another model made the context.
            FileNotFoundError: if there is no context at the path.
        """
        name = None if self.model_name is None else str(self.model_name)
        given = self.given_context
        self._load(name, given if isinstance(given, Context | None) else Context.load(given))

    # The context

    @property
    def cache_namespace(self) -> str:
        """Namespace for `CacheBackedEmbeddings`, which keys on text alone; give queries a byte store of their own.

        Raises:
            ContextNotFittedError: if there is no context yet.
        """
        name = re.sub(r"[^\w.-]", "-", self._encoder.identity.name, flags=re.ASCII)
        stamp = self.stamp
        return f"cde/{name}/{stamp}" + ("/" if "/" in stamp else "")  # a key is the namespace and, at once, a hash

    def record_namespace(self, base: str) -> str:
        """Return a namespace for a `RecordManager`, which keys on documents alone; other vectors, another namespace.

        Use a new collection with it too: what was stored under the old context stays where it is.

        Raises:
            ContextNotFittedError: if there is no context yet.
        """
        return f"{base}/{self.stamp}"

    def fit(self, documents: Iterable[str | Document]) -> Context:
        """Sample the whole corpus and embed under that sample from now on.

        Raises:
            ContextMismatchError: if there is a context already and this corpus gives another.
            ContextError: if no document has any text.
            TypeError: if an item is neither a string nor a `Document`; names its index.
        """
        texts: Any = documents  # one string goes through as it is, and is refused
        kinds: Iterator[str] | None = None
        if not isinstance(documents, str | bytes):
            if self.kind_field is not None:
                documents, same = tee(documents)  # read in step, so that one document at a time is held
                kinds = (kind_of(getattr(item, "metadata", {}), self.kind_field) for item in same)
            texts = (item.page_content if isinstance(item, Document) else item for item in documents)
        return self._fit(texts, kinds, self.batch_size, self.show_progress)

    def load_context(self, context: Context | PathLike) -> None:
        """Embed under a saved context from now on.

        Raises:
            ContextMismatchError: if there is another context already, or another model made this one.
            FileNotFoundError: if there is no context at the path.
        """
        self._own.set(context if isinstance(context, Context) else Context.load(context))

    # Texts to vectors; the asynchronous twins of the base class run these in an executor

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents, given to the model as they are.

        If some are cut, one `TruncationSummary` says how much was lost, at the end of what the user called.

        Raises:
            ContextNotFittedError: if there is no context yet.
            TypeError: if a text is not a string; names its index.
        """
        stamp = self.stamp
        vectors = find_vectors(stamp, texts)
        if vectors is None:
            made = self._encode_documents(texts, self.parts, self.batch_size, self.show_progress)
            note(texts, made)
            vectors = made.tolist()
        return [StampedVector(vector, stamp) for vector in vectors]

    def embed_documents_in_parts(self, texts: list[str]) -> Parts:
        """Embed documents in two parts, dense and sparse; raises as `embed_documents` does, and as `dense_part`."""
        known = find_vectors(self.stamp, texts)
        if known is not None:  # words need no model
            return Parts(np.array(known, np.float32), self._encoder.encode_documents(texts, parts="sparse"))
        made: Parts = self._encode_documents(texts, "both", self.batch_size, self.show_progress)
        note(texts, made.dense)
        return made

    def embed_query_in_parts(self, text: str) -> Parts:
        """Embed a query in two parts; raises as `embed_documents_in_parts` does."""
        made: Parts = self._fitted_encoder().encode_queries([text], parts="both")
        return made

    def embed_query(self, text: str) -> list[float]:
        """Embed a query; raises as `embed_documents` does."""
        return self._embed_one_query(text)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield what is shown of an embedding: what was chosen, and what vectors come of it."""
        fields = type(self).model_fields
        yield from ((name, value) for name, value in super().__repr_args__() if value != fields[str(name)].default)
        if self.given_context is None:
            yield "context", self.context if self.is_fitted else None
        yield "dimension", self.dimension
        yield "max_tokens", self.max_tokens

    # How long a text may be

    @property
    def max_tokens(self) -> int:
        """How many tokens of a document the model reads: the ``chunk_size`` of a text splitter."""
        return tokens_for_text(self._encoder)

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text has for the model: the ``length_function`` of a text splitter."""
        return len(token_counter(self._encoder.tokenizer)(text))

    # Copies

    def __getstate__(self) -> dict[Any, Any]:
        state = dict(super().__getstate__())
        state["__pydantic_private__"] = {"context": self._own.to_bytes()}
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        context = state["__pydantic_private__"]["context"]
        fields = state["__dict__"] | {"given_context": None if context is None else Context.from_bytes(context)}
        super().__setstate__(state | {"__dict__": fields, "__pydantic_private__": {}})
        self.model_post_init(None)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "CDEEmbeddings":
        return self.model_copy()
