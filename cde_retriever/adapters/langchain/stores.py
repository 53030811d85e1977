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

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from cde_retriever.adapters.cut_texts import one_summary
from cde_retriever.adapters.langchain.documents import stamp_documents
from cde_retriever.adapters.langchain.embeddings import SPLIT, CDEEmbeddings
from cde_retriever.adapters.langchain.guard import build_guarded, guard_store, save_guarded
from cde_retriever.adapters.langchain.saving import check_index
from cde_retriever.context.context import Context, known_documents

PathLike = str | os.PathLike[str]
Store = TypeVar("Store", bound=VectorStore)


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
    **store_kwargs: Any,
) -> Store:
    """Build a guarded store whose vectors know the whole corpus.

    Args:
        store_class: Any LangChain store, such as ``FAISS``.
        documents: The whole corpus. Stored copies carry the fingerprint; the given documents are left alone.
        embedding: Fitted on the documents unless it has a context; None for the default model.
        context_dir: Folder for the context, written before any vector is stored.
        store_kwargs: Further arguments of ``store_class.from_documents``.

    Raises:
        ContextMismatchError: if another context is in `context_dir`, or the store holds vectors of another.
        ContextError: if no document has any text.
    """
    documents = list(documents)
    embedding = embedding or CDEEmbeddings()
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
    stamped = stamp(documents, embedding)
    with one_summary(SPLIT):  # stores embed in batches
        store = build_guarded(
            store_class, embedding.stamp, lambda guarded: guarded.from_documents(stamped, embedding, **store_kwargs)
        )
    return guard(cast(Store, store), embedding)


def open(  # noqa: A001 - the counterpart of from_documents, used with its module's name
    opener: Callable[[CDEEmbeddings], Store],
    context: Context | PathLike,
    *,
    embedding: CDEEmbeddings | None = None,
    **model_kwargs: Any,
) -> Store:
    """Open a stored index under the context it was built with, guarded.

    Args:
        opener: Opens the store with the embedding it is given, such as ``lambda e: Chroma("name", e)``.
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
    if not isinstance(context, Context):
        check_index(Path(context))
        context = Context.load(context)
    embedding = embedding or CDEEmbeddings(context=context, **model_kwargs)
    embedding.load_context(context)
    return guard(opener(embedding), embedding)


def guard(store: Store, embedding: CDEEmbeddings) -> Store:
    """Make a store compare contexts whenever it embeds, writes or returns something; returns the same object.

    The store may embed with the embedding itself, a copy, or a `CacheBackedEmbeddings` around one whose namespace is
    `CDEEmbeddings.cache_namespace`. One document is searched for, to see at once whether the store belongs to the
    context.

    Raises:
        ContextNotFittedError: if the embedding has no context.
        ContextMismatchError: if the store embeds with something else, or holds vectors of another context.
    """
    guard_store(store, embedding.stamp)
    return store


def save_local(store: VectorStore, folder: PathLike) -> Path:
    """Write a guarded store that lives in memory to a folder, with its context; a killed process leaves old or new.

    FAISS writes ``index.faiss`` and ``index.pkl``, `InMemoryVectorStore` ``store.json``; `open` compares them with the
    checksums beside them. What else is in the folder stays. ``FAISS.save_local`` and ``InMemoryVectorStore.dump`` of a
    guarded store are as safe; the latter writes neither context nor checksums.

    Raises:
        TypeError: if the store keeps its data elsewhere, as Chroma does, or is not guarded.
        ContextMismatchError: if another context is in the folder.
    """
    return save_guarded(store, Path(folder))
