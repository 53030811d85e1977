"""Build, save and open the stores of several kinds of documents, each under a context of its own, together.

stores = cde.from_documents_by_kind(FAISS, documents, "tenant")
cde.save_routed(stores, "folder")
stores = cde.open_routed(lambda e, place: FAISS.load_local(place, e, ...), "folder")
cde.CDERoutedRetriever(stores=stores).invoke("a question")
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from cde_retriever.adapters.contextual_embedding import PathLike
from cde_retriever.adapters.langchain.documents import checked
from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.adapters.langchain.guard import save_local
from cde_retriever.adapters.langchain.stores import from_documents
from cde_retriever.adapters.langchain.stores import open as open_store
from cde_retriever.adapters.routes_folder import (
    forget_route,
    places_of,
    read_routes,
    record_routes,
    recorded_places,
    write_routes,
)
from cde_retriever.context.selection import kinds_of
from cde_retriever.errors import ConfigError


def from_documents_by_kind(
    store_class: type[VectorStore],
    documents: Iterable[Document],
    kind_field: str,
    embedding: CDEEmbeddings | None = None,
    *,
    context_dir: PathLike | None = None,
    kwargs_of: Callable[[str], Mapping[str, Any]] | None = None,
    **store_kwargs: Any,
) -> dict[str, VectorStore]:
    """Build a guarded store in two parts of each kind of document, each under a context of its own.

    Args:
        store_class: Any LangChain store that `from_documents` takes with ``hybrid=True``.
        documents: The corpus.
        kind_field: Metadata field that says what kind a document is of; those without it are a kind of their own.
        embedding: A `CDEEmbeddings` without a context, whose settings all kinds take; None for the default.
        context_dir: Folder for a folder of each kind, in the order of their names, as `from_documents` needs for stores
            that write by themselves; `open_routed` finds them there. New kinds join those that are there.
        kwargs_of: Returns arguments of the store of one kind alone, given the name of its folder, such as
            ``lambda place: {"collection_name": f"handbook-{place}"}``.
        store_kwargs: Further arguments of ``store_class.from_documents``, for all kinds.

    Raises:
        ConfigError: if the embedding has a context, or no document has the field.
        Errors of `from_documents`.
    """
    embedding = embedding or CDEEmbeddings()
    if embedding.is_fitted:
        raise ConfigError("the embedding has a context already, and each kind gets its own; give one without")
    documents, of_kind = checked(documents), dict[str, list[Document]]()
    kinds = kinds_of((document.metadata for document in documents), kind_field)
    for document, kind in zip(documents, kinds, strict=True):
        of_kind.setdefault(kind, []).append(document)
    recorded = {} if context_dir is None else recorded_places(Path(context_dir))
    settings, places, stores = embedding.model_dump(), places_of(sorted(of_kind), recorded), dict[str, VectorStore]()
    for name, place in places.items():
        stores[name] = from_documents(
            store_class,
            of_kind[name],
            CDEEmbeddings(**settings),
            context_dir=None if context_dir is None else Path(context_dir) / place,
            hybrid=True,
            **{**store_kwargs, **(kwargs_of(place) if kwargs_of else {})},
        )
    if context_dir is not None:
        record_routes(Path(context_dir), recorded | places, kind_field)
    return stores


def forget_kind(folder: PathLike, kind: str) -> str:
    """Remove a kind and its context from the folder of several; other kinds stay as they are.

    Args:
        folder: The ``context_dir`` of `from_documents_by_kind`, or the folder of `save_routed`.
        kind: Its name.

    Returns:
        The name of the folder that it had, which `kwargs_of` was given: documents in a store that writes by itself are
        that store's to delete.

    Raises:
        ConfigError: if there is no such kind.
        FileNotFoundError: if the folder holds no kinds.
        OutputError: if its record is damaged, or a refit of a kind is not confirmed.
    """
    return forget_route(Path(folder), kind)


def save_routed(stores: Mapping[str, VectorStore], folder: PathLike) -> Path:
    """Write guarded stores that live in memory to one folder as a whole; a killed process leaves the old or the new.

    Args:
        stores: By the names of their kinds.
        folder: A folder of their own.

    Raises:
        TypeError: if one keeps its data elsewhere, as Chroma does, or is not guarded; give `from_documents_by_kind` a
            ``context_dir`` for those.
        OutputError: if the folder holds something else.
    """
    folder = Path(folder)
    write_routes(folder, {name: partial(save_local, store) for name, store in stores.items()}, None)
    return folder


def open_routed(
    opener: Callable[[CDEEmbeddings, Path], VectorStore], folder: PathLike, **model_kwargs: Any
) -> dict[str, VectorStore]:
    """Open the stores of several kinds, guarded, each under its context; return them by the names of their kinds.

    Args:
        opener: Opens the store of one kind with the embedding and the folder it is given, such as ``lambda e, place:
            FAISS.load_local(place, e, ...)`` or, as a refit gives a collection another name, ``lambda e, place:
            Chroma(collection_in(place, f"handbook-{place.name}"), e)``.
        folder: The folder of `save_routed`, or the ``context_dir`` of `from_documents_by_kind`.
        model_kwargs: Arguments of the `CDEEmbeddings`, such as ``model_name``.

    Raises:
        FileNotFoundError: if there are none.
        OutputError: if the folder's record is damaged.
        Errors of `open`.
    """

    def read(places: dict[str, Path], _: str | None) -> dict[str, VectorStore]:
        return {
            name: open_store(lambda e, place=place: opener(e, place), place, **model_kwargs)  # type: ignore[misc]
            for name, place in places.items()
        }

    return read_routes(Path(folder), read)
