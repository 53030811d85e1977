"""Embed texts under a context: `ContextualEncoder`, which has everything that a framework adapter needs."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.context import Context
from cde_retriever.context.knowledge import Parts
from cde_retriever.context.whole_numbers import whole_number
from cde_retriever.encoder.active_context import ActiveContext, activate
from cde_retriever.encoder.copies import reopening
from cde_retriever.encoder.corpus_head import check_chunks, check_parts
from cde_retriever.encoder.dimensions import shorten
from cde_retriever.encoder.model_with_context import ModelWithContext
from cde_retriever.encoder.options import DocumentOptions, QueryOptions
from cde_retriever.encoder.shared_queries import SharedBatches
from cde_retriever.encoder.text_runner import DEFAULT_BATCH, Ids, OnTruncation, TextRun, Vectors
from cde_retriever.encoder.tokens import check_texts

if TYPE_CHECKING:  # a server of queries runs without PyTorch
    from scipy.sparse import csr_array


QUERIES_AT_ONCE = 64
"""Most queries of several callers that run as one batch."""


class ContextualEncoder(ModelWithContext):
    """Embed documents and queries given a context.

    Safe to use from several threads: each call works under one context throughout, and queries that several threads
    ask for at once run as one batch. Safe in spawned and forked children as well; in a forked one PyTorch computes on
    one thread, and an export's graphs are opened again. A pickled copy loads the model from the same place.

    Arguments and errors of the constructor are those of `LoadedModel`; use `from_pretrained`.
    """

    _origin: "ContextualEncoder | None" = None

    @cached_property
    def _queries(self) -> SharedBatches[Ids, NDArray[np.float32]]:
        return SharedBatches(self._embed_queries, QUERIES_AT_ONCE)

    def __repr__(self) -> str:
        """Name the model, what its vectors and texts are like, where it runs, and the context."""
        context = repr(self._active.context) if self._active else "no context"
        return (
            f"ContextualEncoder({self.config.name}, {self.dimension} numbers, texts up to {self.config.max_length} "
            f"tokens, {self.device}, {context})"
        )

    def fork(self, *, truncate_dim: int | None = None) -> "ContextualEncoder":
        """Return an encoder over the same weights, without a context yet; one batch at a time runs over all forks.

        Args:
            truncate_dim: The fork's; None for the original's.
        """
        size = self.truncate_dim if truncate_dim is None else truncate_dim
        twin = type(self)(self.backend, self._tokenizer, self._identity, self._query_route, truncate_dim=size)
        twin._runner, twin.plain_documents, twin.spec = self._runner, self.plain_documents, self.spec
        twin._origin = self  # lives as long as its forks, so that `sharing` finds it
        return twin

    def __copy__(self) -> "ContextualEncoder":
        """Return an encoder over the same weights, under the same context."""
        twin = self.fork()
        twin._active, twin._sampled = self._active, self._sampled
        return twin

    def __deepcopy__(self, _: object) -> "ContextualEncoder":
        """Return the same: weights do not change, and a context is replaced as a whole."""
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what a pickled copy is made with: it loads the model anew, where this one was loaded."""
        return reopening(self)

    def without_context(self) -> "ContextualEncoder":
        """Return a fork under the null context; of a model with a corpus head its dense parts are plain vectors."""
        twin = self.fork()
        twin.set_context(twin.null_context())
        return twin

    @overload
    def encode_documents(
        self, texts: Sequence[str], *, parts: Literal["one", "dense"] = "one", **options: Unpack[DocumentOptions]
    ) -> Vectors: ...

    @overload
    def encode_documents(self, texts: Sequence[str], *, parts: str, **options: Unpack[DocumentOptions]) -> Any: ...

    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        parts: str = "one",
        batch_size: int = DEFAULT_BATCH,
        show_progress: bool = False,
        on_truncation: OnTruncation | None = None,
        chunks_of: Sequence[Hashable] | None = None,
    ) -> "Vectors | csr_array[Any] | Parts":
        """Embed documents under the context in force.

        Args:
            texts: The documents, given to the model as they are.
            parts: ``"one"``: one vector for any store: the dense part and a projection of the words, or what another
                form makes of them. ``"both"``: `Parts` of a dense vector and an exact sparse one for hybrid search,
                whose inner products add up to the score; ``"dense"`` and ``"sparse"``: one of these. Other than
                ``"one"`` and ``"dense"`` needs a model with a corpus head; words are counted over the whole text,
                whatever the model reads.
            batch_size: Texts of 128 tokens through the model at once, of shorter ones more, of longer ones fewer; does
                not change the result beyond the model's precision.
            show_progress: Whether to show a progress bar on stderr.
            on_truncation: Called with what was cut, if any text was; None warns.
            chunks_of: For each text what it is a chunk of, such as a document's id, None for nothing: chunks of one
                thing are neighbours of each other, in place of context documents, so embed them together
                (docs/hybrid.md). Needs a model with a corpus head.

        Returns:
            Unit vectors, (n, d) float32, in input order; or a sparse array, (n, 2**32); or both.

        Raises:
            ContextNotFittedError: if no context is set.
            ConfigError: if the model has no such part, takes no chunks, or is cut by `truncate_dim`, which a dense part
                cannot be, or `chunks_of` names more or fewer than there are texts.
            TypeError: if a text is not a string, or `chunks_of` is one; names its index.
        """
        if chunks_of is not None:
            texts = check_texts(texts)
            chunks_of = check_chunks(chunks_of, len(texts), self.head_settings, self.identity.name)
        how = TextRun.of("document", batch_size, show_progress)
        return self._encode(texts, how, parts, on_truncation, chunks_of)

    @overload
    def encode_queries(
        self, texts: Sequence[str], *, parts: Literal["one", "dense"] = "one", **options: Unpack[QueryOptions]
    ) -> Vectors: ...

    @overload
    def encode_queries(self, texts: Sequence[str], *, parts: str, **options: Unpack[QueryOptions]) -> Any: ...

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
        return self._encode(texts, TextRun.of("query", batch_size, show_progress), parts)

    def embed(self, documents: str | Iterable[str], batch_size: int = 256) -> Iterator[NDArray[np.float32]]:
        """Yield vectors, (d,) float32, of documents that come one by one, under the context of now; fastembed's call.

        Args:
            documents: The documents; one string is one document.
            batch_size: How many to read before they are embedded.

        Raises:
            ContextNotFittedError: if no context is set, at once; otherwise as `encode_documents`, on the way.
        """
        return self._stream(documents, batch_size, "document")

    def query_embed(self, query: str | Iterable[str], batch_size: int = 256) -> Iterator[NDArray[np.float32]]:
        """Yield vectors of queries; otherwise as `embed`."""
        return self._stream(query, batch_size, "query")

    def _stream(self, texts: str | Iterable[str], size: int, role: str) -> Iterator[NDArray[np.float32]]:
        whole_number("batch_size", size, 1)
        fixed = self.fork()
        fixed._active = self._require_active()
        pieces = iter([texts] if isinstance(texts, str) else texts)
        chunks = iter(lambda: list(islice(pieces, size)), [])
        encode = fixed.encode_queries if role == "query" else fixed.encode_documents
        return (vector for chunk in chunks for vector in encode(chunk))

    def _encode(
        self,
        texts: Sequence[str],
        how: TextRun,
        parts: str,
        on_truncation: OnTruncation | None = None,
        chunks_of: Sequence[Hashable] | None = None,
    ) -> "Vectors | csr_array[Any] | Parts":
        active = self._require_active()
        check_parts(parts, active.head is not None, self.identity.name, self.truncate_dim)
        if parts == "sparse" or not isinstance(texts, Sequence):  # such as a generator, which is read once
            texts = check_texts(texts)
        dense = np.zeros((len(texts), 0), np.float32)  # words need no model
        if parts != "sparse":
            dense = self._dense_of(active, texts, how, on_truncation)
        return active.join(dense, texts, how.role, parts, chunks_of)

    def _dense_of(
        self, active: ActiveContext, texts: Sequence[str], how: TextRun, on_truncation: OnTruncation | None
    ) -> Vectors:
        """Return what `_dense` does of texts; of those whose plain vectors are there without running the model."""
        kept = self._kept_plain(how.role)
        if kept is None:
            return self._dense(active, self._runner.tokenize(texts, how.role, on_truncation, stacklevel=5), how)
        texts = check_texts(texts)
        missing = kept.missing(texts)
        # Nobody was told what is cut of a sample's texts.
        untold = how.role == "document" and (self._sampled is not None or kept is not self.plain_documents)
        if missing or not texts or untold:
            ids = self._runner.tokenize(texts, how.role, on_truncation, stacklevel=5)
        if missing or not texts:
            made = self._dense(active, [ids[row] for row in missing], how)
            kept.add([texts[row] for row in missing], made)
            if len(missing) == len(texts):
                return made
        return kept.of(texts)

    def _dense(self, active: ActiveContext, ids: list[Ids], how: TextRun) -> Vectors:
        """Return what the backend makes of texts under a context; with a corpus head plain vectors."""

        def run(rows: list[Ids]) -> Vectors:
            if how.role == "query" and 0 < len(rows) <= QUERIES_AT_ONCE:
                return np.stack(self._queries(active, rows))
            return self._run_under(active, rows, how)

        return self._runner.compared(ids, how.role, run)

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
        texts, contexts = check_texts(texts), list(contexts)
        how = TextRun.of(role, batch_size, show_progress and len(contexts) > 0)
        if self.head_settings is not None:
            actives = [activate(self, context) for context in contexts]
            if not actives:
                return []
            plain = self._dense_of(actives[0], texts, how, None)  # the same under all
            return cast("list[Vectors]", [active.join(plain, texts, role, "one") for active in actives])
        ids = self._runner.tokenize(texts, role)
        output = [np.zeros((len(ids), self.dimension), np.float32) for _ in contexts]
        with self._runner.lock:
            states = [activate(self, context).state for context in contexts]
            for rows, input_ids, mask in self._runner.batches(ids, how):
                for vectors, part in zip(output, self.backend.embed_under(input_ids, mask, states), strict=True):
                    vectors[rows] = self._shortened(part)
        return output

    def _run_under(self, active: ActiveContext, ids: list[Ids], how: TextRun) -> Vectors:
        backend = self._runner.route(how.role)[0]

        def embed(input_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
            return self._shortened(backend.embed(input_ids, mask, active.state))

        return self._runner.run(ids, how, embed, self.dense_dimension)

    def _shortened(self, vectors: Vectors) -> Vectors:
        if self.truncate_dim is None or self.head_settings is not None:
            return vectors
        return shorten(vectors, self.truncate_dim, self.config.sketch_width)

    def _embed_queries(self, active: Hashable, ids: list[Ids]) -> list[NDArray[np.float32]]:
        assert isinstance(active, ActiveContext)
        return list(self._run_under(active, ids, TextRun("query")))
