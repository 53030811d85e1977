"""Store vectors of texts on disk: appended chunk by chunk, found by the hash of the text.

Three files in one folder:

    vectors.f32      unit rows, little-endian float32, appended
    keys.sha256      32 bytes a row, the sha256 of its text, appended
    manifest.json    surrogate, width, number of good rows, checksums; replaced whole

Rows count only once the manifest says so, and it is replaced after the rows are on the disk: a process killed at any
moment leaves whole chunks behind and nothing else. In memory, keys take about 150 bytes a text; vectors none.
"""

import errno
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.sampling import hash_text
from cde_retriever.corpus.unicode_fault import unicode_fault
from cde_retriever.files.full_disk import DiskError
from cde_retriever.files.records import RecordFormat
from cde_train.errors import ArtifactError, TrainingDataError

FORMAT = RecordFormat(1, ArtifactError, "restore it, or delete the folder and embed again")
VECTORS, KEYS, MANIFEST = "vectors.f32", "keys.sha256", "manifest.json"
KEY_BYTES = 32
_READ_BYTES = 1 << 24


class TextLookup(Protocol):
    """Vectors by text; `TextVectors` has them."""

    def take(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors of these texts, (m, d)."""


@dataclass(frozen=True)
class Manifest:
    """What a folder of vectors holds.

    Attributes:
        identity: Name of the surrogate and of its weights; vectors of two identities never mix.
        prompt: Text put before every text.
        width: Width of a vector; None before the first chunk.
        rows: Rows that are complete.
        vectors_crc32: Checksum of these rows.
        keys_crc32: Checksum of their keys.
        dtype: Type of the numbers.
    """

    identity: str
    prompt: str = ""
    width: int | None = None
    rows: int = 0
    vectors_crc32: int = 0
    keys_crc32: int = 0
    dtype: str = "<f4"

    def sizes(self) -> dict[str, int]:
        """Return the number of good bytes of each file."""
        return {VECTORS: self.rows * (self.width or 0) * 4, KEYS: self.rows * KEY_BYTES}


@dataclass(frozen=True, eq=False)
class TextVectors:
    """Vectors of texts, on disk.

    Attributes:
        folder: Where they lie.
        manifest: What they are.
        vectors: Unit rows in the order the texts were first seen, (n, d) float32, read-only, memory-mapped.
    """

    folder: Path
    manifest: Manifest
    vectors: NDArray[np.float32]
    _rows: dict[bytes, int]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "TextVectors":
        """Open what `embed_texts` wrote; reads it once to compare the checksums.

        Raises:
            FileNotFoundError: if there is nothing.
            ArtifactError: if a file is damaged; names it.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        if manifest is None:
            raise FileNotFoundError(f"{folder} holds no vectors ({MANIFEST} is missing); embed the texts first")
        return cls.opened(folder, manifest, read_keys(folder, manifest))

    @classmethod
    def opened(cls, folder: Path, manifest: Manifest, rows: dict[bytes, int]) -> "TextVectors":
        """Open a folder whose manifest and keys were read and checked already."""
        if not manifest.rows or manifest.width is None:
            raise TrainingDataError(f"{folder} holds no vectors, because no text was given; give at least one")
        shape = (manifest.rows, manifest.width)
        return cls(folder, manifest, np.memmap(folder / VECTORS, dtype=manifest.dtype, mode="r", shape=shape), rows)

    def __len__(self) -> int:
        """Return the number of distinct texts."""
        return self.manifest.rows

    @property
    def width(self) -> int:
        """Width of a vector, d."""
        return int(self.vectors.shape[1])

    def rows(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each text, (m,).

        Raises:
            TrainingDataError: if a text has no vector; says how many and which is the first.
        """
        found = np.fromiter((self._rows.get(text_key(text), -1) for text in texts), dtype=np.int64, count=len(texts))
        missing = np.flatnonzero(found < 0)
        if len(missing):
            raise TrainingDataError(
                f"{len(missing)} of {len(texts)} texts have no vector in {self.folder}, the first is "
                f"{texts[missing[0]]!r:.80}; embed them first"
            )
        return found

    def take(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of these texts, (m, d), in memory."""
        return np.asarray(self.vectors[self.rows(texts)])

    def view(self, texts: Sequence[str]) -> "VectorRows":
        """Return the vectors of these texts, (m, d), left on disk until rows of them are asked for."""
        return VectorRows(self.vectors, self.rows(texts))


@dataclass(frozen=True, eq=False)
class VectorRows:
    """Rows of an array in another order, or repeated, without a copy.

    Attributes:
        vectors: The array, (n, d).
        rows: Which of its rows, (m,).
    """

    vectors: NDArray[np.float32]
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and width, (m, d)."""
        return len(self.rows), int(self.vectors.shape[1])

    def __getitem__(self, index: Any, /) -> NDArray[np.float32]:
        """Return these rows, in memory."""
        return np.asarray(self.vectors[self.rows[index]])


def text_key(text: str) -> bytes:
    """Return the sha256 of a text, 32 bytes.

    Raises:
        TypeError: if it is not a string.
        TrainingDataError: if it is not valid Unicode.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected a text, received {type(text).__name__}: {text!r:.80}")
    if fault := unicode_fault(text):
        raise TrainingDataError(f"text {text!r:.80} is not valid Unicode ({fault}); clean it")
    return bytes.fromhex(hash_text(text))


def append_rows(folder: Path, manifest: Manifest, vectors: NDArray[np.float32], keys: list[bytes]) -> Manifest:
    """Write rows, then count them; on failure the files are as before."""
    width = vectors.shape[1]
    if manifest.width not in (None, width):
        raise ArtifactError(
            f"{folder} holds vectors of width {manifest.width}, surrogate {manifest.identity!r} now gives {width}; "
            "use another folder, or give the changed surrogate another identity"
        )
    data = {VECTORS: vectors.astype(manifest.dtype).tobytes(), KEYS: b"".join(keys)}
    updated = replace(
        manifest,
        width=width,
        rows=manifest.rows + len(keys),
        vectors_crc32=zlib.crc32(data[VECTORS], manifest.vectors_crc32),
        keys_crc32=zlib.crc32(data[KEYS], manifest.keys_crc32),
    )
    try:
        for name, content in data.items():
            _write_at_end(folder / name, content)
        _write_manifest(folder, updated)
    except OSError as error:
        _cut(folder, manifest)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskError(
            error.errno,
            f"the disk is full: {folder} keeps its {manifest.rows} vectors; free space (each takes "
            f"{width * 4 + KEY_BYTES} bytes) and run the same again",
        ) from error
    return updated


def _write_at_end(file: Path, content: bytes) -> None:
    with file.open("ab") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    FORMAT.write(folder / MANIFEST, asdict(manifest))


def _cut(folder: Path, manifest: Manifest) -> None:
    """Drop rows that were written but never counted."""
    for name, size in manifest.sizes().items():
        if (folder / name).exists() and (folder / name).stat().st_size > size:
            os.truncate(folder / name, size)


def resume(folder: Path, wanted: Manifest) -> Manifest:
    """Return the manifest to go on from, a new one for an empty folder."""
    manifest = _read_manifest(folder)
    if manifest is None:
        for name in (VECTORS, KEYS):
            if (folder / name).exists():
                raise ArtifactError(f"{folder / name} is there without {MANIFEST}; restore it, or delete the folder")
        _write_manifest(folder, wanted)  # before any row, so that rows without a manifest are damage
        return wanted
    if (manifest.identity, manifest.prompt) != (wanted.identity, wanted.prompt):
        raise ArtifactError(
            f"{folder} holds vectors of surrogate {manifest.identity!r} with prompt {manifest.prompt!r}, received "
            f"{wanted.identity!r} with {wanted.prompt!r}; use another folder, or delete this one"
        )
    _cut(folder, manifest)
    return manifest


def _read_manifest(folder: Path) -> Manifest | None:
    file = folder / MANIFEST
    if not file.is_file():
        return None
    values = FORMAT.read(file)
    with FORMAT.reading(file):
        manifest = Manifest(**values)
        sizes = manifest.sizes()
    checksums = {VECTORS: manifest.vectors_crc32, KEYS: manifest.keys_crc32}
    for name, size in sizes.items():
        _check_file(folder / name, size, checksums[name])
    return manifest


def _check_file(file: Path, size: int, checksum: int) -> None:
    there = file.stat().st_size if file.exists() else 0
    if there < size:
        raise ArtifactError(f"{file} has {there} bytes, expected at least {size}; delete its folder and embed again")
    if not size:
        return
    found, left = 0, size
    with file.open("rb") as stream:
        while left:
            block = stream.read(min(left, _READ_BYTES))
            found, left = zlib.crc32(block, found), left - len(block)
    if found != checksum:
        raise ArtifactError(f"{file} does not match its checksum; restore it, or delete its folder and embed again")


def read_keys(folder: Path, manifest: Manifest) -> dict[bytes, int]:
    """Return the row of each key; the manifest's checksums have been compared before."""
    if not manifest.rows:
        return {}
    with (folder / KEYS).open("rb") as stream:
        return {stream.read(KEY_BYTES): row for row in range(manifest.rows)}
