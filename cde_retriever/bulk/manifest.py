"""What a folder of vectors is of, as a file beside them, so that a later run goes on with the same or not at all."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cde_retriever.corpus.rows import Columns, CorpusFile
from cde_retriever.errors import OutputError
from cde_retriever.files.replacing import write_atomically

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


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
        format_version: Version of the layout.
    """

    model: str
    model_name: str
    context: str
    width: int
    dtype: str
    shard_size: int
    columns: Columns
    files: tuple[CorpusFile, ...]
    format_version: int = FORMAT_VERSION

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """Read the manifest of a folder; None if it has none.

        Raises:
            OutputError: if it is damaged or of another version.
        """
        file = folder / MANIFEST
        if not file.is_file():
            return None
        try:
            values: dict[str, Any] = json.loads(file.read_bytes())
            if values["format_version"] != FORMAT_VERSION:
                raise OutputError(
                    f"{file} has format {values['format_version']!r}, this version reads {FORMAT_VERSION}; choose "
                    "another output"
                )
            values["columns"] = Columns(**values["columns"])
            values["files"] = tuple(CorpusFile(**file) for file in values["files"])
            return cls(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{file} is damaged ({error!r}); restore it, or choose another output") from error

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder; all or nothing."""
        write_atomically(folder / MANIFEST, (json.dumps(asdict(self), indent=1) + "\n").encode())

    def refuse_setting(self, name: str, received: object, folder: Path) -> None:
        """Compare one attribute.

        Raises:
            OutputError: if it is another one; names both.
        """
        there = getattr(self, name)
        if received != there:
            raise OutputError(
                f"{folder} holds vectors with {name} {there}, received {received}; choose another output, or go on "
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
