"""Write, find and verify parts: Parquet files of ids and vectors, each there whole or not at all.

    part-000123.parquet     id: string, vector: fixed-size list of d float32; of passages also text: string;
                            of both parts also sparse_indices: list of uint32, sparse_values: list of float32

The Parquet metadata of a part say which documents its vectors are of, under which context and by which model. Unit
vectors are stored as they are, because they hardly compress.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.bulk.records import PartRecord
from cde_retriever.errors import OutputError
from cde_retriever.files.hashing import hash_file
from cde_retriever.files.replacing import replacing
from cde_retriever.words.sparse import Sparse

try:
    import pyarrow
    import pyarrow.parquet
except ModuleNotFoundError as missing:
    raise ImportError(f'{missing}; install it with: pip install "cde-retriever[bulk]"') from missing

CONTEXT_KEY, MODEL_KEY, CORPUS_KEY, NUMBER_KEY = "cde_context", "cde_model", "cde_corpus", "cde_part"
PARTS_KEY = "cde_parts"
INDICES, VALUES = "sparse_indices", "sparse_values"
ROWS_AT_ONCE = 1024
"""Rows of a row group: what a writer holds twice, and a reader at least once."""


def part_file(folder: Path, number: int) -> Path:
    """Return the file of a part."""
    return folder / f"part-{number:06d}.parquet"


def part_files(folder: Path) -> list[Path]:
    """Return the parts of a folder, in order."""
    return sorted(folder.glob("part-*.parquet"), key=lambda file: int(file.stem.removeprefix("part-")))


def write_part(
    file: Path,
    ids: Sequence[str],
    vectors: NDArray[np.float32],
    metadata: dict[str, str],
    texts: Sequence[str] | None = None,
    sparse: Sparse | None = None,
) -> str:
    """Write a part and return its sha256; a killed process leaves nothing by that name.

    Args:
        file: Where to.
        ids: Ids of the documents, n of them.
        vectors: Their vectors, (n, d).
        metadata: What the Parquet metadata will say.
        texts: The documents themselves, if they are to be kept beside their vectors.
        sparse: Their sparse parts, if they have any, (n, 2**32).
    """
    width = vectors.shape[1]
    numbers = pyarrow.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    columns = {
        "id": pyarrow.array(ids, pyarrow.string()),
        "vector": pyarrow.FixedSizeListArray.from_arrays(numbers, width),
    }
    if texts is not None:
        columns["text"] = pyarrow.array(texts, pyarrow.string())
    if sparse is not None:
        columns[INDICES] = _lists(sparse.starts, sparse.indices.astype(np.uint32))
        columns[VALUES] = _lists(sparse.starts, sparse.values)
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    with replacing(file) as stream:
        pyarrow.parquet.write_table(
            table,
            stream,
            row_group_size=ROWS_AT_ONCE,
            compression="none",
            use_dictionary=[f"{name}.list.element" for name in (INDICES, VALUES)],  # texts share words: half the size
            write_page_checksum=True,
        )
    return hash_file(file)


def _lists(starts: NDArray[np.int64], numbers: NDArray[Any]) -> "pyarrow.Array":
    return pyarrow.ListArray.from_arrays(pyarrow.array(starts, pyarrow.int32()), pyarrow.array(numbers))


def damaged_parts(folder: Path, records: Sequence[PartRecord]) -> list[int]:
    """Return the numbers of the parts that are not there as they were recorded; reads all of them, in parallel."""
    with ThreadPoolExecutor() as pool:
        as_recorded = pool.map(lambda record: _has_hash(part_file(folder, record.number), record.sha256), records)
        return [record.number for record, same in zip(records, as_recorded, strict=True) if not same]


def _has_hash(file: Path, sha256: str) -> bool:
    try:
        return hash_file(file) == sha256
    except OSError:  # it is gone, or cannot be read; it will be written again
        return False


def refuse_foreign_part(file: Path, metadata: dict[str, str]) -> None:
    """Keep a part that belongs elsewhere from being overwritten.

    Raises:
        OutputError: if the file can be read as a part, and its metadata say something else than these.
    """
    try:
        found = pyarrow.parquet.read_metadata(file)
    except (OSError, pyarrow.ArrowException):  # not there, or damaged; it will be written again
        return
    stated = {key.decode(): value.decode(errors="replace") for key, value in (found.metadata or {}).items()}
    for key, value in metadata.items():
        if key in stated and stated[key] != value:
            raise OutputError(f"{file} has {key} {stated[key]!r}, expected {value!r}; move it out of this folder")


def read_table(part: Path | bytes) -> "pyarrow.Table":
    """Read a part, or what its file holds; its page checksums are verified.

    Raises:
        OutputError: if it cannot be read.
    """
    source = pyarrow.BufferReader(part) if isinstance(part, bytes) else part
    try:
        return pyarrow.parquet.read_table(source, page_checksum_verification=True)
    except (OSError, pyarrow.ArrowException) as error:
        raise OutputError(f"{part if isinstance(part, Path) else 'the part'} cannot be read ({error})") from error


def vectors_of(table: "pyarrow.Table") -> NDArray[np.float32]:
    """Return the vectors of a part, (n, d); no vectors, (0, 0), if it has none of the right type."""
    kind: Any = table.schema.field("vector").type if "vector" in table.schema.names else pyarrow.null()
    if not (pyarrow.types.is_fixed_size_list(kind) and kind.value_type == pyarrow.float32()):
        return np.zeros((0, 0), np.float32)
    flat = table["vector"].combine_chunks().flatten().to_numpy()
    found: NDArray[np.float32] = flat.reshape(-1, kind.list_size)
    return found


def sparse_of(table: "pyarrow.Table") -> Sparse | None:
    """Return the sparse parts of a part, (n, 2**32); None if it has none."""
    if INDICES not in table.schema.names:
        return None
    indices, values = (table[name].combine_chunks() for name in (INDICES, VALUES))
    starts = indices.offsets.to_numpy().astype(np.int64)
    numbers = indices.flatten().to_numpy().astype(np.int64)
    return Sparse(starts - starts[0], numbers, values.flatten().to_numpy())


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes had begun to write; call it when nobody writes."""
    for file in folder.glob(".part-*"):
        file.unlink(missing_ok=True)
