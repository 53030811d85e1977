"""Fit, set and keep the context of a model: `ModelWithContext`."""

from collections.abc import Iterable, Sequence

import numpy as np

from cde_retriever.context.context import Context
from cde_retriever.context.drift import Reference
from cde_retriever.context.making import listed_context, make_context
from cde_retriever.context.sampling import Choice, Sample, checked_documents
from cde_retriever.context.selection import Chosen, choose
from cde_retriever.context.whole_numbers import whole_number
from cde_retriever.encoder.active_context import ActiveContext, activate, refuse_foreign_context
from cde_retriever.encoder.loaded_model import LoadedModel
from cde_retriever.encoder.one_pass import shared_plain
from cde_retriever.encoder.plain_documents import PlainDocuments
from cde_retriever.encoder.text_runner import DEFAULT_BATCH, Ids, TextRun, Vectors
from cde_retriever.encoder.tokens import count_documents
from cde_retriever.errors import ConfigError, ContextError, ContextNotFittedError
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import WordReader, reader


class ModelWithContext(LoadedModel):
    """A loaded model and the context that it embeds under; arguments and errors are those of `LoadedModel`."""

    _active: ActiveContext | None = None
    plain_documents: PlainDocuments | None = None
    _sampled: PlainDocuments | None = None  # the documents that the context was fitted on, embedded for that

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
        selection: str = "random",
        kinds: Iterable[str] | None = None,
        kind_field: str | None = None,
        store_texts: bool = True,
        language: str | None = None,
        batch_size: int = DEFAULT_BATCH,
        show_progress: bool = False,
    ) -> Context:
        """Sample a corpus, look at the sample as the model does, and set the result as context.

        The first stage embeds the sample where the second reads its vectors. One pass; memory grows with the context.

        Args:
            documents: The corpus, as texts; any iterable.
            seed: Seed of the sample.
            context_size: Most context documents; None for the model's own number.
            selection: How they are chosen: ``"random"``, ``"stratified"``, ``"kmeans"`` or ``"k-center"``
                (`cde_retriever.context.selection`); the last two embed four times as many documents.
            kinds: For each document its kind, for ``"stratified"`` alone; any iterable.
            kind_field: Metadata field that they are taken from, which the context keeps for who refits.
            store_texts: Whether the context keeps the sampled texts, or only their hashes.
            language: Whose stemmer words go through, for a model with a corpus head, such as ``"german"``; ``"none"``
                for no stemmer, None for the model's own language.
            batch_size: Texts of 128 tokens through the model at once, of shorter ones more; does not change the result.
            show_progress: Whether to show a progress bar on stderr.

        Raises:
            TypeError: if an item is not a string; names its index.
            ContextError: if no document has any text.
            ConfigError: if a number is out of range, for a language without a stemmer, or for any language if the model
                has no corpus head; for a selection that is unknown, lacks kinds, or compares vectors where a context
                of the model has none.
        """
        self._word_reader(language)  # refuses a language before documents are read
        chosen = self.choose_documents(
            documents,
            seed=seed,
            context_size=context_size,
            selection=selection,
            kinds=kinds,
            kind_field=kind_field,
            batch_size=batch_size,
            show_progress=show_progress,
        )
        how = TextRun.of("document", batch_size, show_progress, "the context")
        return self._set_context_of(chosen, language, store_texts, how)

    def choose_documents(
        self,
        documents: Iterable[str],
        *,
        seed: int = 0,
        context_size: int | None = None,
        selection: str = "random",
        kinds: Iterable[str] | None = None,
        kind_field: str | None = None,
        batch_size: int = DEFAULT_BATCH,
        show_progress: bool = False,
    ) -> Chosen:
        """Return the documents that `fit_context` would make a context of; args, and errors, are of that."""
        size = self.config.context_size if context_size is None else whole_number("context_size", context_size, 1)
        how = TextRun.of("document", batch_size, show_progress, "the context")
        if size > (self._exact_size or size):
            raise ConfigError(
                f"context_size is {size}, but {self.config.name} reads {self.config.context_size} context "
                "documents, no more; leave context_size out"
            )

        def embed(texts: Sequence[str]) -> Vectors:
            vectors = self._vectors_of(texts, self.tokenize(texts).ids, how)
            if vectors is None:
                raise ConfigError(
                    f"selection is {selection!r}, which compares vectors, and a context of {self.config.name} has "
                    "none; take 'random' or 'stratified'"
                )
            return vectors

        return choose(documents, Choice(seed, size, selection, kind_field), kinds, embed)

    def drift_reference(self) -> Reference:
        """Return what documents that this encoder embeds are compared with, by their dense parts; see `Context.drift`.

        Raises:
            ContextNotFittedError: if no context was set.
            ContextError: if there is nothing to compare with: the null context, or a model without a corpus head.
        """
        context, head = self.context, self._require_active().head
        return context.reference(None if head is None else head.context_documents)

    def list_context(self, documents: Sequence[str], *, store_texts: bool = True) -> Context:
        """Set a context of given documents, in the order given, and return it; nothing is drawn.

        Args:
            documents: The context documents; a model that reads exactly J of them repeats fewer.
            store_texts: Whether the context keeps the texts, or only their hashes.

        Raises:
            TypeError: if an item is not a string; names its index.
            ContextError: if there are none, or more than the model reads.
        """
        texts = tuple(checked_documents(documents))
        self._refuse_size(len(texts))
        chosen = Chosen(Sample(texts, len(texts), Choice(seed=0)), None)
        return self._set_context_of(chosen, None, store_texts, TextRun("document"))

    def _set_context_of(self, chosen: Chosen, language: str | None, store_texts: bool, how: TextRun) -> Context:
        sample, vectors = chosen
        ids = self.tokenize(sample.texts).ids  # nobody is warned: a context document is meant to be cut
        frequencies = None
        if self.config.term_statistics:
            counts = count_documents(ids, self.vocabulary_size)
            frequencies = np.stack([np.flatnonzero(counts), counts[counts > 0]], axis=1)
        context = make_context(
            sample,
            self._vectors_of(sample.texts, ids, how) if vectors is None else vectors,
            self.identity,
            store_texts=store_texts,
            needs=self._exact_size,
            frequencies=frequencies,
            words=self.count_words(sample.texts, language),
        )
        with self._runner.lock:
            active = activate(self, context, keep_topics=True)
            self._active, self._sampled = active, None
        self.take_sample()
        return active.context

    def take_sample(self) -> None:
        """Take plain vectors of the context's documents from the context, instead of running the model over them again.

        Only for a context that this model made in this precision. Nothing happens without a corpus head.
        """
        if self.head_settings is not None:
            context, sampled = self.context, PlainDocuments()
            sampled.add_hashed(context.text_hashes, context.vectors)
            self._sampled = sampled

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
        self.set_context(listed_context(vectors, self.identity, self._exact_size))
        return self.context

    @property
    def _exact_size(self) -> int | None:
        """How many context documents the model reads, no fewer; None for any number."""
        return None if self.config.positions == "text" else self.config.context_size

    def _refuse_size(self, documents: int) -> None:
        most = self.config.context_size
        if not 1 <= documents <= most:
            raise ContextError(f"{self.config.name} reads 1 to {most} context documents, received {documents}")

    def _vectors_of(self, texts: Sequence[str], ids: list[Ids], how: TextRun) -> Vectors | None:
        """Return what a context keeps of its documents' vectors; None for nothing."""
        kept = self._kept_plain("document")
        if kept is not None and not kept.missing(texts):
            return kept.of(texts)
        reads = self.head_settings is not None or self.backend.reads_dataset_embeddings
        return self._first_stage(ids, how) if reads else None

    def keep_plain(self, kept: PlainDocuments | None = None) -> None:
        """Keep plain vectors of documents from now on, and take those that are kept instead of running the model.

        Args:
            kept: Vectors of documents embedded before; None for none.

        Raises:
            ConfigError: for a model without a corpus head, where vectors depend on the context in the model itself.
        """
        if self.head_settings is None:
            raise ConfigError(
                f"model {self.identity.name!r} has no corpus head: another context changes what the model computes, so "
                "plain vectors would be of no use; leave keep_plain out"
            )
        self.plain_documents = self.plain_documents or PlainDocuments()
        self.plain_documents.update(kept or PlainDocuments())

    def _kept_plain(self, role: str) -> PlainDocuments | None:
        """Return the plain vectors of a role's texts that are there; None if none are, or the model may change."""
        if self.backend.is_open or self.head_settings is None:
            return None
        if role == "document" and self.plain_documents is not None:
            self.plain_documents.update(self._sampled or PlainDocuments())
            return self.plain_documents
        shared = shared_plain(self.identity, role)
        if shared is not None or role == "query":
            return shared
        return self._sampled and self._sampled.copy()

    def count_words(
        self, texts: Sequence[str], language: str | None, *, whole: bool | None = None
    ) -> CorpusWords | None:
        """Return what a context keeps of its documents' words, as `fit_context` reads them; None without a head.

        `whole` is whether it keeps all that exact words are weighed by; None for what the head needs.
        """
        words, head = self._word_reader(language), self.head_settings
        if words is None or head is None:
            return None
        counts = words.read(texts, "document", pairs=head.pair_weight > 0)
        return CorpusWords.of(words.language, counts, whole=head.query_noise > 0 if whole is None else whole)

    def _word_reader(self, language: str | None) -> WordReader | None:
        if self.head_settings is None:
            if language is not None:
                raise ConfigError(
                    f"language is {language!r}, but model {self.identity.name!r} has no corpus head, which reads "
                    "words; leave it out"
                )
            return None
        if not isinstance(language, str | None):
            raise TypeError(f"language must be a name such as 'german', received {language!r:.80}")
        return reader(self.head_settings.language if language is None else language)

    def set_context(self, context: Context) -> None:
        """Embed under this context from now on.

        Raises:
            TypeError: if it is not a `Context`.
            ContextMismatchError: if another model made it; names both.
        """
        with self._runner.lock:
            self._active, self._sampled = activate(self, context), None

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
        width = self.config.first_stage_width if self.head_settings or self.backend.reads_dataset_embeddings else 0
        words = None if self.head_settings is None else CorpusWords.none(self.head_settings.language)
        return Context(vectors=np.zeros((0, width), np.float32), model=self.identity, words=words)

    def _require_active(self) -> ActiveContext:
        active = self._active
        if active is None:
            raise ContextNotFittedError(
                "no context is set; call fit_context(documents), or set_context(Context.load(path)), or "
                "set_context(encoder.null_context()) to embed without a corpus"
            )
        if self.backend.is_open:
            refuse_foreign_context(self, active.context)
        return active
