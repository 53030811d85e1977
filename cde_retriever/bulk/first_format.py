"""Continue an output of version 0.1.0, which recorded no hashes of parts: each is compared with the corpus first."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from cde_retriever.bulk.manifest import MANIFEST, Manifest
from cde_retriever.bulk.parts import part_file, read_table, refuse_foreign_part, vectors_of
from cde_retriever.bulk.records import PartRecord, PartRecords
from cde_retriever.bulk.shards import shard_rows
from cde_retriever.context.context import FILE_NAME
from cde_retriever.corpus.rows import Corpus, Document, read_documents
from cde_retriever.errors import OutputError
from cde_retriever.files.hashing import hash_file


def convert(folder: Path, manifest: Manifest, corpus: Corpus, metadata: dict[str, str]) -> None:
    """Record the parts that hold what the corpus and the model say, and write the manifest of this version.

    A part that is damaged or holds other documents is not recorded, and will be embedded again.

    Args:
        folder: The output; its context has been compared.
        manifest: What version 0.1.0 wrote.
        corpus: The corpus, whose files have been compared.
        metadata: What the metadata of a part have to say.

    Raises:
        OutputError: if the manifest states other numbers of rows than the files have, or a part belongs elsewhere.
    """
    documents = _counted(corpus, folder / MANIFEST)
    records = []
    for number, rows in enumerate(shard_rows(corpus.rows, manifest.shard_size)):
        shard = list(islice(documents, rows))
        file = part_file(folder, number)
        refuse_foreign_part(file, metadata)
        if _holds(file, shard, manifest.width):
            empty = sum(not document.text.strip() for document in shard)
            records.append(PartRecord(number, rows, hash_file(file), empty, None))
    deque(documents, maxlen=0)  # a file is counted when its end is met
    PartRecords(folder).replace(records)
    manifest.write(folder)
    remove_first_format(folder)


def remove_first_format(folder: Path) -> None:
    """Remove what version 0.1.0 wrote beside the parts, once it stands where this version writes it."""
    for name in (MANIFEST, FILE_NAME):
        (folder / name).unlink(missing_ok=True)


def _counted(corpus: Corpus, manifest: Path) -> Iterator[Document]:
    for file in corpus.files:
        rows = 0
        for document in read_documents(corpus.folder, file.name, corpus.columns):
            rows += 1
            yield document
        if rows != file.rows:
            raise OutputError(
                f"{manifest} says that {file.name} has {file.rows} rows, it has {rows}; restore the manifest, or "
                "choose another output"
            )


def _holds(file: Path, shard: list[Document], width: int) -> bool:
    """Tell whether a part holds unit vectors of these documents; its page checksums are verified."""
    try:
        table = read_table(file)
    except OutputError:  # not there, or damaged
        return False
    vectors = vectors_of(table)
    if "id" not in table.schema.names or vectors.shape != (len(shard), width):
        return False
    same = table["id"].to_pylist() == [document.id for document in shard]
    return same and bool(np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3))
