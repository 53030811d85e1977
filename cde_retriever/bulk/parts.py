"""Vectors on disk as parts: Parquet files of ids and vectors, each there whole or not at all.

    part-000123.parquet     id: string, vector: fixed-size list of d float32

The Parquet metadata of a part say under which context and by which model its vectors were made. The numbers are stored
as they are: unit vectors hardly compress.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cde_retriever.errors import OutputError
from cde_retriever.files.replacing import replacing

try:
    import pyarrow
    import pyarrow.parquet
except ModuleNotFoundError as missing:
    raise ImportError(f'{missing}; install it with: pip install "cde-retriever[bulk]"') from missing

CONTEXT_KEY, MODEL_KEY = "cde_context", "cde_model"
ROWS_AT_ONCE = 1024
"""Rows of a row group: what a writer holds twice, and a reader at least once."""


def part_file(folder: Path, number: int) -> Path:
    """Return the file of a part."""
    return folder / f"part-{number:06d}.parquet"


def part_files(folder: Path) -> list[Path]:
    """Return the parts of a folder, in order."""
    return sorted(folder.glob("part-*.parquet"), key=lambda file: int(file.stem.removeprefix("part-")))


def write_part(file: Path, ids: Sequence[str], vectors: NDArray[np.float32], metadata: dict[str, str]) -> None:
    """Write a part; a killed process leaves nothing by that name.

    Args:
        file: Where to.
        ids: Ids of the documents, n of them.
        vectors: Their vectors, (n, d).
        metadata: What the Parquet metadata will say.
    """
    width = vectors.shape[1]
    numbers = pyarrow.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    columns = {
        "id": pyarrow.array(ids, pyarrow.string()),
        "vector": pyarrow.FixedSizeListArray.from_arrays(numbers, width),
    }
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    with replacing(file) as stream:
        pyarrow.parquet.write_table(
            table,
            stream,
            row_group_size=ROWS_AT_ONCE,
            compression="none",
            use_dictionary=False,
            write_page_checksum=True,
        )


def is_whole(file: Path, rows: int, metadata: dict[str, str]) -> bool:
    """Tell whether a part is there with all its rows; reads the end of the file only.

    Raises:
        OutputError: if it is whole and its metadata say something else.
    """
    try:
        found = pyarrow.parquet.read_metadata(file)
    except (OSError, pyarrow.ArrowException):  # not there, or damaged; it will be written again
        return False
    stated = {key.decode(): value.decode() for key, value in (found.metadata or {}).items()}
    for key, value in metadata.items():
        if stated.get(key) != value:
            raise OutputError(f"{file} has {key} {stated.get(key)!r}, expected {value!r}; move it out of this folder")
    return int(found.num_rows) == rows


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes had begun to write; call it when nobody writes."""
    for file in folder.glob(".part-*"):
        file.unlink(missing_ok=True)


def missing_parts(folder: Path, rows: Iterable[int], metadata: dict[str, str]) -> list[int]:
    """Return the numbers of the parts that are not there whole; `rows` are those each should have."""
    return [i for i, count in enumerate(rows) if not is_whole(part_file(folder, i), count, metadata)]
