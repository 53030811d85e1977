"""Refer to a collection of a vector store whose context is in a folder of its own.

A store writes by itself, and the names of its collections cannot be exchanged in one step, so the folder of the context
says which collection is in force: `refit` fills a new one and exchanges the folder, with the new context and the new
name in it.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cde_retriever.errors import ConfigError, ContextMismatchError
from cde_retriever.files.records import RecordFormat

Vectors = NDArray[np.float32]
FILE_NAME = "collection.json"
AT_ONCE = 500
"""Records that are asked for at a time."""
_FORMAT = RecordFormat(1, ContextMismatchError, "restore the folder of the context, or build a new collection")


def collection_in(folder: str | os.PathLike[str], name: str) -> str:
    """Return the name of the collection whose context is in a folder.

    Args:
        folder: The ``context_dir``.
        name: The name that the collection was built under, which stands until it is refitted.

    Raises:
        ContextMismatchError: if the record in the folder is damaged.
    """
    file = Path(folder) / FILE_NAME
    if not file.is_file():
        return name
    values = _FORMAT.read(file)
    with _FORMAT.reading(file):
        return str(values["collection"])


def write_collection(folder: Path, name: str) -> None:
    """Record in a folder which collection its context is of."""
    _FORMAT.write(folder / FILE_NAME, {"collection": name})


class Record(NamedTuple):
    """What a store keeps beside a vector.

    Attributes:
        id: Its id.
        metadata: Its metadata; of Qdrant all of the payload.
        text: Its text, where the store keeps it apart.
    """

    id: str
    metadata: dict[str, Any]
    text: str | None


class Client(Protocol):
    """What a refit asks of a store, by the names of its collections."""

    def records(self, name: str) -> Iterator[Record]:
        """Yield all records, in the order of the store."""

    def vectors(self, name: str, ids: Sequence[str]) -> Vectors:
        """Return dense vectors of records, (n, d)."""

    def names(self) -> set[str]:
        """Return the names of all collections."""

    def begin(self, name: str, like: str, width: int | None = None) -> None:
        """Make an empty collection of the settings of another; one of that name goes first.

        Args:
            name: Its name.
            like: The other.
            width: How many numbers a vector has, of which each record has one; None for vectors like the other's.
        """

    def delete(self, name: str) -> None:
        """Delete a collection, if it is there."""


@dataclass(frozen=True)
class Collection:
    """A collection of Chroma or Qdrant.

    Attributes:
        client: A ``chromadb`` client or a ``qdrant_client.QdrantClient``.
        name: The name that the collection was built under.
    """

    client: Any
    name: str

    @property
    def package(self) -> str:
        """The package that the client comes from, such as ``"chromadb"``."""
        return type(self.client).__module__.partition(".")[0]

    def in_force(self, folder: Path) -> str:
        """Return the name of the collection whose context is in a folder."""
        return collection_in(folder, self.name)

    def content(self, folder: Path) -> str:
        """Return a hash of ids, metadata and texts in the collection whose context is in a folder."""
        digest = hashlib.sha256()
        for record in self.opened().records(self.in_force(folder)):
            said = {key: record.metadata[key] for key in sorted(record.metadata)}
            digest.update(json.dumps([record.id, record.text, said], default=str).encode())
        return digest.hexdigest()

    def discard(self, folder: Path, kept: Path) -> None:
        """Delete the collection whose context is in a folder that goes, unless it is that of another folder."""
        name = self.in_force(folder)
        if name != self.in_force(kept):
            self.opened().delete(name)

    def opened(self) -> Client:
        """Return what a refit asks.

        Raises:
            ConfigError: for a client of another store.
        """
        if self.package == "chromadb":
            return ChromaClient(self.client)
        if self.package == "qdrant_client":
            return QdrantClient(self.client)
        raise ConfigError(
            f"the client is a {type(self.client).__name__} of {self.package}, expected one of Chroma or Qdrant; "
            "collections of others are built anew with from_documents under a new context_dir"
        )


class ChromaClient:
    """Collections of Chroma.

    Args:
        client: A client of ``chromadb``.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def records(self, name: str) -> Iterator[Record]:
        """Yield all records, in the order of the store."""
        collection, start = self._client.get_collection(name), 0
        while True:
            found = collection.get(include=["metadatas", "documents"], limit=AT_ONCE, offset=start)
            for row in zip(found["ids"], found["metadatas"], found["documents"], strict=True):
                yield Record(row[0], dict(row[1] or {}), row[2])
            start += AT_ONCE
            if len(found["ids"]) < AT_ONCE:
                return

    def vectors(self, name: str, ids: Sequence[str]) -> Vectors:
        """Return dense vectors of records, (n, d)."""
        collection, rows = self._client.get_collection(name), dict[str, Any]()
        for some in slices(ids):
            found = collection.get(ids=some, include=["embeddings"])
            rows |= zip(found["ids"], found["embeddings"], strict=True)
        return np.array([rows[one] for one in ids], np.float32)

    def names(self) -> set[str]:
        """Return the names of all collections."""
        return {collection.name for collection in self._client.list_collections()}

    def begin(self, name: str, like: str, width: int | None = None) -> None:  # noqa: ARG002 - any width fits
        """Make an empty collection of the settings of another; one of that name goes first."""
        self.delete(name)
        old = self._client.get_collection(like, embedding_function=None)
        self._client.create_collection(
            name, metadata=old.metadata, configuration=old.configuration, embedding_function=None
        )

    def delete(self, name: str) -> None:
        """Delete a collection, if it is there."""
        if name in self.names():
            self._client.delete_collection(name)


class QdrantClient:
    """Collections of Qdrant.

    Args:
        client: A client of ``qdrant_client``.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def records(self, name: str) -> Iterator[Record]:
        """Yield all records, in the order of the store."""
        place = None
        while True:
            points, place = self._client.scroll(name, limit=AT_ONCE, offset=place, with_payload=True)
            for point in points:
                yield Record(str(point.id), dict(point.payload or {}), None)
            if place is None:
                return

    def vectors(self, name: str, ids: Sequence[str]) -> Vectors:
        """Return dense vectors of records, (n, d)."""
        points = {
            str(point.id): point.vector
            for some in slices(ids)
            for point in self._client.retrieve(name, some, with_vectors=True)
        }
        return np.array([_dense(points[one]) for one in ids], np.float32)

    def names(self) -> set[str]:
        """Return the names of all collections."""
        return {collection.name for collection in self._client.get_collections().collections}

    def begin(self, name: str, like: str, width: int | None = None) -> None:
        """Make an empty collection of the settings of another; one of that name goes first."""
        self.delete(name)
        config = self._client.get_collection(like).config
        vectors, sparse = config.params.vectors, config.params.sparse_vectors
        if width is not None:
            first = next(iter(vectors.values())) if isinstance(vectors, dict) else vectors
            vectors, sparse = first.model_copy(update={"size": width}), None
        self._client.create_collection(
            name,
            vectors_config=vectors,
            sparse_vectors_config=sparse,
            shard_number=config.params.shard_number,
            on_disk_payload=config.params.on_disk_payload,
        )

    def delete(self, name: str) -> None:
        """Delete a collection, if it is there."""
        self._client.delete_collection(name)


def slices(ids: Sequence[str]) -> Iterator[list[str]]:
    """Yield ids, `AT_ONCE` at a time."""
    for start in range(0, len(ids), AT_ONCE):
        yield list(ids[start : start + AT_ONCE])


def _dense(vector: Any) -> Any:
    """Return the dense one of a point's vectors."""
    if not isinstance(vector, dict):
        return vector
    return next(value for value in vector.values() if isinstance(value, list))
