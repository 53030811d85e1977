"""Contextual document embeddings for retrieval that knows the corpus it searches (arXiv 2410.02525)."""

import importlib
from typing import TYPE_CHECKING, Any

from cde_retriever.errors import (
    CDEError,
    CheckpointError,
    ConfigError,
    ContextError,
    ContextFormatError,
    ContextMismatchError,
    ContextNotFittedError,
    CorpusError,
    OutputError,
    TruncationWarning,
)

if TYPE_CHECKING:
    from cde_retriever.adapters.llama_index.index import CDEEmbedding as CDEEmbedding
    from cde_retriever.context.context import Context
    from cde_retriever.encoder.encoder import ContextualEncoder

__version__ = "0.1.0"

_MODULES = {
    "Context": "context.context",
    "ContextualEncoder": "encoder.encoder",
    "CDEEmbedding": "llama_index",
}

# CDEEmbedding stays out: a star import would need llama-index, which the bare install does not have.
__all__ = [
    "CDEError",
    "CheckpointError",
    "ConfigError",
    "Context",
    "ContextError",
    "ContextFormatError",
    "ContextMismatchError",
    "ContextNotFittedError",
    "ContextualEncoder",
    "CorpusError",
    "OutputError",
    "TruncationWarning",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs next to nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "CDEEmbedding"])
