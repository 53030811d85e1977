"""Use contextual document embeddings in Chroma; the public door to `cde_retriever.adapters.chroma`."""

try:
    from cde_retriever.adapters.chroma import CDEEmbeddingFunction
except ImportError as error:
    if str(error.name).startswith("cde_retriever"):  # a fault of ours, nothing missing
        raise
    raise ImportError(f'cde_retriever.chroma needs chromadb ({error}); pip install "cde-retriever[chroma]"') from error

__all__ = ["CDEEmbeddingFunction"]


def __dir__() -> list[str]:
    """List the public names alone."""
    return __all__
