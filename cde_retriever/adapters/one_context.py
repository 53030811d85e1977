"""Keep an encoder under the first context it gets, for life.

Frameworks share embeddings between indexes and stores, so a second context would leave one of them with queries under
a context its documents never saw. What has to change is made anew; the weights are shared, so that costs little.
"""

from collections.abc import Iterable
from typing import Any

from cde_retriever.adapters.stamps import DENSE, stamp_of
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.context.making import make_context
from cde_retriever.context.sampling import Sample
from cde_retriever.encoder.dimensions import full_dimension
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.shared_weights import shared_encoder
from cde_retriever.errors import ContextMismatchError
from cde_retriever.files.forking import ThreadLock

MODEL_SETTINGS = tuple(ModelSpec().arguments())
"""Fields of both adapters' embeddings that say, beside a name, which model they hold; as `ModelSpec.of` takes them."""


class OneContext:
    """The one context of an embedding, and the encoder that embeds under it.

    Safe to use from several threads: of several first contexts one is taken, and the others are compared with it.

    Args:
        encoder: An encoder of its own (`ContextualEncoder.fork`), without a context.
        owner: Name of the class that holds it, for messages.

    Attributes:
        expected: Fingerprint of the only context that it takes; None if the first may be any.
    """

    def __init__(self, encoder: ContextualEncoder, owner: str) -> None:
        self.encoder = encoder
        self.owner = owner
        self._lock = ThreadLock()
        self.expected: str | None = None
        self._known: tuple[Context, str] | None = None

    @classmethod
    def of_settings(cls, name: str | None, settings: object, maker: str | None = None) -> "OneContext":
        """Return what an embedding holds: an encoder of its own over shared weights, without a context.

        Args:
            name: The model; None for the bundled one.
            settings: The embedding, with the fields of `MODEL_SETTINGS`.
            maker: Name of the model that made the context it will get; None if it has none yet.

        Raises:
            CheckpointError: if there is no such model.
            ConfigError: for settings that the model does not have.
        """
        spec = ModelSpec.of(name, **{field: getattr(settings, field) for field in MODEL_SETTINGS})
        return cls(shared_encoder(spec.for_stored(maker)), type(settings).__name__)

    @property
    def is_set(self) -> bool:
        """Whether there is a context."""
        return self.encoder.has_context

    @property
    def context(self) -> Context:
        """The context.

        Raises:
            ContextNotFittedError: if there is none yet.
        """
        return self.encoder.context

    @property
    def fingerprint(self) -> str:
        """The context's fingerprint; raises as `context` does."""
        context = self.context
        if self._known is None or self._known[0] is not context:  # hashing takes a part of what a query takes
            self._known = (context, context.fingerprint)
        return self._known[1]

    @property
    def stamp(self) -> str:
        """What is stored with every vector (`cde_retriever.adapters.stamps`); raises as `context` does."""
        kept = self.encoder.dimension
        return stamp_of(self.fingerprint, None if kept == full_dimension(self.encoder.backend) else kept)

    @property
    def dense_stamp(self) -> str:
        """What is stored with the dense part of texts in two parts; raises as `context` does."""
        return stamp_of(self.fingerprint, DENSE)

    def fit(
        self, texts: Iterable[str], *, language: str | None = None, show_progress: bool = False, **chosen: Any
    ) -> Context:
        """Sample the whole corpus and embed under that sample from now on.

        Arguments are those of `ContextualEncoder.fit_context`; `chosen` are those of `choose_documents`.

        Raises:
            ContextMismatchError: if there is a context already and this corpus gives another; nothing is embedded to
                find out, unless the selection compares vectors.
            ContextError: if no text has any content.
            TypeError: if an item is not a string; names its index.
        """
        with self._lock:
            if self.is_set or self.expected is not None:
                texts = texts if self.is_set else list(texts)  # read once to compare, once to fit
                sample = self.encoder.choose_documents(texts, **chosen).sample
                self._require(self._fingerprint_for(sample, language))
            if not self.is_set:
                self.encoder.fit_context(texts, language=language, show_progress=show_progress, **chosen)
            return self.context

    def set(self, context: Context) -> None:
        """Embed under this context from now on.

        Raises:
            ContextMismatchError: if there is another context already, or another model made this one.
        """
        with self._lock:
            self._require(context.fingerprint)
            if not self.is_set:
                self.encoder.set_context(context)

    def set_null(self) -> None:
        """Embed without a corpus from now on; raises as `set` does."""
        self.set(self.encoder.null_context())

    def to_bytes(self) -> bytes | None:
        """Return the context as `Context.from_bytes` reads it, None if there is none: what a pickled copy carries."""
        return self.context.to_bytes() if self.is_set else None

    def _fingerprint_for(self, sample: Sample, language: str | None) -> str:
        """Return the fingerprint that a context of these documents has; it does not depend on the vectors."""
        words = self.encoder.count_words(sample.texts, language)
        return make_context(sample, None, self.encoder.identity, words=words).fingerprint

    def _require(self, fingerprint: str) -> None:
        own = self.fingerprint if self.is_set else self.expected
        if own is not None and fingerprint != own:
            raise ContextMismatchError(
                f"this {self.owner} has context {own[:12]} for life and was given {fingerprint[:12]}: an "
                f"index or store may depend on the first; make a new {self.owner} for the other corpus, and a new "
                "index or store for its vectors"
            )
