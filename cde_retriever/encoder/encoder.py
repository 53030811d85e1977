"""`ContextualEncoder`: a model, a context, and texts to vectors. Everything a framework adapter needs."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cde_retriever.backends.backend import Backend
from cde_retriever.backends.loading import Route
from cde_retriever.checkpoint.folder import bundled_names
from cde_retriever.context.context import Context, ModelIdentity, listed_context, make_context
from cde_retriever.context.knowledge import Parts
from cde_retriever.context.neighbours import unit
from cde_retriever.context.sampling import Sample, sample_documents
from cde_retriever.context.whole_numbers import whole_number
from cde_retriever.encoder.corpus_head import CorpusHead, check_parts
from cde_retriever.encoder.dimensions import shorten
from cde_retriever.encoder.loaded_model import DEFAULT_BATCH, Embed, Ids, LoadedModel, Vectors
from cde_retriever.encoder.plain_documents import PlainDocuments
from cde_retriever.encoder.shared_queries import SharedBatches
from cde_retriever.encoder.tokens import check_texts, count_documents
from cde_retriever.errors import (
    ConfigError,
    ContextError,
    ContextMismatchError,
    ContextNotFittedError,
    TruncationWarning,
)
from cde_retriever.model.evidence import Evidence
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import WordReader, reader

if TYPE_CHECKING:  # a server of queries runs without PyTorch
    from scipy.sparse import csr_array


QUERIES_AT_ONCE = 64
"""Most queries of several callers that run as one batch."""


@dataclass(frozen=True, eq=False)
class _Active:
    """The context in force and what the second stage made of it, replaced together."""

    context: Context
    state: Any
    head: CorpusHead | None = None


class ContextualEncoder(LoadedModel):
    """Embed documents and queries given a context.

    Safe to use from several threads: each call works under one context throughout, and queries that several threads
    ask for at once run as one batch. Safe in spawned and forked children as well; in a forked one PyTorch computes on
    one thread, and an export's graphs are opened again.

    Arguments and errors of the constructor are those of `LoadedModel`; use `from_pretrained`.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        identity: ModelIdentity,
        queries: Route | None = None,
        *,
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__(backend, tokenizer, identity, queries, truncate_dim=truncate_dim)
        self._active: _Active | None = None
        self._origin: ContextualEncoder | None = None
        self.plain_documents: PlainDocuments | None = None
        self._queries = SharedBatches[Ids, NDArray[np.float32]](self._embed_queries, QUERIES_AT_ONCE)

    def __repr__(self) -> str:
        """Name the model, what its vectors and texts are like, where it runs, and the context."""
        context = repr(self._active.context) if self._active else "no context"
        return (
            f"ContextualEncoder({self.config.name}, {self.dimension} numbers, texts up to {self.config.max_length} "
            f"tokens, {self.device}, {context})"
        )

    def fork(self, *, truncate_dim: int | None = None) -> "ContextualEncoder":
        """Return an encoder over the same weights, without a context yet; one call at a time runs over all forks.

        Args:
            truncate_dim: The fork's; None for the original's.
        """
        size = self.truncate_dim if truncate_dim is None else truncate_dim
        twin = type(self)(self.backend, self._tokenizer, self._identity, self._query_route, truncate_dim=size)
        twin._lock, twin._kept = self._lock, self._kept
        twin.plain_documents = self.plain_documents
        twin._origin = self  # lives as long as its forks, so that `sharing` finds it
        return twin

    def keep_plain(self, kept: PlainDocuments | None = None) -> None:
        """Keep plain vectors of documents from now on, and take those that are kept instead of running the model.

        Args:
            kept: Vectors of documents embedded before; None for none.

        Raises:
            ConfigError: for a model without a corpus head, where vectors depend on the context in the model itself.
        """
        if self._head_settings is None:
            raise ConfigError(
                f"model {self.identity.name!r} has no corpus head: another context changes what the model computes, so "
                "plain vectors would be of no use; leave keep_plain out"
            )
        self.plain_documents = self.plain_documents or PlainDocuments()
        self.plain_documents.update(kept or PlainDocuments())

    # The context

    @property
    def context(self) -> Context:
        """The context in force.

        Raises:
            ContextNotFittedError: if none was set.
        """
        return self._require_active().context

    @property
    def has_context(self) -> bool:
        """Whether a context was set."""
        return self._active is not None

    def fit_context(
        self,
        documents: Iterable[str],
        *,
        seed: int = 0,
        context_size: int | None = None,
        store_texts: bool = True,
        language: str | None = None,
        batch_size: int = DEFAULT_BATCH,
        show_progress: bool = False,
    ) -> Context:
        """Sample a corpus, look at the sample as the model does, and set the result as context.

        The first stage embeds the sample, where the second stage reads its vectors. One pass over the documents; memory
        grows with the context, not with the corpus.

        Args:
            documents: The corpus, as texts; any iterable.
            seed: Seed of the sample.
            context_size: Most context documents; None for the model's own number.
            store_texts: Whether the context keeps the sampled texts, or only their hashes.
            language: Whose stemmer words go through, for a model with a corpus head, such as ``"german"``; ``"none"``
                for no stemmer, None for the model's own language.
            batch_size: Texts of 128 tokens through the model at once, of shorter ones more; does not change the result.
            show_progress: Whether to show a progress bar on stderr.

        Raises:
            TypeError: if an item is not a string; names its index.
            ContextError: if no document has any text.
            ConfigError: if a number is out of range, for a language without a stemmer, or for any language if the model
                has no corpus head.
        """
        self._word_reader(language)  # refuses a language before documents are read
        exact, size = self.config.positions != "text", self.config.context_size
        if context_size is not None:
            size = whole_number("context_size", context_size, 1)
        whole_number("batch_size", batch_size, 1)
        if exact and size > self.config.context_size:
            raise ConfigError(
                f"context_size is {size}, but {self.config.name} reads {self.config.context_size} context "
                "documents, no more; leave context_size out"
            )
        sample = sample_documents(documents, size, seed)
        return self._set_context_of(sample, language, store_texts, batch_size, show_progress)

    def list_context(self, documents: Sequence[str], *, store_texts: bool = True) -> Context:
        """Set a context of given documents, in the order given, and return it; nothing is drawn.

        Args:
            documents: The context documents; a model that reads exactly J of them repeats fewer.
            store_texts: Whether the context keeps the texts, or only their hashes.

        Raises:
            TypeError: if an item is not a string; names its index.
            ContextError: if there are none, or more than the model reads.
        """
        texts = tuple(documents)
        self._refuse_size(len(texts))
        return self._set_context_of(Sample(texts, len(texts), 0), None, store_texts, DEFAULT_BATCH, False)

    def _set_context_of(
        self, sample: Sample, language: str | None, store_texts: bool, batch_size: int, show_progress: bool
    ) -> Context:
        # No warning: a context document is meant to be cut.
        ids = self._tokenize(sample.texts, "document", batch_size, warn=False)
        context = make_context(
            sample,
            self._context_vectors(sample.texts, ids, batch_size, show_progress),
            self.identity,
            store_texts=store_texts,
            needs=None if self.config.positions == "text" else self.config.context_size,
            frequencies=self._count_terms(ids) if self.config.term_statistics else None,
            words=self.count_words(sample.texts, language),
        )
        self.set_context(context)
        return context

    def context_from_vectors(self, vectors: Vectors) -> Context:
        """Set a context of dataset embeddings, (J, d), whose texts are not known, and return it.

        Raises:
            ConfigError: for a model that reads more of a context than vectors.
            ContextError: if they are of another width, or too many.
        """
        if self.config.term_statistics or not self.backend.reads_dataset_embeddings:
            raise ConfigError(f"{self.config.name} reads the words of a context, not its vectors; fit it to texts")
        vectors = np.asarray(vectors, np.float32)
        width = self.config.first_stage_width
        if vectors.ndim != 2 or vectors.shape[1] != width or not np.isfinite(vectors).all():
            raise ContextError(f"expected finite dataset embeddings, (J, {width}), received shape {vectors.shape}")
        self._refuse_size(len(vectors))
        context = listed_context(
            vectors, self.identity, self.config.context_size if self.config.positions != "text" else None
        )
        self.set_context(context)
        return context

    def _refuse_size(self, documents: int) -> None:
        most = self.config.context_size
        if not 1 <= documents <= most:
            raise ContextError(f"{self.config.name} reads 1 to {most} context documents, received {documents}")

    def _context_vectors(
        self, texts: Sequence[str], ids: list[Ids], batch_size: int, show_progress: bool
    ) -> Vectors | None:
        """Return what a context keeps of its documents' vectors; None for nothing."""
        if self._head_settings is not None:
            kept = self._kept_plain("document")
            if kept is not None and not kept.missing(texts):
                return kept.of(texts)
            return self._plain(ids, "document", batch_size, show_progress)
        return self._first_stage(ids, batch_size, show_progress) if self.backend.reads_dataset_embeddings else None

    def count_words(self, texts: Sequence[str], language: str | None) -> CorpusWords | None:
        """Return what a context keeps of its documents' words; None for a model without a corpus head.

        Args:
            texts: The context documents.
            language: As for `fit_context`.

        Raises:
            ConfigError: as `fit_context` does of a language.
        """
        words = self._word_reader(language)
        return None if words is None else CorpusWords.of(words.language, words.read(texts, "document"))

    def _word_reader(self, language: str | None) -> WordReader | None:
        if self._head_settings is None:
            if language is not None:
                raise ConfigError(
                    f"language is {language!r}, but model {self.identity.name!r} has no corpus head, which reads "
                    "words; leave it out"
                )
            return None
        return reader(self._head_settings.language if language is None else language)

    def set_context(self, context: Context) -> None:
        """Embed under this context from now on.

        Raises:
            TypeError: if it is not a `Context`.
            ContextMismatchError: if another model made it; names both.
        """
        with self._lock:
            self._active = self._activate(context)

    def _activate(self, context: Context) -> _Active:
        """Return a context with what the second stage makes of it; the caller holds the lock."""
        if not isinstance(context, Context):
            raise TypeError(f"expected a Context, received {type(context).__name__}; use Context.load(path)")
        self._check_model(context)
        head = None
        if self._head_settings is not None:
            head = CorpusHead(self._head_settings, context, self.backend.dimension, self.dimension)
        return _Active(context, self.backend.prepare(self._evidence(context)), head)

    def _evidence(self, context: Context) -> Evidence[NDArray[np.float32]]:
        """Return what the second stage is told of a context: only what it reads, each document as often as it needs."""
        rows = np.arange(context.size if context.oversampled_to is None else context.oversampled_to)
        frequencies = None
        if self.config.term_statistics:
            frequencies = np.zeros(self.vocabulary_size, np.float32)
            if context.frequencies[:, 0].max(initial=-1) >= len(frequencies):
                raise ContextMismatchError(
                    f"context {context.fingerprint[:12]} counts token {context.frequencies[:, 0].max()}, but "
                    f"{self.config.name} knows tokens 0 to {len(frequencies) - 1}; fit a context with this model"
                )
            frequencies[context.frequencies[:, 0]] = context.frequencies[:, 1]
        reads = self.backend.reads_dataset_embeddings
        return Evidence(len(rows), context.vectors[rows % context.size] if reads else None, frequencies)

    def _count_terms(self, ids: Sequence[Ids]) -> NDArray[np.int64]:
        """Return token ids and in how many of the documents each occurs, (k, 2)."""
        counts = count_documents(ids, self.vocabulary_size)
        found = np.flatnonzero(counts)
        return np.stack([found, counts[found]], axis=1)

    def null_context(self) -> Context:
        """Return the context that stands for "no corpus"; setting it is a mode of its own, with a fingerprint.

        Raises:
            ContextError: for a model that has none, as v2 of the authors' own weights.
        """
        if self.config.null_context == "none":
            raise ContextError(
                f"{self.config.name} has no null context; fit it a context of any texts, for example the "
                "random_strings.txt of its repository"
            )
        reads = self.backend.reads_dataset_embeddings or self._head_settings is not None
        width = self.config.first_stage_width if reads else 0
        words = None if self._head_settings is None else CorpusWords.none(self._head_settings.language)
        return Context(vectors=np.zeros((0, width), np.float32), model=self.identity, words=words)

    def _check_model(self, context: Context) -> None:
        ours, theirs = self.identity, context.model
        for name in ("prompts", "max_length", "ordered", "sha256"):  # the hash covers the others, but says less
            mine, other = getattr(ours, name), getattr(theirs, name)
            if mine != other:
                bundled = f", which is bundled, by its name {theirs.name!r}" if theirs.name in bundled_names() else ""
                raise ContextMismatchError(
                    f"context {context.fingerprint[:12]} was made by model {theirs.name!r} with {name} {other!r}, "
                    f"this is {ours.name!r} with {name} {mine!r}; load that model{bundled}, or fit a context with this "
                    "one"
                )

    def _require_active(self) -> _Active:
        active = self._active
        if active is not None and self.backend.is_open:
            self._check_model(active.context)
        if active is None:
            raise ContextNotFittedError(
                "no context is set; call fit_context(documents), or set_context(Context.load(path)), or "
                "set_context(encoder.null_context()) to embed without a corpus"
            )
        return active

    # Texts to vectors

    @overload
    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        parts: Literal["one", "dense"] = "one",
        batch_size: int = DEFAULT_BATCH,
        show_progress: bool = False,
        on_truncation: Callable[[TruncationWarning], object] | None = None,
    ) -> Vectors: ...

    @overload
    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        parts: Literal["sparse", "both"],
        batch_size: int = DEFAULT_BATCH,
        show_progress: bool = False,
        on_truncation: Callable[[TruncationWarning], object] | None = None,
    ) -> Any: ...

    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        parts: str = "one",
        batch_size: int = DEFAULT_BATCH,
        show_progress: bool = False,
        on_truncation: Callable[[TruncationWarning], object] | None = None,
    ) -> "Vectors | csr_array[Any] | Parts":
        """Embed documents under the context in force.

        Args:
            texts: The documents, given to the model as they are.
            parts: ``"one"``: one vector that holds all the context knows, for any store. ``"both"``: `Parts` of a dense
                vector and an exact sparse one for hybrid search, whose inner products add up to the score;
                ``"dense"`` and ``"sparse"``: one of these. Other than ``"one"`` and ``"dense"`` needs a model with a
                corpus head; words are counted over the whole text, whatever the model reads.
            batch_size: Texts of 128 tokens through the model at once, of shorter ones more, of longer ones fewer; does
                not change the result beyond the model's precision.
            show_progress: Whether to show a progress bar on stderr.
            on_truncation: Called with what was cut, if any text was; None warns.

        Returns:
            Unit vectors, (n, d) float32, in input order; or a sparse array, (n, 2**32); or both.

        Raises:
            ContextNotFittedError: if no context is set.
            ConfigError: if the model has no such part.
            TypeError: if a text is not a string; names its index.
        """
        return self._encode(texts, "document", parts, batch_size, show_progress, on_truncation)

    @overload
    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        parts: Literal["one", "dense"] = "one",
        batch_size: int = DEFAULT_BATCH,
        show_progress: bool = False,
    ) -> Vectors: ...

    @overload
    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        parts: Literal["sparse", "both"],
        batch_size: int = DEFAULT_BATCH,
        show_progress: bool = False,
    ) -> Any: ...

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        parts: str = "one",
        batch_size: int = DEFAULT_BATCH,
        show_progress: bool = False,
    ) -> "Vectors | csr_array[Any] | Parts":
        """Embed queries under the context in force; otherwise as `encode_documents`.

        What words are worth beside meaning is in the query's sparse part, so that a store has but to add.

        Few queries at a time (at most `QUERIES_AT_ONCE`) run together with those of other threads that wait, so that
        many callers do not queue up one after the other; a vector does not depend on its company.
        """
        return self._encode(texts, "query", parts, batch_size, show_progress, None)

    def _encode(
        self,
        texts: Sequence[str],
        role: str,
        parts: str,
        batch_size: int,
        show_progress: bool,
        on_truncation: Callable[[TruncationWarning], object] | None,
    ) -> "Vectors | csr_array[Any] | Parts":
        active = self._require_active()
        check_parts(parts, active.head is not None, self.identity.name)
        if parts == "sparse":
            texts = check_texts(texts)
            dense = np.zeros((len(texts), 0), np.float32)  # words need no model
        else:
            dense = self._dense_of(active, texts, role, batch_size, show_progress, on_truncation)
        if active.head is None:
            return dense
        return (active.head.queries if role == "query" else active.head.documents)(dense, texts, parts)

    def _dense_of(
        self,
        active: _Active,
        texts: Sequence[str],
        role: str,
        batch_size: int,
        show_progress: bool,
        on_truncation: Callable[[TruncationWarning], object] | None,
    ) -> Vectors:
        """Return what `_dense` does of texts; of those that are kept without running the model."""
        kept = self._kept_plain(role)
        if kept is None:
            ids = self._tokenize(texts, role, batch_size, on_truncation, stacklevel=5)
            return self._dense(active, ids, role, batch_size, show_progress)
        texts = check_texts(texts)
        missing = kept.missing(texts)
        if missing or not texts:
            ids = self._tokenize(texts, role, batch_size, on_truncation, stacklevel=5)
            made = self._dense(active, [ids[row] for row in missing], role, batch_size, show_progress)
            kept.add([texts[row] for row in missing], made)
            if len(missing) == len(texts):
                return made
        return kept.of(texts)

    def _kept_plain(self, role: str) -> PlainDocuments | None:
        """Return the kept plain vectors of texts of a role; None if there are none, or the model may change."""
        return None if role == "query" or self.backend.is_open else self.plain_documents

    def _dense(self, active: _Active, ids: list[Ids], role: str, batch_size: int, show_progress: bool) -> Vectors:
        """Return what the backend makes of texts under a context; with a corpus head plain vectors."""
        windows = self._windows(ids, role)
        rows = ids if windows is None else windows.ids
        if role == "query" and 0 < len(rows) <= QUERIES_AT_ONCE:
            vectors = np.stack(self._queries(active, rows))
        else:
            vectors = self._run(
                rows, self._under(active, role), self.dense_dimension, batch_size, show_progress, role=role
            )
        return self._ready(vectors if windows is None else windows.join(vectors), role)

    def _ready(self, vectors: Vectors, role: str) -> Vectors:
        """Return vectors as they are compared: of a query without its length, if documents' lengths matter."""
        if role == "query" and self.config.keeps_lengths:
            vectors[:, -1] = 0
            vectors = unit(vectors)
        return vectors

    def _plain(self, ids: list[Ids], role: str, batch_size: int, show_progress: bool) -> Vectors:
        """Return vectors of a model with a corpus head, without any context."""
        backend = self._route(role)[0]
        nothing = backend.prepare(Evidence(0))

        def embed(input_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
            return backend.embed(input_ids, mask, nothing)

        windows = self._windows(ids, role)
        rows = ids if windows is None else windows.ids
        vectors = self._run(rows, embed, self.backend.dimension, batch_size, show_progress, role=role)
        return self._ready(vectors if windows is None else windows.join(vectors), role)

    def encode_under(
        self,
        texts: Sequence[str],
        role: str,
        contexts: Sequence[Context],
        *,
        batch_size: int = DEFAULT_BATCH,
        show_progress: bool = False,
    ) -> list[Vectors]:
        """Embed the same texts under many contexts, for the price of one where the layout allows it.

        Under `late` the backbone does not see the context, so it runs once. The encoder keeps the context it has.

        Args:
            texts: The texts.
            role: ``"query"`` or ``"document"``.
            contexts: Contexts of this model.
            batch_size: As for `encode_documents`.
            show_progress: Whether to show a progress bar on stderr.

        Returns:
            Unit vectors, (n, d) float32, one array a context.

        Raises:
            ContextMismatchError: if another model made one of the contexts.
            TypeError: if a text is not a string; names its index.
        """
        ids = self._tokenize(texts, role, batch_size)
        if self._head_settings is not None:
            plain = self._plain(ids, role, batch_size, show_progress and len(contexts) > 0)
            heads = [self._activate(context).head for context in contexts]
            made = [
                (head.queries if role == "query" else head.documents)(plain, texts, "one") for head in heads if head
            ]
            return cast("list[Vectors]", made)
        output = [np.zeros((len(ids), self.dimension), np.float32) for _ in contexts]
        with self._lock:
            states = [self._activate(context).state for context in contexts]
            for rows, input_ids, mask in self._batches(ids, role, batch_size, show_progress and bool(states)):
                for vectors, part in zip(output, self.backend.embed_under(input_ids, mask, states), strict=True):
                    vectors[rows] = self._shortened(part)
        return output

    def _under(self, active: _Active, role: str) -> Embed:
        backend = self._route(role)[0]

        def embed(input_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
            return self._shortened(backend.embed(input_ids, mask, active.state))

        return embed

    def _shortened(self, vectors: Vectors) -> Vectors:
        if self.truncate_dim is None or self._head_settings is not None:
            return vectors
        return shorten(vectors, self.truncate_dim, self.config.sketch_width)

    def _embed_queries(self, active: Hashable, ids: list[Ids]) -> list[NDArray[np.float32]]:
        assert isinstance(active, _Active)
        return list(
            self._run(ids, self._under(active, "query"), self.dense_dimension, DEFAULT_BATCH, False, role="query")
        )
