"""Use an encoder and its context in sentence-transformers; door to `cde_retriever.adapters.sentence_transformers`."""

try:
    from cde_retriever.adapters.sentence_transformers.models import bind, load, save
    from cde_retriever.adapters.sentence_transformers.module import CDEModule
except ImportError as error:
    if str(error.name).startswith("cde_retriever"):  # a fault of ours, nothing missing
        raise
    message = f"cde_retriever.sentence_transformers needs sentence-transformers ({error})"
    raise ImportError(f'{message}; pip install "cde-retriever[sentence-transformers]"') from error

__all__ = ["CDEModule", "bind", "load", "save"]


def __dir__() -> list[str]:
    """List the public names alone."""
    return __all__
