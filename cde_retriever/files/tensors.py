"""Read and hash safetensors files with NumPy alone: a length of 8 bytes, a JSON header, the tensors' bytes."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from cde_retriever.files.records import parse_json

LENGTH_BYTES = 8
LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""
METADATA_KEY = "__metadata__"
DTYPES = {"F32": "<f4", "I64": "<i8", "U32": "<u4", "U16": "<u2", "U8": "|u1"}
"""Types of the tensors that this project reads without the library, by their names in a header."""


def read_tensors(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return tensors and metadata of a file's content; the arrays are read-only views of it.

    Raises:
        ValueError: if it is damaged, or a tensor has another type than `DTYPES`.
    """
    length = _header_length(data[:LENGTH_BYTES], len(data))
    start = LENGTH_BYTES + length
    tensors, metadata = _parse_header(data[LENGTH_BYTES:start], len(data) - start)
    view = memoryview(data)
    arrays = {}
    for name, info in tensors.items():
        if info["dtype"] not in DTYPES:
            raise ValueError(f"tensor {name!r} has type {info['dtype']!r}, expected {' or '.join(DTYPES)}")
        first, last = info["data_offsets"]
        array = np.frombuffer(view[start + first : start + last], DTYPES[info["dtype"]])
        arrays[name] = array.reshape(info["shape"])
    return arrays, metadata


def hash_tensors(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the sha256 over names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a file; reads its header alone.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged.
    """
    return {name: tuple(info["shape"]) for name, info in _read_header(file)[0].items()}


def read_metadata(file: Path) -> dict[str, str]:
    """Return the metadata of a file; reads its header alone, and raises as `read_tensor_shapes` does."""
    return _read_header(file)[1]


def _read_header(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = _header_length(stream.read(LENGTH_BYTES), size)
        return _parse_header(stream.read(length), size - LENGTH_BYTES - length)


def _header_length(data: bytes, size: int) -> int:
    length = int.from_bytes(data, "little")
    if len(data) < LENGTH_BYTES or length > min(LONGEST_HEADER, size - LENGTH_BYTES):
        raise ValueError(f"a file of {size} bytes with a header of {length} is no whole safetensors file")
    return length


def _parse_header(data: bytes, size: int) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return what a header says of each tensor, and the metadata; `size` is the number of bytes after it."""
    header = parse_json(data)
    if not isinstance(header, dict):
        raise ValueError(f"the header is a {type(header).__name__}, expected an object")
    metadata = header.pop(METADATA_KEY, {})
    if not _is_mapping_of(metadata, str):
        raise ValueError("the metadata are no mapping of strings")
    for name, info in header.items():
        if not _describes_tensor(info, size):
            raise ValueError(f"the header says {info!r:.200} of tensor {name!r:.80}, which is none in {size} bytes")
    return header, metadata


def _is_mapping_of(value: Any, kind: type) -> bool:
    return isinstance(value, Mapping) and all(isinstance(item, kind) for item in value.values())


def _describes_tensor(info: Any, size: int) -> bool:
    if not isinstance(info, dict) or not isinstance(info.get("dtype"), str):
        return False
    offsets, shape = info.get("data_offsets"), info.get("shape")
    if not (_are_sizes(offsets) and _are_sizes(shape) and len(offsets) == 2):
        return False
    first, last = offsets
    wide = int(DTYPES[info["dtype"]][-1]) if info["dtype"] in DTYPES else None
    return first <= last <= size and (wide is None or math.prod(shape) * wide == last - first)


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
