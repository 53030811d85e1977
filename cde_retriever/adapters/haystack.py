"""`CDETextEmbedder`, `CDEDocumentEmbedder` and `CDEContextGuard`: a contextual encoder as components of Haystack.

Haystack writes pipelines down as YAML and makes them anew. The YAML names the context by its path and by the stamp of
the vectors made under it, so what is loaded embeds as before or not at all.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Self

from haystack import Document, component, default_from_dict, default_to_dict

from cde_retriever.adapters.kept_context import STAMP_KEY, KeptContext, PathLike, fit_and_save
from cde_retriever.adapters.stamps import STAMP, check_stamp

DOOR = "cde_retriever.haystack"
"""Where pipelines that were written down look for the components."""


class _Embedder:
    """A model and a context, which `warm_up` loads; arguments are those of `CDEDocumentEmbedder`."""

    def __init__(
        self,
        context: PathLike,
        model_name: PathLike | None = None,
        stamp: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.context, self.model_name, self.stamp, self.settings = context, model_name, stamp, settings or {}
        self._own: KeptContext | None = None

    def warm_up(self) -> None:
        """Load model and context, once.

        Raises:
            FileNotFoundError: if there is no context at the path.
            ContextMismatchError: if another model made it, or its vectors have another stamp than was written down.
        """
        if self._own is None:
            own = KeptContext(type(self).__name__, self.context, self.model_name, self.settings)
            own.require(self.stamp)
            self._own = own

    def _loaded(self) -> KeptContext:
        self.warm_up()
        assert self._own is not None
        return self._own

    def _written(self) -> dict[str, Any]:
        """Return the arguments that make an embedder of the same vectors."""
        settings = self._loaded().settings()
        named = {name: settings.pop(name) for name in ("context", "model_name", STAMP_KEY)}
        return {**named, "settings": settings}

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` makes the same component of; raises as `warm_up` does."""
        return default_to_dict(self, **self._written())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make the component that `to_dict` describes."""
        return default_from_dict(cls, data)


@component
class CDETextEmbedder(_Embedder):
    """Embed a query under a saved context; arguments are those of `CDEDocumentEmbedder`, as far as it has them."""

    __module__ = DOOR

    @component.output_types(embedding=list[float], stamp=str)
    def run(self, text: str) -> dict[str, Any]:
        """Embed a query.

        Args:
            text: The query.

        Returns:
            ``embedding``; ``stamp``: what it was made under, for a `CDEContextGuard`.

        Raises:
            TypeError: if it is no string.
        """
        own = self._loaded()
        return {"embedding": own.encoder.encode_queries([text])[0].tolist(), "stamp": own.stamp}

    @component.output_types(embedding=list[float], stamp=str)
    async def run_async(self, text: str) -> dict[str, Any]:
        """Do the same in a thread."""
        return await asyncio.to_thread(self.run, text)


@component
class CDEDocumentEmbedder(_Embedder):
    """Embed documents under a saved context, and stamp them.

    Args:
        context: Where the context is saved (`fit`, `Context.save`).
        model_name: A CDE checkpoint or any encoder, as folder or Hub id; None for the bundled one.
        stamp: The stamp of vectors made under the context, as `to_dict` writes it down; None for that of any.
        settings: ``device``, ``dtype``, ``backend``, ``truncate_dim`` and others of
            `ContextualEncoder.from_pretrained`.
        meta_fields_to_embed: Fields of a document's ``meta`` put before its content.
        embedding_separator: What stands between them.
        batch_size: Texts of 128 tokens through the model at once; does not change the result.
        progress_bar: Whether to show a progress bar on stderr.
    """

    __module__ = DOOR

    def __init__(
        self,
        context: PathLike,
        model_name: PathLike | None = None,
        stamp: str | None = None,
        settings: dict[str, Any] | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        batch_size: int = 32,
        progress_bar: bool = False,
    ) -> None:
        # Without `super`: `component` makes a class anew.
        _Embedder.__init__(self, context, model_name, stamp, settings)
        self.meta_fields_to_embed, self.embedding_separator = meta_fields_to_embed or [], embedding_separator
        self.batch_size, self.progress_bar = batch_size, progress_bar

    def _written(self) -> dict[str, Any]:
        own = ("meta_fields_to_embed", "embedding_separator", "batch_size", "progress_bar")
        return _Embedder._written(self) | {name: getattr(self, name) for name in own}

    def fit(
        self,
        documents: Iterable[Document],
        *,
        seed: int = 0,
        context_size: int | None = None,
        language: str | None = None,
    ) -> None:
        """Sample a whole corpus, with the fields that are embedded, and save the context where this embedder reads it.

        Args:
            documents: The corpus; any iterable.
            seed: Seed of the sample.
            context_size: Most context documents; None for the model's own number.
            language: Whose words are counted; None for the model's own language.

        Raises:
            ContextError: if no document has any text.
            ContextMismatchError: if another context is already there.
        """
        fit_and_save(
            map(self._text, documents),
            self.context,
            self.model_name,
            self.settings,
            seed=seed,
            context_size=context_size,
            language=language,
        )

    def _text(self, document: Document) -> str:
        """Return what is embedded of a document."""
        fields = (document.meta.get(name) for name in self.meta_fields_to_embed)
        return self.embedding_separator.join([*(str(f) for f in fields if f is not None), document.content or ""])

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embed documents.

        Args:
            documents: The documents.

        Returns:
            ``documents``: copies with their embedding, and its stamp in ``meta["cde_context"]``.

        Raises:
            TypeError: if one is no `Document`.
        """
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise TypeError("CDEDocumentEmbedder takes a list of Documents; for a query use CDETextEmbedder")
        own = self._loaded()
        vectors = own.encoder.encode_documents(
            list(map(self._text, documents)), batch_size=self.batch_size, show_progress=self.progress_bar
        )
        made = zip(documents, vectors.tolist(), strict=True)
        return {"documents": [replace(d, embedding=v, meta=d.meta | {STAMP: own.stamp}) for d, v in made]}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Do the same in a thread."""
        return await asyncio.to_thread(self.run, documents)


@component
class CDEContextGuard:
    """Refuse retrieved documents that were not embedded as the query was; stands behind a retriever."""

    __module__ = DOOR

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document], stamp: str) -> dict[str, Any]:
        """Compare the documents' stamps with the query's.

        Args:
            documents: What a retriever returned.
            stamp: Output of the `CDETextEmbedder` whose vector the retriever was asked with.

        Returns:
            ``documents``: the same.

        Raises:
            ContextMismatchError: if a stamp differs or is missing.
        """
        for document in documents:
            check_stamp(document.meta.get(STAMP), stamp, f"document {document.id[:12]}")
        return {"documents": documents}
