"""Write and read the JSON records that say what a file or folder is: versioned, replaced as a whole, read strictly."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cde_retriever.files.replacing import write_atomically

VERSION_KEY = "format_version"
RECORDS_FOLDER = "_cde"
"""Folder of records inside a folder of Parquet files; whatever reads those passes over names with an underscore."""


@dataclass(frozen=True)
class RecordFormat:
    """A kind of record.

    Attributes:
        version: The version that this code writes and reads; ``format_version`` in the JSON.
        error: What is raised for a record that is damaged or of another version.
        remedy: What to do then; the end of its message.
        oldest: The oldest version that is still read; None for `version` alone.
    """

    version: int
    error: type[Exception]
    remedy: str
    oldest: int | None = None

    def to_text(self, values: Mapping[str, Any], indent: int | None = None) -> str:
        """Return a record's content, the version added to its values."""
        return json.dumps({VERSION_KEY: self.version, **values}, indent=indent)

    def write(self, file: Path, values: Mapping[str, Any]) -> None:
        """Write a record; a killed process leaves the old one or the new one."""
        write_atomically(file, (self.to_text(values, indent=1) + "\n").encode())

    def parse(self, data: bytes | str, source: object) -> dict[str, Any]:
        """Return a record's values, the version taken out.

        Args:
            data: The record's content.
            source: Where it comes from, for the message.

        Raises:
            Exception: `error`, if it is damaged or of another version.
        """
        with self.reading(source):
            values = parse_json(data)
            if not isinstance(values, dict):
                raise TypeError(f"it is a {type(values).__name__}, expected an object")
            version = values.pop(VERSION_KEY)
        readable = range(self.oldest or self.version, self.version + 1)
        if version not in readable or isinstance(version, bool):
            reads = " or ".join(map(str, readable))
            raise self.error(f"{source} has format {version!r}, this version reads {reads}; {self.remedy}")
        return values

    def read(self, file: Path) -> dict[str, Any]:
        """Return the values of a record in a file; raises what `parse` says.

        Raises:
            OSError: if it cannot be read.
        """
        return self.parse(file.read_bytes(), file)

    @contextmanager
    def reading(self, source: object) -> Iterator[None]:
        """Raise `error` for whatever goes wrong while values are made into something else."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
            if isinstance(fault, self.error):
                raise
            raise self.error(f"{source} is damaged ({fault!r:.200}); {self.remedy}") from fault


def parse_json(data: bytes | str) -> Any:
    """Parse JSON that may be damaged.

    Raises:
        ValueError: if it is no JSON, or nested deeper than Python reads.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
