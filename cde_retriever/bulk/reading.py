"""Read the vectors that `cde embed` wrote, each part compared with what was recorded when it was written."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cde_retriever.bulk.manifest import Manifest
from cde_retriever.bulk.parts import part_file, read_table, sparse_of, vectors_of
from cde_retriever.bulk.records import PartRecord, PartRecords
from cde_retriever.bulk.shards import shard_rows
from cde_retriever.errors import OutputError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class Part(NamedTuple):
    """Documents of an output.

    Attributes:
        ids: Their ids.
        vectors: Their vectors, (n, d) float32 of unit length; dense parts where `sparse` stands beside them.
        sparse: Their sparse parts, (n, 2**32) float32; None for an output without.
    """

    ids: list[str]
    vectors: NDArray[np.float32]
    sparse: "csr_array[Any] | None"


def read_parts(output: str | os.PathLike[str]) -> Iterator[Part]:
    """Yield all parts of an output in the order of its corpus; memory is a part.

    Raises:
        OutputError: if the output is unfinished or damaged; names the part.
    """
    folder = Path(output).expanduser()
    manifest = Manifest.read(folder)
    if manifest is None:
        raise OutputError(f"{folder} holds no finished output of this version; run the cde embed that made it again")
    records = PartRecords(folder).done
    for number, rows in enumerate(shard_rows(manifest.rows, manifest.shard_size)):
        record = records.get(number)
        if record is None or record.rows != rows:
            raise OutputError(f"{part_file(folder, number)} is not done; run the same cde embed again")
        yield _read(part_file(folder, number), record)


def _read(file: Path, record: PartRecord) -> Part:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise OutputError(f"{file} cannot be read ({error}); run the same cde embed again") from error
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise OutputError(f"{file} is not as it was written; run the same cde embed again, which replaces it")
    table = read_table(data)
    sparse = sparse_of(table)
    return Part(table["id"].to_pylist(), vectors_of(table), None if sparse is None else sparse.csr())
