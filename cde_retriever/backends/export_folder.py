"""Write and read the record of an ONNX export: which checkpoint it is of, its precision, and the sha256 of its files.

export.json          the checkpoint's sha256, precision, sizes, the sha256 of every other file (`Export`)
config.json          the checkpoint's configuration
tokenizer.json       the checkpoint's tokenizer
second_stage.onnx    token ids, mask, state → vectors; the state of a context is an input
prepare.onnx         what is known of a context → its state
null_state.npz       the state of the null context
first_stage.onnx     token ids, mask → dataset embeddings; only where the second stage reads them
queries/             an export of the encoder of queries, where it is another than that of documents
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from cde_retriever.checkpoint.folder import CONFIG_NAME, TOKENIZER_NAME
from cde_retriever.errors import CheckpointError
from cde_retriever.files.hashing import hash_file
from cde_retriever.files.records import RecordFormat

EXPORT_NAME = "export.json"
SECOND_STAGE, PREPARE, FIRST_STAGE = "second_stage.onnx", "prepare.onnx", "first_stage.onnx"
NULL_STATE = "null_state.npz"
PRECISIONS = ("float32", "int8")
CACHE_VARIABLE = "CDE_CACHE"
FORMAT = RecordFormat(2, CheckpointError, "export the checkpoint again: cde export CHECKPOINT -o FOLDER")
"""Version 1 kept sizes instead of hashes, so that damage went unseen."""


@dataclass(frozen=True)
class Export:
    """What ``export.json`` says.

    Attributes:
        checkpoint: sha256 of the checkpoint that was exported; contexts and vectors of both are the same.
        dtype: ``"float32"``, or ``"int8"``: matrices have 8 bits and meet inputs of 8 bits, with a scale a block.
        dimension: Width of the output vectors.
        vocabulary_size: Number of token ids the second stage knows.
        first_stage_width: Width of the dataset embeddings that are read; 0 if their number alone is.
        states: Number of tensors that make a context's state.
        files: sha256 of every other file.
    """

    checkpoint: str
    dtype: str
    dimension: int
    vocabulary_size: int
    first_stage_width: int
    states: int
    files: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write it into the folder it describes."""
        FORMAT.write(folder / EXPORT_NAME, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Export":
        """Read it.

        Raises:
            CheckpointError: if it is missing, damaged or of another format.
        """
        try:
            values = FORMAT.read(folder / EXPORT_NAME)
        except OSError as error:
            raise CheckpointError(f"cannot read {folder / EXPORT_NAME} ({error}); {FORMAT.remedy}") from error
        with FORMAT.reading(folder / EXPORT_NAME):
            export = cls(**values)
            if set(map(type, values["files"].values())) - {str}:
                raise TypeError("a sha256 is no text")
            return export

    def verify(self, folder: Path, names: Iterable[str] = ()) -> None:
        """Compare files with their hashes.

        Args:
            folder: The export's folder.
            names: Which files; by default all.

        Raises:
            CheckpointError: if one is missing or is not what was exported; names it.
        """
        needed = {CONFIG_NAME, TOKENIZER_NAME, SECOND_STAGE, NULL_STATE, *self.files}
        needed |= {PREPARE} if self.states else set()
        names = list(names) or sorted(needed | ({FIRST_STAGE} if self.first_stage_width else set()))
        with ThreadPoolExecutor() as pool:
            try:
                hashes = list(pool.map(hash_file, [folder / name for name in names]))
            except OSError as error:
                raise CheckpointError(f"cannot read {error.filename} ({error}); {FORMAT.remedy}") from error
        for name, sha256 in zip(names, hashes, strict=True):
            expected = self.files.get(name)
            if sha256 != expected:
                raise CheckpointError(
                    f"{folder / name} is not what was exported (its sha256 is {sha256[:12]}, {EXPORT_NAME} says "
                    f"{expected and expected[:12]}); {FORMAT.remedy}"
                )


def is_export(folder: Path) -> bool:
    """Whether a folder holds an export rather than a checkpoint."""
    return (folder / EXPORT_NAME).is_file()


def cached_export(sha256: str, dtype: str) -> Path:
    """Return where the export of a checkpoint is kept: below ``CDE_CACHE``, by default the user's cache folder."""
    cache = os.environ.get(CACHE_VARIABLE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "cde_retriever"
    return Path(cache).expanduser() / "onnx" / f"{sha256[:32]}-{dtype}-{FORMAT.version}"
