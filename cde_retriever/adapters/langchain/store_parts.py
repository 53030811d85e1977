"""Keep the documents of a guarded store in two parts beside it, for hybrid search, as they come and go."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from cde_retriever.adapters.kept_parts import KeptParts, looked_up, read_index
from cde_retriever.adapters.langchain.documents import check_stamps
from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.adapters.langchain.first_look import some_documents
from cde_retriever.adapters.langchain.saving import lives_in_memory
from cde_retriever.adapters.own_class import own_class
from cde_retriever.adapters.stamps import check_stamp
from cde_retriever.adapters.stored_count import stored_count
from cde_retriever.errors import ConfigError, ContextMismatchError
from cde_retriever.search.hybrid import weigh
from cde_retriever.search.index_file import index_from_bytes, index_to_bytes
from cde_retriever.search.parts_index import PartsIndex

_ATTRIBUTE = "_cde_parts"
_LOOKED_AT = 10


class StoreParts(KeptParts):
    """The documents of one store in two parts.

    Args:
        embedding: The store's embedding, which gives dense parts.
        index: The documents.
        folder: Where the index is written after each change, unless the store lives in memory; None for nowhere.
    """

    def __init__(self, embedding: CDEEmbeddings, index: PartsIndex, folder: Path | None = None) -> None:
        super().__init__(index, folder)
        self.embedding = embedding

    @classmethod
    def open(cls, embedding: CDEEmbeddings, folder: Path | None) -> "StoreParts":
        """Read the index of a folder, or begin one.

        Raises:
            ConfigError: if the embedding gives one vector a text.
            ContextMismatchError: if the index was made under another context.
            ContextFormatError: if it is damaged.
        """
        if embedding.parts != "dense":
            raise ConfigError(
                "hybrid search keeps the dense part in the store; give an embedding with parts='dense', such as "
                "embedding.dense_part()"
            )
        return cls(embedding, read_index(folder, embedding.context_fingerprint), folder)

    def embedding_for(self, embedding: CDEEmbeddings) -> CDEEmbeddings:
        """Return what embeds queries, given what a user has.

        Raises:
            ContextMismatchError: if it has another context; names both.
        """
        check_stamp(self.index.fingerprint, embedding.context_fingerprint, "the store")
        return self.embedding

    def delete_gone(self, store: VectorStore) -> None:
        """Remove documents that the store no longer has."""
        self.delete(set(self.index.ids) - looked_up(_getter(store), self.index.ids).keys())

    def search(
        self, store: VectorStore, query: str, count: int, mode: str, fits: Any = None, alpha: float | None = None
    ) -> list[tuple[Document, float]]:
        """Return the best documents for a query with their scores, best first.

        Args:
            store: The store, which gives the documents.
            query: The query.
            count: How many; fewer if fewer fit.
            mode: ``"hybrid"`` or ``"sparse"``.
            fits: Metadata that documents must have, as a mapping of names to values, or a function that is given a
                `Document`; None for all documents.
            alpha: What vectors count beside words in ``"hybrid"`` (`cde_retriever.search.hybrid.weigh`).

        Raises:
            ContextMismatchError: if a document was embedded under another context.
            ConfigError: for a filter of another kind.
        """
        parts = weigh(self.embedding.embed_query_in_parts(query), alpha)
        found = self.find(parts, count, mode, _getter(store), _predicate(fits))
        check_stamps([document for document, _ in found], self.embedding.stamp)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what a pickled copy is made from."""
        return _restore, (self.embedding, index_to_bytes(self.index), self.folder)


def _restore(embedding: CDEEmbeddings, data: bytes, folder: Path | None) -> StoreParts:
    return StoreParts(embedding, index_from_bytes(data, embedding.context_fingerprint), folder)


def parts_of(store: VectorStore) -> StoreParts | None:
    """Return what keeps a store's documents in two parts; None if nothing does."""
    return vars(store).get(_ATTRIBUTE)


def attach_parts(store: VectorStore, parts: StoreParts) -> None:
    """Let a guarded store keep its documents in two parts from now on.

    Raises:
        TypeError: if the store cannot return documents by their ids.
        ContextMismatchError: if the store has documents that the index lacks, as far as a look at some and the number
            of all tell.
    """
    own = own_class(store)
    if own.get_by_ids is VectorStore.get_by_ids:
        raise TypeError(f"{own.__name__} cannot return documents by their ids (get_by_ids), which hybrid search needs")
    for document in some_documents(store, parts.embedding.stamp, _LOOKED_AT):
        if _id_of(document) not in parts.index:
            raise ContextMismatchError(
                f"the store holds document {document.page_content!r:.60}, which its index of two parts lacks; open "
                "both together, or build a new store with from_documents(..., hybrid=True)"
            )
    stored = stored_count(store)
    if stored is not None and stored > len(parts.index):
        raise ContextMismatchError(
            f"the store holds {stored} documents, and its index of two parts {len(parts.index)}: some were added past "
            "it, where hybrid search does not find them; delete these, and add them through the guarded store"
        )
    if lives_in_memory(own):  # `save_local` writes both together
        parts.stay_in_memory()
    vars(store)[_ATTRIBUTE] = parts


def check_search_kwargs(given: Mapping[str, Any], in_parts: bool) -> None:
    """Refuse arguments of a search that it does not know.

    Args:
        given: The ``search_kwargs`` of a retriever.
        in_parts: Whether they are for `StoreParts.search`, and not for the store.

    Raises:
        ConfigError: if there are such.
    """
    if "k" in given:
        raise ConfigError(f"search_kwargs has k={given['k']!r}; give it to the retriever itself, as k=")
    unknown = sorted(given.keys() - {"filter"})
    if in_parts and unknown:
        raise ConfigError(f"search_kwargs has {unknown}; hybrid and sparse search know filter alone")


def _getter(store: VectorStore) -> Callable[[list[str]], dict[str, Document]]:
    """Return what gives those documents that the store has."""
    return lambda ids: {_id_of(document): document for document in store.get_by_ids(ids)}


def _id_of(document: Document) -> str:
    """Return a document's id; Qdrant's store puts it into the metadata."""
    return str(document.metadata.get("_id") if document.id is None else document.id)


def _predicate(fits: Any) -> Callable[[Document], bool]:
    if fits is None:
        return lambda _: True
    if callable(fits):
        return lambda document: bool(fits(document))
    plain = isinstance(fits, Mapping) and all(
        isinstance(value, str | int | float) and not str(name).startswith("$") for name, value in fits.items()
    )
    if not plain:
        raise ConfigError(
            f"filter is {fits!r:.80}; hybrid and sparse search take a mapping of metadata to values, or a function "
            "that is given a Document and returns whether it fits"
        )
    return lambda document: all(document.metadata.get(name) == value for name, value in fits.items())
