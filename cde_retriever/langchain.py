"""Use contextual document embeddings in LangChain; the public door to `cde_retriever.adapters.langchain`.

from cde_retriever import langchain as cde

store = cde.from_documents(FAISS, documents)
cde.save_local(store, "index")
"""

from typing import TYPE_CHECKING, Any

try:
    from cde_retriever.adapters.langchain.docstore import _restore_docstore  # noqa: F401 - files name it here
    from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
    from cde_retriever.adapters.langchain.guard import _restore_store, save_local  # noqa: F401 - pickles name the first here
    from cde_retriever.adapters.langchain.retriever import CDERetriever
    from cde_retriever.adapters.langchain.routed_retriever import CDERoutedRetriever
    from cde_retriever.adapters.langchain.routed_stores import (
        forget_kind,
        from_documents_by_kind,
        open_routed,
        save_routed,
    )
    from cde_retriever.adapters.langchain.store_growth import drift
    from cde_retriever.adapters.langchain.stores import (
        from_documents,
        guard,
        open,  # noqa: A004
        stamp,
    )
    from cde_retriever.lifecycle.collection import collection_in
except ImportError as error:
    if str(error.name).startswith("cde_retriever"):  # a fault of ours, nothing missing
        raise
    message = f'cde_retriever.langchain needs langchain-core ({error}); pip install "cde-retriever[langchain]"'
    raise ImportError(message) from error

if TYPE_CHECKING:
    from cde_retriever.adapters.langchain.sparse_embeddings import CDESparseEmbeddings as CDESparseEmbeddings

__all__ = [
    "CDEEmbeddings",
    "CDERetriever",
    "CDERoutedRetriever",
    "collection_in",
    "drift",
    "forget_kind",
    "from_documents",
    "from_documents_by_kind",
    "guard",
    "open",
    "open_routed",
    "save_local",
    "save_routed",
    "stamp",
]


def __dir__() -> list[str]:
    """List the public names alone."""
    return sorted([*__all__, "CDESparseEmbeddings"])


def __getattr__(name: str) -> Any:
    """Import what needs langchain-qdrant when it is asked for."""
    if name != "CDESparseEmbeddings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from cde_retriever.adapters.langchain.sparse_embeddings import CDESparseEmbeddings
    except ImportError as error:
        raise ImportError(
            f"CDESparseEmbeddings needs langchain-qdrant ({error}); pip install langchain-qdrant"
        ) from error
    return CDESparseEmbeddings
