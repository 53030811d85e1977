"""What an ONNX export is: a folder that says which checkpoint it is of, and in which precision.

export.json          the checkpoint's sha256, precision, sizes (`Export`)
config.json          the checkpoint's configuration
tokenizer.json       the checkpoint's tokenizer
second_stage.onnx    token ids, mask, state → vectors; the state of a context is an input
prepare.onnx         what is known of a context → its state
null_state.npz       the state of the null context
first_stage.onnx     token ids, mask → dataset embeddings; only where the second stage reads them
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from cde_retriever.errors import CheckpointError

EXPORT_NAME = "export.json"
SECOND_STAGE, PREPARE, FIRST_STAGE = "second_stage.onnx", "prepare.onnx", "first_stage.onnx"
NULL_STATE = "null_state.npz"
FORMAT_VERSION = 1
PRECISIONS = ("float32", "int8")
CACHE_VARIABLE = "CDE_CACHE"


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
        files: Size of every other file, bytes.
    """

    checkpoint: str
    dtype: str
    dimension: int
    vocabulary_size: int
    first_stage_width: int
    states: int
    files: dict[str, int]

    def write(self, folder: Path) -> None:
        """Write it into the folder it describes."""
        content = {"format_version": FORMAT_VERSION, **asdict(self)}
        (folder / EXPORT_NAME).write_text(json.dumps(content, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Export":
        """Read it, and see that the files are there, whole.

        Raises:
            CheckpointError: if something is missing, cut, damaged or of another format; says what.
        """
        try:
            values = json.loads((folder / EXPORT_NAME).read_text())
            version = values.pop("format_version", None)
            if version != FORMAT_VERSION:
                raise CheckpointError(
                    f"{folder} has export format {version!r}, this version reads {FORMAT_VERSION}; export it again"
                )
            export = cls(**values)
            sizes = {name: (folder / name).stat().st_size for name in export.files}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder} is no whole ONNX export ({error}); export it again") from error
        for name, size in sizes.items():
            if size != export.files[name]:
                raise CheckpointError(
                    f"{folder / name} has {size} bytes, but was exported with {export.files[name]}; export it again"
                )
        return export


def is_export(folder: Path) -> bool:
    """Whether a folder holds an export rather than a checkpoint."""
    return (folder / EXPORT_NAME).is_file()


def cached_export(sha256: str, dtype: str) -> Path:
    """Return where the export of a checkpoint is kept: below ``CDE_CACHE``, by default the user's cache folder."""
    cache = os.environ.get(CACHE_VARIABLE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "cde_retriever"
    return Path(cache).expanduser() / "onnx" / f"{sha256[:32]}-{dtype}-{FORMAT_VERSION}"
