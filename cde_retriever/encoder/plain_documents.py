"""Keep plain vectors of documents by their texts, so that another context needs no second pass through the model.

A corpus head is applied to the vectors of a plain encoder after that has run, and it reads the words from the texts
again. So a document's plain vector and its text are all that a new context needs. What a text's plain vector is depends
on the model alone: a file of them stays true whatever index or context it stands beside.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.context import ModelIdentity
from cde_retriever.context.sampling import hash_text
from cde_retriever.errors import ContextFormatError, ContextMismatchError
from cde_retriever.files.records import RecordFormat
from cde_retriever.files.replacing import write_atomically
from cde_retriever.files.tensors import hash_tensors, read_tensors

Vectors = NDArray[np.float32]

FILE_NAME = "plain.safetensors"
METADATA_KEY = "cde_plain"
_FORMAT = RecordFormat(1, ContextFormatError, "delete it: documents are then embedded again where it would have served")
_SAME = ("sha256", "prompts", "max_length")
"""What decides a document's plain vector, of a model's identity."""


class PlainDocuments:
    """Plain unit vectors of the documents that an encoder embedded, in memory: 4 bytes a number, 36 a document.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Vectors] = {}

    def add(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Keep vectors, (n, d), of texts."""
        self.add_hashed([hash_text(text) for text in texts], vectors)

    def add_hashed(self, hashes: Sequence[str], vectors: Vectors) -> None:
        """Keep vectors, (n, d), of texts with these hashes."""
        kept = np.array(vectors, np.float32)
        kept.setflags(write=False)
        self._rows.update(zip(hashes, kept, strict=True))

    def copy(self) -> "PlainDocuments":
        """Return the same, for who adds more."""
        other = PlainDocuments()
        other.update(self)
        return other

    def update(self, others: "PlainDocuments") -> None:
        """Keep what others keep too."""
        self._rows.update(others._rows)

    def missing(self, texts: Sequence[str]) -> list[int]:
        """Return the places of texts of which there is no vector."""
        return [place for place, text in enumerate(texts) if hash_text(text) not in self._rows]

    def of(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, (n, d).

        Raises:
            KeyError: if one is missing.
        """
        return np.stack([self._rows[hash_text(text)] for text in texts])

    def save(self, folder: Path, texts: Iterable[str], model: ModelIdentity) -> Path:
        """Write the vectors of texts into a folder; a killed process leaves the old file or the new one.

        Args:
            folder: The index's.
            texts: The index's documents; vectors of others are left out, so that nothing stays of deleted ones.
            model: What made them.
        """
        file = folder / FILE_NAME
        write_atomically(file, self.among(texts).to_bytes(model))
        return file

    def among(self, texts: Iterable[str]) -> "PlainDocuments":
        """Return those of texts."""
        kept = PlainDocuments()
        names = dict.fromkeys(map(hash_text, texts))
        kept._rows = {name: self._rows[name] for name in names if name in self._rows}
        return kept

    def beyond(self, others: "PlainDocuments") -> "PlainDocuments":
        """Return those that others lack."""
        kept = PlainDocuments()
        kept._rows = {name: row for name, row in self._rows.items() if name not in others._rows}
        return kept

    @property
    def count(self) -> int:
        """Of how many texts there is a vector."""
        return len(self._rows)

    def to_bytes(self, model: ModelIdentity) -> bytes:
        """Return the vectors as the content of a file, which says what made them."""
        from safetensors.numpy import save  # a server of queries runs without it

        names = list(self._rows)
        arrays: dict[str, NDArray[Any]] = {
            "hashes": np.frombuffer(bytes.fromhex("".join(names)), np.uint8).reshape(-1, 32),
            "vectors": np.stack([self._rows[name] for name in names]) if names else np.zeros((0, 0), np.float32),
        }
        header = {"sha256": hash_tensors(arrays), "model": asdict(model)}
        return save(arrays, metadata={METADATA_KEY: _FORMAT.to_text(header)})

    @classmethod
    def load(cls, folder: Path, model: ModelIdentity) -> Self | None:
        """Read the vectors in a folder; None if it keeps none.

        Args:
            folder: The index's.
            model: What the encoder in use is.

        Raises:
            ContextMismatchError: if another model made them; names both.
            ContextFormatError: if the file is damaged.
        """
        file = folder / FILE_NAME
        return cls.from_bytes(file.read_bytes(), model, str(file)) if file.is_file() else None

    @classmethod
    def from_bytes(cls, data: bytes, model: ModelIdentity, file: str) -> Self:
        """Read what `to_bytes` gave; raises as `load` does."""
        with _FORMAT.reading(file):
            arrays, metadata = read_tensors(data)
            header = _FORMAT.parse(metadata[METADATA_KEY], file)
            names, vectors = arrays["hashes"], arrays["vectors"]
            if header["sha256"] != hash_tensors(arrays) or names.shape != (len(vectors), 32):
                raise ValueError("its content has another hash than it says")
            maker = ModelIdentity(**header["model"])
        if any(getattr(maker, name) != getattr(model, name) for name in _SAME):
            raise ContextMismatchError(
                f"{file} keeps vectors of model {maker.name!r} ({maker.sha256[:12]}, up to {maker.max_length} tokens), "
                f"and the index is opened with {model.name!r} ({model.sha256[:12]}, {model.max_length}); open it with "
                "that model, or delete the file"
            )
        made = cls()
        made._rows = {row.tobytes().hex(): vector for row, vector in zip(names, vectors, strict=True)}
        return made
