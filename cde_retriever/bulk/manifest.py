"""Record the model, context and corpus behind a folder of vectors, so that a later run continues only with the same."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cde_retriever.corpus.rows import Columns, CorpusFile
from cde_retriever.errors import OutputError
from cde_retriever.files.records import RECORDS_FOLDER, RecordFormat

MANIFEST = "manifest.json"
_REMEDY = "restore it, or choose another output"
_FORMAT = RecordFormat(4, OutputError, _REMEDY, oldest=2)  # 2 lacks `parts`, 3 lacks `fitted`
_FIRST_FORMAT = RecordFormat(1, OutputError, _REMEDY)


@dataclass(frozen=True)
class Manifest:
    """What the parts in a folder have in common.

    Attributes:
        model: sha256 of the model.
        model_name: Its name; for people.
        context: Fingerprint of the context.
        width: Width of a vector, d.
        dtype: Precision of the model.
        shard_size: Documents a part.
        columns: Which columns make a document.
        files: Files of the corpus, in order.
        parts: Which parts of a document's representation are there, one of `cde_retriever.bulk.settings.FORMS`.
        fitted: Whether the context was fitted for these parts, so that its documents' vectors are taken from it.
    """

    model: str
    model_name: str
    context: str
    width: int
    dtype: str
    shard_size: int
    columns: Columns
    files: tuple[CorpusFile, ...]
    parts: str = "one"
    fitted: bool = False

    @property
    def rows(self) -> int:
        """Number of documents."""
        return sum(file.rows for file in self.files)

    @property
    def corpus(self) -> str:
        """sha256 over the files, how documents are made of them, and how they are cut into parts."""
        return _hash([asdict(file) for file in self.files], asdict(self.columns), self.shard_size)

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """Read the manifest of a folder; None if it has none.

        Raises:
            OutputError: if it is damaged, was edited, or is of another version.
        """
        file = folder / RECORDS_FOLDER / MANIFEST
        if not file.is_file():
            return None
        with _FORMAT.reading(file):
            values = _FORMAT.read(file)
            stated = values.pop("sha256")
            if stated != _hash(values):
                raise OutputError(f"{file} is not as it was written (its sha256 is another); {_REMEDY}")
            return cls._of(values)

    @classmethod
    def read_first_format(cls, folder: Path) -> "Manifest | None":
        """Read the manifest that version 0.1.0 wrote; None if there is none.

        Raises:
            OutputError: if it is damaged.
        """
        file = folder / MANIFEST
        if not file.is_file():
            return None
        with _FIRST_FORMAT.reading(file):
            return cls._of(_FIRST_FORMAT.read(file))

    @classmethod
    def _of(cls, values: dict[str, Any]) -> "Manifest":
        values["columns"] = Columns(**values["columns"])
        values["files"] = tuple(CorpusFile(**file) for file in values["files"])
        return cls(**values)

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder; all or nothing."""
        (folder / RECORDS_FOLDER).mkdir(exist_ok=True)
        values = json.loads(json.dumps(asdict(self)))
        _FORMAT.write(folder / RECORDS_FOLDER / MANIFEST, {**values, "sha256": _hash(values)})

    def refuse_setting(self, name: str, received: object, folder: Path) -> None:
        """Compare one attribute.

        Raises:
            OutputError: if it is another one; names both.
        """
        there = getattr(self, name)
        if received != there:
            raise OutputError(
                f"{folder} holds vectors with {name} {there}, received {received}; choose another output, or continue "
                "with what it was begun with"
            )

    def refuse_files(self, hashes: dict[str, str], folder: Path) -> None:
        """Compare the corpus's files, names to hashes.

        Raises:
            OutputError: if a file is new, gone or changed; names the first.
        """
        there = {file.name: file.sha256 for file in self.files}
        for name in sorted(there.keys() | hashes.keys()):
            if there.get(name) != hashes.get(name):
                what = "is new" if name not in there else "is gone" if name not in hashes else "has changed"
                raise OutputError(
                    f"{folder} holds vectors of another corpus: {name} {what}; choose another output and, to embed it "
                    f"under the same context, --context {folder}"
                )


def _hash(*values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
