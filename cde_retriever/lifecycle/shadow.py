"""Keep what is made to replace an index in a folder beside it, until it is whole, and the old index after that.

    INDEX.refit/refit.json                what is being made, of which state of the index
    INDEX.refit/context.safetensors       the new context
    INDEX.refit/vectors-000000.safetensors  new vectors, a part of the documents each
    INDEX.refit/index/                    the new index; once the two were exchanged, the old one

Every file appears whole. New and old index exchange their names in one step, so at any moment a reader finds one of
them, and whoever goes on after a killed process can tell from the context in the index's folder how far it came.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.errors import ConfigError, OutputError
from cde_retriever.files.full_disk import need_space
from cde_retriever.files.hashing import files_of, hash_file
from cde_retriever.files.leftovers import remove
from cde_retriever.files.locking import LOCK, only_writer
from cde_retriever.files.records import RecordFormat
from cde_retriever.files.replacing import copy_folder, exchange_folders, write_atomically
from cde_retriever.files.tensors import read_tensors
from cde_retriever.lifecycle.collection import Collection
from cde_retriever.lifecycle.stored_index import StoredIndex, folder_kind

Vectors = NDArray[np.float32]
_FORMAT = RecordFormat(1, OutputError, "delete it, and refit again")
_RECORD, _SHA256 = "refit.json", "sha256"


@dataclass(frozen=True)
class Begun:
    """What is being made.

    Attributes:
        source: Hash of the index's files, as `Shadow.hash_index` gives it.
        old: Fingerprint of its context.
        new: Fingerprint of the new context.
        documents: How many texts it has.
        part: How many of them are embedded before they are written.
        collection: The name that its collection was built under; None for an index in its folder, and in older records.
    """

    source: str
    old: str
    new: str
    documents: int
    part: int
    collection: str | None = None


class Shadow:
    """The folder beside an index.

    Args:
        index: Folder of the index, or of the context of a collection.
        collection: The collection; None for an index that is in its folder.

    Raises:
        FileNotFoundError, ConfigError, ImportError: as `folder_kind` does.
    """

    def __init__(self, index: Path, collection: Collection | None = None) -> None:
        self.given, self.index = index, index.resolve()
        self.collection, self._kind = collection, folder_kind(self.index, collection)
        self.folder = self.index.with_name(f"{self.index.name}.refit")
        self.other = self.folder / "index"

    @property
    def name(self) -> str | None:
        """The name that the collection was built under; None for an index in its folder."""
        return None if self.collection is None else self.collection.name

    @property
    def kept(self) -> Path:
        """Where the old index is kept, absolute if the index's folder was given so."""
        return self.other if self.given.is_absolute() else Path(os.path.relpath(self.other))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from refitting the same index; without anything in it the folder goes at the end.

        Raises:
            OSError: if another process is at it.
        """
        with only_writer(self.folder):
            yield

    def read(self) -> Begun | None:
        """Return what is being made, None for nothing.

        Raises:
            OutputError: if the record is damaged.
            ConfigError: if it is about a collection of another name; what goes would be that of the name received.
        """
        file = self.folder / _RECORD
        if not file.is_file():
            return None
        values = _FORMAT.read(file)
        with _FORMAT.reading(file):
            begun = Begun(**values)
        if begun.collection is not None and begun.collection != self.name:
            raise ConfigError(
                f"the refit of {self.given} is of collection {begun.collection!r}, received {self.name!r}; give the "
                "name that the collection was built under"
            )
        return begun

    def open(self, model: ModelSpec, trust_pickle: bool) -> StoredIndex:
        """Read the index that is in place."""
        return self._kind.open_folder(self.index, model, trust_pickle)

    def is_swapped(self, begun: Begun) -> bool:
        """Tell whether the new index is in place, by the context that the index's folder keeps.

        Raises:
            OutputError: if that is neither the old context nor the new one.
        """
        fingerprint = self._fingerprint(self.index)
        if fingerprint not in (begun.old, begun.new):
            raise OutputError(
                f"{self.given} holds context {str(fingerprint)[:12]}, and {self.folder} is about replacing "
                f"{begun.old[:12]} by {begun.new[:12]}: another index was put there; delete {self.folder} if nothing "
                "in it is needed, and refit again"
            )
        return fingerprint == begun.new

    def keeps_old(self, begun: Begun) -> bool:
        """Tell whether what is beside the index is an old one too: somebody put that back after the exchange."""
        return self.other.is_dir() and self._fingerprint(self.other) != begun.new

    def _fingerprint(self, folder: Path) -> str | None:
        context = self._kind.context_of(folder)
        return None if context is None else context.fingerprint

    def hash_index(self) -> str:
        """Return a hash of all files of the index, their names included, and of what is in its collection."""
        return self._hash(self.index)

    def _hash(self, folder: Path) -> str:
        files = _hash_folder(folder)
        return files if self.collection is None else f"{files} {self.collection.content(folder)}"

    def need_space(self, vectors: int) -> None:
        """Refuse to embed what the disk has no room for; what an earlier run left counts, it is used or goes.

        While a new index is built, the disk holds its vectors, the copy of the old one that it is built over, and the
        files that take the place of those in the copy, which are about as large.

        Args:
            vectors: Bytes of all new vectors.

        Raises:
            DiskError: if there is not as much room.
        """
        if self.other.is_dir():
            return
        index, there = (sum(file.stat().st_size for file in files_of(one)) for one in (self.index, self.folder))
        need_space(self.folder, 2 * index + vectors - there)

    def begin(self, begun: Begun) -> None:
        """Record what is being made; the new context is there already."""
        _FORMAT.write(self.folder / _RECORD, asdict(begun))

    def read_vectors(self, number: int) -> Vectors | None:
        """Return the vectors of a part; None if they are not there whole."""
        try:
            arrays, metadata = read_tensors(self._vectors_file(number).read_bytes())
            vectors: Vectors = arrays["vectors"]
            return vectors if metadata[_SHA256] == _digest(vectors) else None
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def write_vectors(self, number: int, vectors: Vectors) -> None:
        """Keep the vectors of a part; a killed process leaves all of them or none."""
        from safetensors.numpy import save

        content = save({"vectors": vectors}, metadata={_SHA256: _digest(vectors)})
        write_atomically(self._vectors_file(number), content)

    def _vectors_file(self, number: int) -> Path:
        return self.folder / f"vectors-{number:06d}.safetensors"

    def build(self, write: Callable[[Path], None]) -> None:
        """Make the new index in a copy of the old one's folder, by a function that writes into it."""
        unfinished, copy = self.folder / "unfinished", self.folder / "copy"
        self._remove(unfinished)
        remove(copy)
        copy_folder(self.index, copy)
        copy.rename(unfinished)  # whole, so that it names its collection
        write(unfinished)
        unfinished.rename(self.other)

    def swap(self, source: str | None = None) -> None:
        """Exchange the new and the old index, in one step.

        Args:
            source: The old index's hash; None for any.

        Raises:
            OutputError: if the old index is another one than it was; it stays in place.
            OSError: if the drive cannot exchange folders.
        """
        if source is None or source == self.hash_index():
            exchange_folders(self.other, self.index)
            if source is None or source == self._hash(self.other):
                return
            exchange_folders(self.other, self.index)  # it was written at the very moment
        raise OutputError(
            f"{self.given} was written while its documents were embedded, and what was written would be lost; run the "
            "same again when nobody writes to it"
        )

    def clear_vectors(self) -> None:
        """Remove the vectors that are in the new index by now."""
        for file in self.folder.glob("vectors-*.safetensors"):
            remove(file)

    def clear(self) -> None:
        """Remove all that is in the folder; the index in it first, as a whole: half of one is never put back."""
        discarded = self.folder / "discarded"
        self._discard(discarded)
        if self.other.exists():
            self.other.rename(discarded)
        for folder in (discarded, self.folder / "unfinished"):
            self._discard(folder)
        for path in self.folder.iterdir():
            if path.name != LOCK:
                remove(path)

    def _discard(self, folder: Path) -> None:
        """Remove a folder, after the collection that it is of."""
        if self.collection is not None and folder.is_dir():
            self.collection.discard(folder, self.index)
        self._remove(folder)

    def _remove(self, folder: Path) -> None:
        """Remove a folder under another name: half of one would name another collection than it did."""
        removed = self.folder / "removed"
        remove(removed)
        if folder.exists():
            folder.rename(removed)
            remove(removed)


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in files_of(folder):
        digest.update(f"{file.relative_to(folder)}\n{hash_file(file)}\n".encode())
    return digest.hexdigest()


def _digest(vectors: Vectors) -> str:
    return hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()
