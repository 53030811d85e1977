"""Hold a model and one context for life, as the embeddings of all frameworks do: `ContextualEmbedding`."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from cde_retriever.adapters.cut_texts import add_cut_texts, one_summary
from cde_retriever.adapters.one_context import OneContext
from cde_retriever.adapters.stamps import StampedVector
from cde_retriever.adapters.token_counter import token_counter, tokens_for_text
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.context.coverage import warn_if_small
from cde_retriever.encoder.corpus_head import check_parts
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ContextNotFittedError

if TYPE_CHECKING:  # an embedding needs no index
    from cde_retriever.lifecycle.stored_index import NewIndex

PathLike = str | os.PathLike[str]


class ContextualEmbedding(BaseModel):
    """The model of an embedding, named by its fields, and its context; each framework's class adds what is its own.

    Attributes:
        without_context: What to say where a context is needed and there is none.
        where_cut: What to do where texts were cut.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    without_context: ClassVar[str]
    where_cut: ClassVar[str]

    model_name: str | Path | None = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    backend: Literal["torch", "onnx", "openvino"] | None = None
    truncate_dim: int | None = Field(default=None, gt=0)
    parts: Literal["one", "dense"] = "one"
    pooling: str | None = None
    max_length: int | None = None
    prompts: dict[str, str] | None = None
    variant: str | None = None
    long_texts: Literal["cut", "windows"] | None = None
    vector_size: int | None = None
    context_for: Literal["queries"] | None = None
    context_size: int | None = Field(default=None, gt=0)
    seed: int = 0
    language: str | None = None
    selection: Literal["random", "stratified", "kmeans", "k-center"] = "random"
    kind_field: str | None = None

    _encoder: ContextualEncoder = PrivateAttr()
    _own: OneContext = PrivateAttr()

    def _load(self, name: str | None, context: Context | None) -> None:
        """Load the model of a name, None for the bundled one, and embed under a context if there is one."""
        self._own = OneContext.of_settings(name, self, None if context is None else context.model.name)
        self._encoder = self._own.encoder
        if self.parts == "dense":
            self._require_two_parts()
        if context is not None:
            self._own.set(context)

    def _require_two_parts(self) -> None:
        check_parts("both", self.has_corpus_head, self._encoder.identity.name, self.truncate_dim)

    # The context

    @property
    def is_fitted(self) -> bool:
        """Whether there is a context."""
        return self._own.is_set

    @property
    def context(self) -> Context:
        """The context.

        Raises:
            ContextNotFittedError: if there is none yet.
        """
        return self._fitted_encoder().context

    @property
    def context_fingerprint(self) -> str:
        """What tells this context from others; raises as `context` does."""
        self._fitted_encoder()
        return self._own.fingerprint

    @property
    def stamp(self) -> str:
        """What every vector bears and is stored with (`cde_retriever.adapters.stamps`); raises as `context` does."""
        self._fitted_encoder()
        return self._own.stamp if self.parts == "one" else self._own.dense_stamp

    def _fit(self, texts: Iterable[str], kinds: Iterable[str] | None, batch_size: int, show_progress: bool) -> Context:
        """Sample the whole corpus as the fields say; raises as `OneContext.fit` does."""
        context = self._own.fit(
            texts,
            seed=self.seed,
            context_size=self.context_size,
            selection=self.selection,
            kinds=kinds,
            kind_field=self.kind_field,
            language=self.language,
            batch_size=batch_size,
            show_progress=show_progress,
        )
        if self.parts == "one" and self.context_size is None:
            warn_if_small(context, self._encoder.head_settings)
        return context

    def use_null_context(self) -> None:
        """Embed without a corpus from now on; a context like any other, with a fingerprint of its own.

        Raises:
            ContextMismatchError: if there is another context already.
        """
        self._own.set_null()

    def save_context(self, path: PathLike) -> Path:
        """Write the context to a folder or a ``.safetensors`` file; see `Context.save`.

        Raises:
            ContextNotFittedError: if there is no context yet.
            ContextMismatchError: if another context is already there.
        """
        return self.context.save(path)

    def _fitted_encoder(self) -> ContextualEncoder:
        if not self.is_fitted:
            raise ContextNotFittedError(self.without_context)
        return self._encoder

    # The model

    @property
    def encoder(self) -> ContextualEncoder:
        """The encoder behind, to read from (`tokenize`, `identity`, `config`): its context is this embedding's."""
        return self._encoder

    @property
    def dimension(self) -> int:
        """Width of the vectors; needs no context."""
        return self._encoder.dimension if self.parts == "one" else self._encoder.dense_dimension

    @property
    def has_corpus_head(self) -> bool:
        """Whether the model gives texts in two parts, dense and sparse."""
        return self._encoder.config.corpus_head is not None

    @property
    def fitted_size(self) -> int:
        """Documents of a new context, at most, where queries are fitted to these; 0 where they are not."""
        head = self._encoder.head_settings
        if self.parts == "dense" or head is None or not head.query_noise:
            return 0
        return self.context.size_again(self._encoder.config.context_size)

    @property
    def holds_words(self) -> bool:
        """Whether one vector has numbers for a text's words."""
        head = self._encoder.head_settings
        return head is not None and head.cut(self._encoder.dense_dimension, self._encoder.dimension).word_width > 0

    @classmethod
    def as_stored(cls, model: ModelSpec, context: Context, parts: str) -> Self:
        """Return the embedding that vectors of an index are made with, whose `parts` are ``"dense"`` or ``"one"``."""
        settings = {"model_name": model.name, "context": context, **model.arguments()}
        embedding = cls(**settings)
        return embedding.dense_part() if parts == "dense" else embedding

    @classmethod
    def of_migrated(cls, new: "NewIndex") -> Self:
        """Return the embedding of a new index, without a context; it takes the plain vectors that are there."""
        embedding = cls(**{"model_name": new.model.name, **new.model.arguments()})
        if new.plain is not None:
            embedding.encoder.keep_plain(new.plain)
        return embedding

    def dense_part(self) -> Self:
        """Return an embedding that gives the dense parts of texts; it shares model and context with this one.

        Raises:
            ConfigError: if the model has no corpus head, or vectors are to be cut.
        """
        self._require_two_parts()
        return BaseModel.model_copy(self, update={"parts": "dense"})

    # Texts to vectors

    def _embed_one_query(self, text: str) -> StampedVector:
        vectors = self._fitted_encoder().encode_queries([text], parts=self.parts)
        return StampedVector(vectors[0].tolist(), self.stamp)

    def _encode_documents(self, texts: list[str], parts: str, batch_size: int, show_progress: bool) -> Any:
        """Return documents as `ContextualEncoder.encode_documents` does; tell what was cut in one summary."""
        encoder = self._fitted_encoder()
        with one_summary(self.where_cut) as summary:
            summary.texts += len(texts)
            return encoder.encode_documents(
                texts,
                parts=parts,
                batch_size=batch_size,
                show_progress=show_progress,
                on_truncation=lambda cut: add_cut_texts(
                    summary, texts, cut, token_counter(encoder.tokenizer), tokens_for_text(encoder)
                ),
            )
