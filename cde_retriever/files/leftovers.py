"""Make hidden files and folders to write into, and remove those that killed writers left behind.

What is written stands beside its target as ``.NAME.`` and 32 hexadecimal digits until it is whole. A live writer holds
a lock on it, which the system lifts when the process ends, however it ends: what nobody holds is a leftover. Where
there are no such locks (Windows, some network drives) leftovers stay where they are.
"""

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def hidden_beside(target: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """Give a hidden file or folder beside a target, and remove whatever is there at the end.

    Args:
        target: What it will become; leftovers of killed writers of the same target are removed first.
        make: Makes the empty file or folder.
    """
    remove_leftovers(target)
    path, lock = _make_locked(target, make)
    try:
        yield path
    finally:
        remove(path)
        unlock(lock)


def _make_locked(target: Path, make: Callable[[Path], object]) -> tuple[Path, int | None]:
    while True:
        path = hidden_name(target)
        make(path)
        try:
            return path, lock(path)
        except (FileNotFoundError, BlockingIOError):
            continue  # another writer took it for a leftover before it was locked
        except OSError:
            return path, None  # a drive without locks, where nobody removes leftovers


def hidden_name(target: Path, ending: str = "") -> Path:
    """Return a new name beside a target."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}{ending}")


def hidden_paths(target: Path, ending: str = "") -> list[Path]:
    """Return what stands beside a target under names that `hidden_name` gives, in alphabetical order."""
    pattern = re.compile(re.escape(f".{target.name}.") + "[0-9a-f]{32}" + re.escape(ending))
    try:
        with os.scandir(target.parent) as entries:
            return sorted(Path(entry.path) for entry in entries if pattern.fullmatch(entry.name))
    except FileNotFoundError:
        return []


def remove_leftovers(target: Path, ending: str = "") -> None:
    """Remove the hidden files and folders beside a target that no live writer holds."""
    for path in hidden_paths(target, ending) if fcntl else ():
        with suppress(OSError):
            held = lock(path)
            remove(path)
            unlock(held)


def lock(path: Path) -> int | None:
    """Take the lock that says that a file or folder is in use, and return what `unlock` takes.

    Raises:
        BlockingIOError: if another process holds it.
        FileNotFoundError: if there is no such file or folder.
        OSError: if the drive has no locks.
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(path.stat(), os.fstat(descriptor)):
            raise FileNotFoundError(f"{path} was replaced before it was locked")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unlock(descriptor: int | None) -> None:
    """Give back what `lock` returned."""
    if descriptor is not None:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
