"""One process at a time writes to a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make the folder if it is not there, and keep other processes from writing while this is held.

    The system lifts the lock when its process ends, however it ends.

    Raises:
        OSError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise OSError(f"another process is writing to {folder}; wait for it to end") from error
