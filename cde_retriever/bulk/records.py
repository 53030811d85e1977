"""Record which parts of an output are done, with the hash of each, so that a later run trusts no file it did not write.

    OUT/_cde/parts.jsonl    {"number", "rows", "sha256", "empty", "cut"}, a line a part, in the order they were written

A line is added once its part is in its place. A killed process may leave half a line, which is passed over: the part is
then embedded again.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cde_retriever.errors import OutputError
from cde_retriever.files.records import RECORDS_FOLDER
from cde_retriever.files.replacing import write_atomically

PARTS = "parts.jsonl"


@dataclass(frozen=True)
class PartRecord:
    """A part that is done.

    Attributes:
        number: Its number.
        rows: Documents in it.
        sha256: Hash of its file, in hexadecimal.
        empty: Documents without text.
        cut: Documents longer than the model reads; None where that was not counted.
    """

    number: int
    rows: int
    sha256: str
    empty: int
    cut: int | None


class PartRecords:
    """The records of an output's parts, by number; read when made, and added to as parts are done."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / RECORDS_FOLDER / PARTS
        self.done: dict[int, PartRecord] = {}
        data = self.file.read_bytes() if self.file.is_file() else b""
        whole, _, half = data.rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = PartRecord(**json.loads(line))
            except (ValueError, TypeError, RecursionError) as error:
                raise OutputError(
                    f"{self.file}, line {number} is damaged ({error!r:.100}); delete the file, and the same command "
                    "embeds the parts again"
                ) from error
            self.done[record.number] = record
        if half:
            write_atomically(self.file, whole + b"\n" if whole else b"")

    def add(self, record: PartRecord) -> None:
        """Record a part, unless that is known already."""
        if self.done.get(record.number) == record:
            return
        with self.file.open("ab") as stream:
            stream.write(_line(record))
            stream.flush()
            os.fsync(stream.fileno())
        self.done[record.number] = record

    def replace(self, records: Iterable[PartRecord]) -> None:
        """Record these parts and no others."""
        self.done = {record.number: record for record in records}
        self.file.parent.mkdir(exist_ok=True)
        write_atomically(self.file, b"".join(map(_line, self.done.values())))


def _line(record: PartRecord) -> bytes:
    return json.dumps(asdict(record)).encode() + b"\n"
