"""Open the folder of an index whose store keeps the texts, whatever framework wrote it.

The adapters know the folders of their frameworks; they are imported by name when such a folder is met, so that this
room needs neither framework.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.context.drift import Drift
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError

Vectors = NDArray[np.float32]


class StoredIndex(Protocol):
    """An index that was read from its folder, checked against its context.

    Attributes:
        texts: What was embedded, in the order of the index.
        encoder: The encoder that made its vectors, under its context.
        parts: What it keeps of each text: ``"one"`` vector or the ``"dense"`` part, words beside it.
        drift: What joined it since its context was fitted.
    """

    texts: list[str]
    encoder: ContextualEncoder
    parts: Any
    drift: Drift

    def vectors_of(self, numbers: list[int]) -> Vectors:
        """Return stored vectors, (n, d)."""

    def rebuild(self, folder: Path, context: Context, vectors: Vectors) -> None:
        """Write the same documents with other vectors, (n, d), over a copy of the index's folder."""


class FolderKind(Protocol):
    """The module of an adapter that knows the folder of an index."""

    def open_folder(self, folder: Path, model: ModelSpec, trust_pickle: bool) -> StoredIndex:
        """Read an index."""

    def context_of(self, folder: Path) -> Context | None:
        """Return the context that a folder keeps."""


class _Known(NamedTuple):
    module: str
    extra: str


_KINDS = {
    "docstore.json": _Known("cde_retriever.adapters.llama_index.stored_folder", "cde-retriever[llama-index]"),
    "index.faiss": _Known("cde_retriever.adapters.langchain.stored_folder", "cde-retriever[langchain]"),
}


def kind_of(folder: Path) -> FolderKind:
    """Return what knows the folder of an index.

    Raises:
        FileNotFoundError: if there is no such folder.
        ConfigError: if it holds no index of a kind that is known.
        ImportError: if its framework is not installed.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no index at {folder}; give the folder that index.persist or save_local wrote")
    for name, known in _KINDS.items():
        if (folder / name).is_file():
            try:
                return cast(FolderKind, import_module(known.module))
            except ImportError as error:
                raise ImportError(
                    f"the index at {folder} cannot be read ({error}); pip install '{known.extra}'"
                ) from error
    raise ConfigError(
        f"{folder} holds neither a LlamaIndex index (docstore.json) nor a LangChain FAISS index (index.faiss); indexes "
        "of other stores are built anew, with from_documents under a new context_dir"
    )
