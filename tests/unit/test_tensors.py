"""Safetensors files are read as the library reads them, and damaged ones are refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from cde_retriever.files.tensors import read_tensor_shapes, read_tensors

ARRAYS = {
    "vectors": np.arange(12, dtype=np.float32).reshape(4, 3),
    "counts": np.array([[1, -2]], np.int64),
    "none": np.zeros((0, 5), np.float32),
    "places": np.array([0, 2**32 - 1], np.uint32),
    "documents": np.array([2**16 - 1], np.uint16),
    "text": np.frombuffer(b"abc", np.uint8),
}
DATA = save(ARRAYS, metadata={"says": "something"})


def with_header(change):
    """Return `DATA` with a changed header."""
    length = int.from_bytes(DATA[:8], "little")
    header = json.loads(DATA[8 : 8 + length])
    header = change(header) or header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + DATA[8 + length :]


def test_tensors_are_those_that_the_library_reads(tmp_path):
    found, metadata = read_tensors(DATA)
    assert metadata == {"says": "something"}
    assert found.keys() == ARRAYS.keys()
    for name, array in load(DATA).items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    (tmp_path / "file.safetensors").write_bytes(save({**ARRAYS, "half": np.zeros((2, 2), np.float16)}))
    shapes = read_tensor_shapes(tmp_path / "file.safetensors")
    assert shapes == {
        "vectors": (4, 3),
        "counts": (1, 2),
        "none": (0, 5),
        "places": (2,),
        "documents": (1,),
        "text": (3,),
        "half": (2, 2),
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        DATA[:5],
        DATA[: len(DATA) // 2],
        DATA[:-1],
        (10**18).to_bytes(8, "little") + DATA[8:],
        with_header(lambda header: [header]),
        with_header(lambda _: b"[" * 100_000),
        with_header(lambda header: header.update(vectors=5)),
        with_header(lambda header: header["vectors"].update(shape=[4, -3])),
        with_header(lambda header: header["vectors"].update(shape=[4, 4])),
        with_header(lambda header: header["vectors"].update(shape=[10**30, 0, 3])),
        with_header(lambda header: header["vectors"].update(data_offsets=[0, 10**9])),
        with_header(lambda header: header["vectors"].update(data_offsets=[48, 0])),
        with_header(lambda header: header["vectors"].pop("dtype") and None),
        with_header(lambda header: header.update(__metadata__={"says": 5})),
    ],
)
def test_damaged_files_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"."):
        read_tensors(data)
    (tmp_path / "file.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"."):
        read_tensor_shapes(tmp_path / "file.safetensors")


def test_a_type_that_only_the_library_reads_is_refused_by_name():
    with pytest.raises(ValueError, match=r"tensor 'half' has type 'F16', expected F32 or I64 or U32 or U16 or U8"):
        read_tensors(save({"half": np.zeros(2, np.float16)}))
