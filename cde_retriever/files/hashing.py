"""Say what is in files, as sha256: how runs and saved states tell that a file is as it was left."""

import hashlib
from collections.abc import Iterator
from pathlib import Path


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_of(path: Path) -> Iterator[Path]:
    """Yield a file itself, or all files in a folder and below, in alphabetical order."""
    if path.is_file():
        yield path
    else:
        yield from sorted(file for file in path.rglob("*") if file.is_file())
