"""Use contextual document embeddings in LangChain; the public door to `cde_retriever.adapters.langchain`.

from cde_retriever import langchain as cde

store = cde.from_documents(FAISS, documents)
cde.save_local(store, "index")
"""

try:
    from cde_retriever.adapters.langchain.docstore import _restore_docstore  # noqa: F401 - files name it here
    from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
    from cde_retriever.adapters.langchain.guard import _restore_store  # noqa: F401 - pickles name it here
    from cde_retriever.adapters.langchain.retriever import CDERetriever
    from cde_retriever.adapters.langchain.stores import (
        from_documents,
        guard,
        open,  # noqa: A004
        save_local,
        stamp,
    )
except ImportError as error:
    if str(error.name).startswith("cde_retriever"):  # a fault of ours, nothing missing
        raise
    message = f'cde_retriever.langchain needs langchain-core ({error}); pip install "cde-retriever[langchain]"'
    raise ImportError(message) from error

__all__ = ["CDEEmbeddings", "CDERetriever", "from_documents", "guard", "open", "save_local", "stamp"]


def __dir__() -> list[str]:
    """List the public names alone."""
    return __all__
