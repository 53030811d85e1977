"""Let one process at a time write to a folder."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make the folder if it is not there, and keep other processes from writing while this is held.

    The system lifts the lock when its process ends, however it ends. A folder in which nothing was written goes again.

    Raises:
        OSError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            try:
                yield
            finally:
                if [file.name for file in folder.iterdir()] == [LOCK]:
                    with suppress(OSError):  # where open files cannot be deleted, it stays
                        (folder / LOCK).unlink()
                        folder.rmdir()
    except Timeout as error:
        raise OSError(f"another process is writing to {folder}; wait for it to end") from error
