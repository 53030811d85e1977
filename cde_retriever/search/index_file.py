"""Keep a `PartsIndex` in one file, with the fingerprint of its context and the hash of its content.

The file is safetensors: arrays of each segment, ids as JSON. It is replaced as a whole, so a killed process leaves the
old index or the new one. What joins or leaves an index later may be written into a log beside the file
(`cde_retriever.files.appending`), which `open_index` reads and `save_index` removes.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.errors import ContextFormatError, ContextMismatchError
from cde_retriever.files.appending import Log
from cde_retriever.files.records import RecordFormat, parse_json
from cde_retriever.files.replacing import read_unchanged, write_atomically
from cde_retriever.files.tensors import hash_tensors, read_metadata, read_tensors
from cde_retriever.search.parts_index import PartsIndex
from cde_retriever.search.segment import LARGEST, Segment

FORMAT = RecordFormat(1, ContextFormatError, "restore it, or embed the documents again")
FILE_NAME = "parts_index.safetensors"
METADATA_KEY = "cde_parts_index"
_ADDED, _DELETED = b"+", b"-"
_IDS = "ids"
_TYPES = {
    "dense": np.float32,
    "places": np.uint32,
    "starts": np.int64,
    "documents": np.uint16,
    "values": np.float32,
}


def index_file(path: str | os.PathLike[str]) -> Path:
    """Return the file a path stands for: itself if it names a ``.safetensors`` file, else one in that folder."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / FILE_NAME


def index_files(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return the file a path stands for, and that of its log."""
    file = index_file(path)
    return file, file.with_suffix(".changes")


def save_index(index: PartsIndex, path: str | os.PathLike[str]) -> Path:
    """Write an index to a file, or into a folder as ``parts_index.safetensors``; all or nothing.

    Raises:
        OSError: if it cannot be written; what was there is as it was.
    """
    file, log = index_files(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, index_to_bytes(index))
    log.unlink(missing_ok=True)
    return file


def open_index(path: str | os.PathLike[str], fingerprint: str) -> PartsIndex:
    """Read an index that `save_index` wrote, with the changes in its log.

    Args:
        path: The file, or its folder.
        fingerprint: That of the context queries are embedded under.

    Raises:
        FileNotFoundError: if there is none.
        ContextMismatchError: if it was made under another context; names both.
        ContextFormatError: if it is damaged or of another format version.
    """
    file, log = index_files(path)
    if not file.is_file():
        raise FileNotFoundError(f"no index at {file}; build one and save it there")

    def read() -> PartsIndex:
        index = index_from_bytes(file.read_bytes(), fingerprint, str(file))
        with FORMAT.reading(log):
            for change in open_log(file).read():
                _apply(index, change, f"a record of {log}")
        return index

    return read_unchanged(file, read)


def open_log(path: str | os.PathLike[str]) -> Log:
    """Return the log of the changes of an index that is in a file.

    Raises:
        ContextFormatError: if the file is damaged.
    """
    file, log = index_files(path)
    with FORMAT.reading(file):
        header = FORMAT.parse(read_metadata(file)[METADATA_KEY], file)
        return Log(log, bytes.fromhex(header["sha256"]))


def addition(joining: PartsIndex) -> bytes:
    """Return the record for a log of documents that join an index."""
    return _ADDED + index_to_bytes(joining)


def deletion(ids: Sequence[str]) -> bytes:
    """Return the record for a log of documents that leave an index."""
    return _DELETED + json.dumps(list(ids)).encode()


def _apply(index: PartsIndex, change: bytes, source: str) -> None:
    """Do to an index what a record says."""
    kind, content = change[:1], change[1:]
    if kind == _ADDED:
        index.join(index_from_bytes(content, index.fingerprint, source))
    elif kind == _DELETED:
        index.delete(parse_json(content))
    else:
        raise ValueError(f"{source} is of kind {kind!r}")


def index_to_bytes(index: PartsIndex) -> bytes:
    """Return an index as the content of a file."""
    from safetensors.numpy import save

    ids, segments = index.content()
    arrays: dict[str, NDArray[Any]] = {_IDS: np.frombuffer(json.dumps(ids).encode(), np.uint8)}
    for number, segment in enumerate(segments):
        arrays |= {f"{number}.{name}": getattr(segment, name) for name in _TYPES}
    header = {"fingerprint": index.fingerprint, "segments": len(segments), "sha256": hash_tensors(arrays)}
    return save(arrays, metadata={METADATA_KEY: FORMAT.to_text(header)})


def index_from_bytes(data: bytes, fingerprint: str, source: str = "bytes") -> PartsIndex:
    """Read what `index_to_bytes` gave; raises as `open_index` does."""
    with FORMAT.reading(source):
        arrays, metadata = read_tensors(data)
        header = FORMAT.parse(metadata[METADATA_KEY], source)
        if header["sha256"] != hash_tensors(arrays):
            raise ValueError("its content has another hash than it says")
        found = header["fingerprint"]
    if found != fingerprint:
        raise ContextMismatchError(
            f"{source} was made under context {found[:12]}, not {fingerprint[:12]}; open it with the context it was "
            "built with, or embed its documents again under this one"
        )
    with FORMAT.reading(source):
        ids = parse_json(arrays[_IDS].tobytes())
        return PartsIndex.of_content(fingerprint, ids, [_segment(arrays, i) for i in range(header["segments"])])


def _segment(arrays: dict[str, NDArray[Any]], number: int) -> Segment:
    segment = Segment(**{name: arrays[f"{number}.{name}"].astype(kind, copy=False) for name, kind in _TYPES.items()})
    entries, starts = len(segment.values), segment.starts
    # SciPy trusts these numbers, so a forged file would have it write outside of its arrays.
    if (
        segment.dense.ndim != 2
        or segment.size > LARGEST
        or not len(segment.documents) == entries == starts[-1]
        or len(starts) != len(segment.places) + 1
        or starts[0] != 0
        or (np.diff(starts) < 0).any()
        or (entries and segment.documents.max() >= segment.size)
    ):
        raise ValueError(f"the arrays of segment {number} do not belong together")
    return segment
