"""Files that are replaced as a whole: a killed process leaves the old content or the new one."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Open a stream whose content becomes the file's when the block ends, and is dropped if it raises."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as stream:  # readable by whom the umask lets, unlike a file of `tempfile`
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(file: Path, data: bytes) -> None:
    """Replace a file's content."""
    with replacing(file) as stream:
        stream.write(data)
