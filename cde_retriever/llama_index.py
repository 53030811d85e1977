"""Use contextual document embeddings in LlamaIndex; the public door to `cde_retriever.adapters.llama_index`."""

try:
    from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
    from cde_retriever.adapters.llama_index.guard import CDEContextGuard, CDERetriever
    from cde_retriever.adapters.llama_index.index import CDEVectorStoreIndex
    from cde_retriever.adapters.llama_index.native_parts import sparse_functions
    from cde_retriever.adapters.llama_index.routed_index import CDERoutedIndex, CDERoutedRetriever
    from cde_retriever.lifecycle.collection import collection_in
except ImportError as error:
    if str(error.name).startswith("cde_retriever"):  # a fault of ours, nothing missing
        raise
    message = f'cde_retriever.llama_index needs llama-index-core ({error}); pip install "cde-retriever[llama-index]"'
    raise ImportError(message) from error

__all__ = [
    "CDEContextGuard",
    "CDEEmbedding",
    "CDERetriever",
    "CDERoutedIndex",
    "CDERoutedRetriever",
    "CDEVectorStoreIndex",
    "collection_in",
    "sparse_functions",
]


def __dir__() -> list[str]:
    """List the public names alone."""
    return __all__
