"""`CDEEmbeddingFunction`: a contextual encoder as a Chroma embedding function.

Chroma keeps a function's name and settings with a collection, and refuses one of another name when the collection is
opened; it compares nothing else. So the stamp of the vectors is part of the name.
"""

from collections.abc import Iterable
from typing import Any, Self, cast

from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import known_embedding_functions

from cde_retriever.adapters.kept_context import STAMP_KEY, KeptContext, PathLike, fit_and_save
from cde_retriever.context.context import Context

NAME = "cde"


class CDEEmbeddingFunction(EmbeddingFunction[Documents]):
    """Contextual document embeddings for a Chroma collection, under a saved context.

    Args:
        context: Where the context is saved (`fit`, `Context.save`).
        model_name: A CDE checkpoint or any encoder, as folder or Hub id; None for the bundled one.
        settings: ``device``, ``dtype``, ``backend``, ``truncate_dim`` and others of
            `ContextualEncoder.from_pretrained`.

    Raises:
        FileNotFoundError: if there is no context at the path.
        ContextMismatchError: if another model made it.
    """

    def __init__(self, context: PathLike, model_name: PathLike | None = None, **settings: Any) -> None:
        self._own = KeptContext(type(self).__name__, context, model_name, settings)
        name = f"{NAME}-{self._own.stamp}"
        self.name = lambda: name  # type: ignore[method-assign]  # a static method of the class, to Chroma
        known_embedding_functions[name] = type(self)

    @classmethod
    def fit(
        cls,
        documents: Iterable[str],
        context: PathLike,
        model_name: PathLike | None = None,
        *,
        seed: int = 0,
        context_size: int | None = None,
        language: str | None = None,
        **settings: Any,
    ) -> Self:
        """Sample a whole corpus, save the context and return the function under it.

        Args:
            documents: The corpus; any iterable.
            context: Where the context goes: a ``.safetensors`` file or a folder.
            model_name: As for the constructor.
            seed: Seed of the sample.
            context_size: Most context documents; None for the model's own number.
            language: Whose words are counted; None for the model's own language.
            settings: As for the constructor.

        Raises:
            ContextError: if no document has any text.
            ContextMismatchError: if another context is already there.
        """
        fit_and_save(documents, context, model_name, settings, seed=seed, context_size=context_size, language=language)
        return cls(context, model_name, **settings)

    @property
    def context(self) -> Context:
        """The context."""
        return self._own.context

    @property
    def stamp(self) -> str:
        """What the vectors are made under: the context's fingerprint and, if they were cut, how many numbers."""
        return self._own.stamp

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002 - Chroma calls it by name
        """Embed documents."""
        return cast("Embeddings", list(self._own.encoder.encode_documents(input)))

    def embed_query(self, input: Documents) -> Embeddings:  # noqa: A002
        """Embed queries."""
        return cast("Embeddings", list(self._own.encoder.encode_queries(input)))

    @staticmethod
    def name() -> str:
        """Return the class's name in Chroma; that of a function ends in its stamp."""
        return NAME

    def default_space(self) -> Space:
        """Return how vectors are compared, which all have length 1."""
        return "cosine"

    def is_legacy(self) -> bool:
        """Return False; Chroma would make the function anew to find out."""
        return False

    def get_config(self) -> dict[str, Any]:
        """Return what Chroma stores with a collection: where model and context are, and the stamp."""
        return self._own.settings()

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "CDEEmbeddingFunction":
        """Make the function that `get_config` describes.

        Raises:
            ContextMismatchError: if the context at its path is another by now.
        """
        settings = dict(config)
        stamp = settings.pop(STAMP_KEY)
        made = CDEEmbeddingFunction(**settings)
        made._own.require(stamp)
        return made
