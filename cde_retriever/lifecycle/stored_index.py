"""Open the folder of an index whose store keeps the texts, whatever framework wrote it.

The adapters know the folders of their frameworks; they are imported by name when such a folder is met, so that this
room needs neither framework.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context, context_file
from cde_retriever.context.drift import Drift
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.plain_documents import PlainDocuments
from cde_retriever.errors import ConfigError
from cde_retriever.lifecycle.collection import Collection

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

    def kinds(self, field: str) -> list[str]:
        """Return the kinds of its documents by a field of their metadata.

        Raises:
            ConfigError: if none has it.
        """

    def vectors_of(self, numbers: list[int]) -> Vectors:
        """Return stored vectors, (n, d)."""

    def rebuild(self, folder: Path, context: Context, vectors: Vectors) -> None:
        """Write the same documents with other vectors, (n, d), over a copy of the index's folder."""


@dataclass(frozen=True)
class NewIndex:
    """What to make of an index of another embedding.

    Attributes:
        model: The model of the new index.
        parts: ``"one"`` or ``"both"``; None for what the framework does by default.
        plain: Plain vectors of its documents; None for a model without a corpus head.
        keep_plain: Whether it keeps them.
    """

    model: ModelSpec
    parts: str | None
    plain: PlainDocuments | None
    keep_plain: bool


class ForeignIndex(Protocol):
    """An index that another embedding built, in a folder or a collection.

    Attributes:
        texts: What was embedded, in the order of the index.
        vectors: Its vectors, (n, d); None if the index does not give them back.
    """

    texts: list[str]
    vectors: Vectors | None

    def build(self, folder: Path, new: NewIndex) -> str:
        """Write an index of ours of the same documents to an empty folder; return the fingerprint of its context.

        Of a collection the folder gets the context, and a new collection beside it the documents.
        """


class FolderKind(Protocol):
    """The module of an adapter that knows the folder of an index."""

    def open_folder(self, folder: Path, model: ModelSpec, trust_pickle: bool) -> StoredIndex:
        """Read an index."""

    def context_of(self, folder: Path) -> Context | None:
        """Return the context that a folder keeps."""


class CollectionKind:
    """What knows a collection whose context is in a folder.

    Args:
        collection: The collection.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def open_folder(self, folder: Path, model: ModelSpec, trust_pickle: bool) -> StoredIndex:  # noqa: ARG002
        """Read the collection, whatever framework filled it; raises what its adapter does."""
        module = _module_of(self._collection, self._collection.in_force(folder))
        return cast(StoredIndex, module.open_stored(folder, self._collection, model))

    def context_of(self, folder: Path) -> Context | None:
        """Return the context that a folder keeps."""
        file = context_file(folder)
        return Context.load(file) if file.is_file() else None


class ForeignFolderKind(Protocol):
    """The module of an adapter that knows the folder of an index that another embedding built."""

    def open_foreign(self, folder: Path, trust_pickle: bool) -> ForeignIndex:
        """Read an index."""


class _Framework(NamedTuple):
    adapter: str
    extra: str


_LLAMA_INDEX = _Framework("cde_retriever.adapters.llama_index", "cde-retriever[llama-index]")
_LANGCHAIN = _Framework("cde_retriever.adapters.langchain", "cde-retriever[langchain]")
_FILES = {"docstore.json": _LLAMA_INDEX, "index.faiss": _LANGCHAIN}
"""The file of an index's folder by which the framework that wrote it is known."""


def folder_kind(folder: Path, collection: Collection | None = None) -> FolderKind:
    """Return what knows the folder of an index, or of the context of a collection.

    Raises:
        FileNotFoundError: if there is no such folder.
        ConfigError: if it holds no index of a kind that is known, or no context of a collection.
        ImportError: if its framework is not installed.
    """
    if collection is not None:
        if not context_file(folder).is_file() or not folder.is_dir():
            raise FileNotFoundError(f"no context in {folder}; give the context_dir of collection {collection.name!r}")
        return CollectionKind(collection)
    return cast(FolderKind, _module_for(folder, "stored_folder"))


def open_foreign(old: Path | Collection, trust_pickle: bool) -> ForeignIndex:
    """Read an index that another embedding built; raises as `folder_kind` does."""
    if isinstance(old, Collection):
        return cast(ForeignIndex, _module_of(old, old.name).open_foreign(old))
    return cast(ForeignFolderKind, _module_for(old, "foreign_folder")).open_foreign(old, trust_pickle)


def _module_of(collection: Collection, in_force: str) -> ModuleType:
    """Import what knows the documents of a collection, of the adapter of the framework that filled it."""
    client = collection.opened()
    if in_force not in (names := client.names()):
        raise ConfigError(f"there is no collection {in_force!r} in the store, which has {sorted(names)}; name another")
    first = next(client.records(in_force), None)
    if first is None:
        raise ConfigError(f"collection {in_force!r} holds no documents; add some, or build a new one")
    framework = _LLAMA_INDEX if "_node_content" in first.metadata else _LANGCHAIN
    return _adapter(framework, "collection_documents", f"collection {in_force!r}")


def _module_for(folder: Path, name: str) -> ModuleType:
    if not folder.is_dir():
        raise FileNotFoundError(f"no index at {folder}; give the folder that index.persist or save_local wrote")
    for file, framework in _FILES.items():
        if (folder / file).is_file():
            return _adapter(framework, name, f"the index at {folder}")
    if (routes := folder / "routes.json").is_file():
        raise ConfigError(
            f"{folder} holds an index of several contexts; give the folder of one of its kinds, as {routes} names them"
        )
    raise ConfigError(
        f"{folder} holds neither a LlamaIndex index (docstore.json) nor a LangChain FAISS index (index.faiss); for a "
        "collection of Chroma or Qdrant, name it too"
    )


def _adapter(framework: _Framework, name: str, what: str) -> ModuleType:
    """Import a module of an adapter."""
    try:
        return import_module(f"{framework.adapter}.{name}")
    except ImportError as error:
        raise ImportError(f"{what} cannot be read ({error}); pip install '{framework.extra}'") from error
