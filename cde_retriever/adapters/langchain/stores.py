"""Build, open, guard and save LangChain stores whose vectors know their corpus.

    from cde_retriever import langchain as cde

    store = cde.from_documents(FAISS, documents)
    cde.save_local(store, "index")
    store = cde.open(lambda e: FAISS.load_local("index", e, allow_dangerous_deserialization=True), "index")
    store.similarity_search("a question")

LangChain shows an embedding slices of the corpus (Qdrant first ``"dummy_text"``, `index` 100 documents at a time) and
stores nothing about it. So fitting is a step of its own, here or in `CDEEmbeddings.fit`; every stored document says in
``metadata["cde_context"]`` what made its vector; and `guard`, which `from_documents` and `open` apply, makes a store
compare that with whatever it is asked or given (`cde_retriever.adapters.langchain.guard`). A guarded store stays an
instance of its class, so ``store.as_retriever()`` and chains are guarded as well. An unguarded store is as LangChain
made it and compares nothing; `CDERetriever` searches one safely.
"""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from cde_retriever.adapters.contextual_embedding import PathLike
from cde_retriever.adapters.cut_texts import one_summary
from cde_retriever.adapters.growth import Growth
from cde_retriever.adapters.langchain.documents import checked, stamp_documents
from cde_retriever.adapters.langchain.embeddings import SPLIT, CDEEmbeddings
from cde_retriever.adapters.langchain.guard import build_guarded, guard_store
from cde_retriever.adapters.langchain.guarded_writes import embedded, with_ids, writing
from cde_retriever.adapters.langchain.saving import check_index, lives_in_memory
from cde_retriever.adapters.langchain.store_growth import attach_growth
from cde_retriever.adapters.langchain.store_parts import StoreParts, attach_parts
from cde_retriever.adapters.misplaced_settings import refuse_unused
from cde_retriever.adapters.new_collection import check_collection
from cde_retriever.adapters.own_class import own_class
from cde_retriever.adapters.plain_vectors import begin_plain, open_plain
from cde_retriever.context.context import Context, known_documents
from cde_retriever.context.whole_numbers import true_or_false
from cde_retriever.errors import ConfigError
from cde_retriever.files.replacing import read_unchanged
from cde_retriever.search.index_file import index_file

Store = TypeVar("Store", bound=VectorStore)
OF_STORES_TOO = {"batch_size", "device", "parts", "seed"}
"""Settings of an embedding that a store may pass on as its own, though its arguments do not name them."""


def stamp(documents: Iterable[Document], embedding: CDEEmbeddings) -> list[Document]:
    """Return copies of documents that say under which context they are about to be embedded.

    For stores filled by other means than `from_documents` or a guarded store, such as `index`.

    Raises:
        ContextNotFittedError: if the embedding has no context.
    """
    return stamp_documents(documents, embedding.stamp)


def from_documents(
    store_class: type[Store],
    documents: Iterable[Document],
    embedding: CDEEmbeddings | None = None,
    *,
    context_dir: PathLike | None = None,
    hybrid: bool = False,
    keep_plain: bool = False,
    **store_kwargs: Any,
) -> Store:
    """Build a guarded store whose vectors know the whole corpus.

    Args:
        store_class: Any LangChain store, such as ``FAISS``.
        documents: The whole corpus. Stored copies carry the fingerprint; the given documents are left alone.
        embedding: Fitted on the documents unless it has a context; None for the default model.
        context_dir: Folder for the context, written before any vector is stored.
        hybrid: Whether to keep the documents in two parts for hybrid search (`CDERetriever`): the dense one in the
            store, both in an index beside it, which is in `context_dir` unless the store lives in memory.
        keep_plain: Whether `save_local` writes the documents' plain vectors too, so that `refit` needs no model
            (docs/lifecycle.md); of a store that writes by itself they are in `context_dir`. A store that has them
            goes on.
        store_kwargs: Further arguments of ``store_class.from_documents``.

    Raises:
        ContextMismatchError: if another context is in `context_dir`, or the store holds vectors of another.
        ContextError: if no document has any text.
        ConfigError: for hybrid search with a model that has no corpus head, or without a `context_dir` for a store that
            writes by itself; for plain vectors with either; for settings of an embedding among the store's arguments.
        TypeError: for hybrid search with a store that cannot return documents by their ids; if a document is none.
    """
    refuse_unused(
        store_kwargs,
        CDEEmbeddings,
        store_class,
        "embedding=CDEEmbeddings(",
        also=OF_STORES_TOO,
        names=("embedding", "context_dir", "hybrid", "keep_plain"),
    )
    documents = checked(documents)
    embedding = embedding or CDEEmbeddings()
    if true_or_false("hybrid", hybrid):
        embedding = embedding.dense_part()
    if true_or_false("keep_plain", keep_plain):
        name = None if lives_in_memory(store_class) else store_class.__name__
        begin_plain(embedding.encoder, name, None if context_dir is None else Path(context_dir))
    if not embedding.is_fitted:
        embedding.fit(documents)
    elif embedding.context.size and not known_documents(embedding.context, [d.page_content for d in documents]):
        warnings.warn(
            f"none of the {embedding.context.size} context documents of {embedding.context_fingerprint[:12]} is among "
            f"these {len(documents)}; use a new CDEEmbeddings for a new corpus, and add_documents to extend a store",
            stacklevel=2,
        )
    if context_dir is not None:
        embedding.save_context(context_dir)
    parts = _begin_parts(store_class, embedding, context_dir) if hybrid else None
    stamped = stamp(documents, embedding)
    if parts is not None:
        stamped = with_ids(stamped, store_kwargs.pop("ids", None))
    with one_summary(SPLIT), writing(embedded(parts, stamped)):  # stores embed in batches
        store = build_guarded(
            store_class, embedding.stamp, lambda guarded: guarded.from_documents(stamped, embedding, **store_kwargs)
        )
    guard_store(cast(Store, store), embedding.stamp)
    if parts is not None:
        attach_parts(store, parts)
    if context_dir is not None:
        _count(cast(Store, store), embedding, Path(context_dir))
    return cast(Store, store)


def _count(store: VectorStore, embedding: CDEEmbeddings, folder: Path) -> None:
    """Go on counting what joins a store where its folder stopped."""
    attach_growth(store, Growth.open(embedding, folder, keep=not lives_in_memory(own_class(store))))


def _begin_parts(store_class: type, embedding: CDEEmbeddings, context_dir: PathLike | None) -> StoreParts:
    if lives_in_memory(store_class):
        return StoreParts.open(embedding, None)
    if context_dir is None:
        raise ConfigError(
            f"{store_class.__name__} writes by itself, so the index for hybrid search needs a place too; give "
            "context_dir"
        )
    return StoreParts.open(embedding, Path(context_dir))


def open(  # noqa: A001 - the counterpart of from_documents, used with its module's name
    opener: Callable[[CDEEmbeddings], Store],
    context: Context | PathLike,
    *,
    embedding: CDEEmbeddings | None = None,
    **model_kwargs: Any,
) -> Store:
    """Open a stored index under the context it was built with, guarded.

    Args:
        opener: Opens the store with the embedding it is given, such as ``lambda e: Chroma("name", e)``; after a refit
            the collection has another name, which ``collection_in(context, "name")`` tells.
        context: The context, or the folder it was saved in, whose files are compared with what `save_local` wrote.
        embedding: What to embed with; by default a new one.
        model_kwargs: Arguments of the new `CDEEmbeddings`, if none is given.

    Raises:
        ContextMismatchError: if context, model, embedding and stored documents do not belong together.
        FileNotFoundError: if there is no context at the path.
        TypeError: if both an embedding and arguments for one are given.
    """
    if embedding is not None and model_kwargs:
        raise TypeError(f"received an embedding and arguments for a new one ({', '.join(model_kwargs)}); give one")
    if isinstance(context, Context):
        return _open(opener, context, None, embedding, model_kwargs)
    folder = Path(context)

    def read() -> Store:
        check_index(folder)
        return _open(opener, Context.load(folder), folder, embedding, model_kwargs)

    return read_unchanged(folder, read)


def _open(
    opener: Callable[[CDEEmbeddings], Store],
    context: Context,
    folder: Path | None,
    embedding: CDEEmbeddings | None,
    model_kwargs: dict[str, Any],
) -> Store:
    embedding = embedding or CDEEmbeddings(context=context, **model_kwargs)
    embedding.load_context(context)
    if folder is None:
        return guard(opener(embedding), embedding)
    in_parts = index_file(folder).is_file()
    if in_parts:
        embedding = embedding.dense_part()
    open_plain(embedding.encoder, folder)
    store = opener(embedding)
    check_collection(store, folder)
    guard(store, embedding, parts_dir=folder if in_parts else None)
    _count(store, embedding, folder)
    return store


def guard(store: Store, embedding: CDEEmbeddings, *, parts_dir: PathLike | None = None) -> Store:
    """Make a store compare contexts whenever it embeds, writes or returns something; returns the same object.

    The store may embed with the embedding itself, a copy, or a `CacheBackedEmbeddings` around one whose namespace is
    `CDEEmbeddings.cache_namespace`. One document is searched for, to see at once whether the store belongs to the
    context.

    Args:
        store: The store.
        embedding: What it embeds with.
        parts_dir: Folder of the index that keeps documents in two parts for hybrid search, begun for an empty store;
            needs an embedding with ``parts="dense"``. None for a store without.

    Raises:
        ContextNotFittedError: if the embedding has no context.
        ContextMismatchError: if the store embeds with something else, holds vectors of another context, or a document
            that the index lacks.
    """
    guard_store(store, embedding.stamp)
    if parts_dir is not None:
        attach_parts(store, StoreParts.open(embedding, Path(parts_dir)))
    return store
