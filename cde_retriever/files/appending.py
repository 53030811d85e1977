"""Append records to a log beside a file, so that a killed process leaves the log as it was, or with one record more.

A log begins with the sha256 of the content that its records change, so one that outlived its file's content is empty.
A record is the length of its data (8 bytes), their sha256, and the data; one that is shorter than it says was being
written when its process was killed, and does not count.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

HASH_BYTES = 32
LENGTH_BYTES = 8


class Log:
    """The records of one content of a file. One process at a time may append.

    Args:
        file: Where they are, or are to be.
        owner: The sha256 of the content they change, 32 bytes.
    """

    def __init__(self, file: Path, owner: bytes) -> None:
        self._file, self._owner = file, owner
        self._size: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the whole records and what stands before them; 0 for no log."""
        if self._size is None:
            self.read()
        return self._size or 0

    def read(self) -> list[bytes]:
        """Return the data of all whole records, in the order they came.

        Raises:
            ValueError: if one is damaged.
        """
        content = self._file.read_bytes() if self._file.is_file() else b""
        records: list[bytes] = []
        place = HASH_BYTES if content[:HASH_BYTES] == self._owner else 0
        while place:
            start = place + LENGTH_BYTES + HASH_BYTES
            end = start + int.from_bytes(content[place : place + LENGTH_BYTES], "little")
            if max(start, end) > len(content):
                break
            if hashlib.sha256(content[start:end]).digest() != content[start - HASH_BYTES : start]:
                raise ValueError(f"the record at byte {place} of {self._file} has another hash than it says")
            records.append(content[start:end])
            place = end
        self._size = place
        return records

    def append(self, data: bytes) -> None:
        """Add a record, through to the disk.

        Raises:
            OSError: if it cannot be written; the records are those that were there.
        """
        before = self.size
        record = len(data).to_bytes(LENGTH_BYTES, "little") + hashlib.sha256(data).digest() + data
        with self._file.open("r+b" if before else "wb") as stream:
            try:
                stream.seek(before)
                stream.truncate()
                stream.write(record if before else self._owner + record)
                stream.flush()
                os.fsync(stream.fileno())
            except BaseException:
                with suppress(OSError):
                    stream.truncate(before)
                raise
        self._size = before + len(record) + (0 if before else HASH_BYTES)
