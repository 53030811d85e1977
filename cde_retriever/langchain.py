"""Use contextual document embeddings in LangChain; the public door to `cde_retriever.adapters.langchain`.

from cde_retriever import langchain as cde

store = cde.from_documents(FAISS, documents, context_dir="index")
"""

try:
    from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
    from cde_retriever.adapters.langchain.stores import CDERetriever, from_documents, guard, open, stamp  # noqa: A004
except ImportError as error:
    if str(error.name).startswith("cde_retriever"):  # a fault of ours, nothing missing
        raise
    message = f'cde_retriever.langchain needs langchain-core ({error}); pip install "cde-retriever[langchain]"'
    raise ImportError(message) from error

__all__ = ["CDEEmbeddings", "CDERetriever", "from_documents", "guard", "open", "stamp"]


def __dir__() -> list[str]:
    """List the public names alone."""
    return __all__
