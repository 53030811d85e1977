"""Write an index so that a killed process leaves the old one or the new one, whole, and notice when its files change.

The sha256 of each file of an index stands beside them in ``checksums.json``. They are compared when the folder is
opened: a file that was damaged, or copied from another index, would give answers that look like any other.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cde_retriever.adapters.growth import FILE_NAME as GROWTH_FILE
from cde_retriever.adapters.plain_vectors import FILE_NAME as PLAIN_FILE
from cde_retriever.context.context import Context
from cde_retriever.errors import ContextMismatchError
from cde_retriever.files.hashing import hash_file
from cde_retriever.files.leftovers import hidden_beside, remove
from cde_retriever.files.records import RecordFormat
from cde_retriever.files.replacing import recover_folder, replacing_folder
from cde_retriever.search.index_file import index_files

NAME = "checksums.json"
_REMEDY = "restore the folder, or save the index again"
_RECORD = RecordFormat(1, ContextMismatchError, _REMEDY)


def replace_index(folder: Path, context: Context, write: Callable[[Path], Any]) -> None:
    """Put an index and its context into a folder; what else is there stays.

    Args:
        folder: Where the index belongs.
        context: The context of its vectors.
        write: Writes the index into the folder it is given; all goes into the other's place at the end.

    Raises:
        ContextMismatchError: if another context is already there.
    """
    with replacing_folder(folder) as new:
        context.save(new)
        for file in (*index_files(new), new / PLAIN_FILE, new / GROWTH_FILE):  # of an index that was here before
            file.unlink(missing_ok=True)
        with _written(new) as written:
            write(written)


@contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """Give a folder to write into; its files go into another one at the end, and their checksums into its record."""
    with hidden_beside(folder / "index", Path.mkdir) as written:
        yield written
        checksums = {name: found for name, found in _checksums(folder).items() if (folder / name).is_file()}
        for file in sorted(written.iterdir()):
            if file.is_file():
                checksums[file.name] = hash_file(file)
            else:
                remove(folder / file.name)
            file.replace(folder / file.name)
        _RECORD.write(folder / NAME, {"files": checksums})


def replace_file(file: Path, write: Callable[[Path], Any]) -> None:
    """Put into a file's place what a function writes to the path it is given."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with hidden_beside(file, Path.touch) as new:
        write(new)
        checksums = _checksums(file.parent)
        if checksums.pop(file.name, None):  # whoever is killed now leaves a file that is not compared
            _RECORD.write(file.parent / NAME, {"files": checksums})
        new.replace(file)


def lives_in_memory(store_class: Any) -> bool:
    """Tell whether stores of a class are written when they are told to, and not by themselves."""
    return hasattr(store_class, "save_local") or hasattr(store_class, "dump")


def check_index(folder: Path) -> None:
    """Put a folder right that a killed process moved aside, and compare the files of its index with their checksums.

    Raises:
        ContextMismatchError: if one is another than was saved.
    """
    recover_folder(folder)
    for name, expected in _checksums(folder).items():
        file = folder / name
        if not file.is_file() or hash_file(file) != expected:
            raise ContextMismatchError(
                f"{file} is not the file that the index was saved with: it was copied from another index, is damaged, "
                f"or was written past the guarded store; {_REMEDY}"
            )


def _checksums(folder: Path) -> dict[str, str]:
    """Return the sha256 of files by name, none for a folder that holds no record of them."""
    if not (folder / NAME).is_file():
        return {}
    values = _RECORD.read(folder / NAME)
    with _RECORD.reading(folder / NAME):
        return {str(name): str(digest) for name, digest in values["files"].items()}
