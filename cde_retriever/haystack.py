"""Use contextual document embeddings in Haystack; the public door to `cde_retriever.adapters.haystack`."""

try:
    from cde_retriever.adapters.haystack import CDEContextGuard, CDEDocumentEmbedder, CDETextEmbedder
except ImportError as error:
    if str(error.name).startswith("cde_retriever"):  # a fault of ours, nothing missing
        raise
    raise ImportError(
        f'cde_retriever.haystack needs haystack-ai ({error}); pip install "cde-retriever[haystack]"'
    ) from error

__all__ = ["CDEContextGuard", "CDEDocumentEmbedder", "CDETextEmbedder"]


def __dir__() -> list[str]:
    """List the public names alone."""
    return __all__
