"""Replace files and folders as a whole: a killed process leaves the old content or the new one.

New content is written under a hidden name beside the old (`cde_retriever.files.leftovers`) and takes its place at the
end. Folders are exchanged by the system in one step. Where it cannot do that, the old folder is moved aside first; if
the process is killed just then, `recover_folder` moves it back.
"""

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from cde_retriever.files.full_disk import disk_error
from cde_retriever.files.leftovers import (
    hidden_beside,
    hidden_name,
    hidden_paths,
    lock,
    remove,
    remove_leftovers,
    unlock,
)

Content = TypeVar("Content")
ASIDE = ".old"
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Open a stream whose content becomes the file's when the block ends, and is dropped if it raises."""
    # A file that is touched is readable by whom the umask lets, unlike one of `tempfile`.
    with _naming(file), hidden_beside(file, Path.touch) as temporary:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)


def write_atomically(file: Path, data: bytes) -> None:
    """Replace a file's content."""
    with replacing(file) as stream:
        stream.write(data)


@contextmanager
def replacing_folder(folder: Path, *, start_empty: bool = False) -> Iterator[Path]:
    """Give a folder to write into; it takes a folder's place when the block ends, and is dropped if it raises.

    Args:
        folder: The folder; made, with those above it, if it is not there.
        start_empty: Whether what is in the folder now goes; by default the new one starts as a copy.
    """
    folder = folder.resolve()
    with _naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(folder)
        with hidden_beside(folder, Path.mkdir) as new:
            if folder.is_dir():
                shutil.copymode(folder, new)
                if not start_empty:
                    copy_folder(folder, new)
            yield new
            _write_through(new)
            _put_in_place(new, folder)
        remove_leftovers(folder, ASIDE)


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Where a disk takes no more, name what was to be written and what to do; the system names a hidden file or none.

    Raises:
        DiskError: with the system's number of the fault.
    """
    try:
        yield
    except OSError as error:
        told = disk_error(error, target, ", and what was there is as it was")
        if told is None:
            raise
        raise told from error


def copy_folder(source: Path, target: Path) -> None:
    """Copy what is in a folder into another one, which is made if it is not there, up to the first file that fails.

    Raises:
        OSError: as the system raises it; `shutil.copytree` goes on, then raises a list of all files.
    """

    def copy(one: str, other: str) -> str:
        try:
            return shutil.copy2(one, other)
        except OSError as error:
            raise _CopyError from error

    try:
        shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True, copy_function=copy)
    except _CopyError as stopped:
        raise stopped.__cause__ or stopped from None


class _CopyError(Exception):
    """Ends a copy; it is no `OSError`, of which `shutil.copytree` makes a list."""


def recover_folder(folder: Path) -> None:
    """Move a folder back that a killed process had moved aside; one that is there stays as it is."""
    if folder.exists():
        return
    for aside in hidden_paths(folder, ASIDE):
        with suppress(OSError):  # a live writer holds it, or another process was faster
            held = lock(aside)
            if not folder.exists():
                aside.rename(folder)
            unlock(held)


def read_unchanged(folder: Path, read: Callable[[], Content]) -> Content:
    """Return what a function reads from a folder, file by file; again if another folder took its place meanwhile.

    Raises:
        Exception: what the function raises of a folder that stayed.
    """
    while True:
        recover_folder(folder)
        before = _identity(folder)
        try:
            content = read()
        except Exception:
            if _identity(folder) == before:
                raise
            continue
        if _identity(folder) == before:
            return content


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one under the same name; None if there is none."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def exchange_folders(one: Path, other: Path) -> None:
    """Exchange the names of two folders of one drive in one step.

    Raises:
        OSError: if the system or the drive cannot; both are as they were.
    """
    if not _exchange(one, other):
        raise OSError(
            f"this system or drive cannot exchange {one} and {other} in one step; move the index to a local drive of "
            "Linux or macOS"
        )


def _write_through(folder: Path) -> None:
    """Have the system write every file of a folder to the disk, so that a power cut loses none either."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            descriptor = os.open(file, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _put_in_place(new: Path, folder: Path) -> None:
    """Give a new folder the name of an old one; the old one, if there is any, gets the new one's name or goes."""
    if not folder.exists():
        new.rename(folder)
    elif not _exchange(new, folder):
        held = None
        with suppress(OSError):  # a drive without locks
            held = lock(folder)  # so that nobody moves it back before the new one is there
        aside = hidden_name(folder, ASIDE)
        folder.rename(aside)
        new.rename(folder)
        remove(aside)
        unlock(held)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return False if the system or the drive cannot."""
    if sys.platform == "win32":
        return False
    system = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(system, "renameat2"):  # Linux
        failed = system.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    elif hasattr(system, "renamex_np"):  # macOS
        failed = system.renamex_np(*names, _RENAME_SWAP)
    else:
        return False
    code = ctypes.get_errno()
    if failed and code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(one), None, str(other))
    return not failed
