"""Write an index so that a killed process leaves the old one or the new one, whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cde_retriever.context.context import Context
from cde_retriever.files.leftovers import hidden_beside
from cde_retriever.files.replacing import replacing_folder


def replace_index(folder: Path, context: Context, write: Callable[[Path], Any]) -> None:
    """Put an index and its context into a folder; what else is there stays.

    Args:
        folder: Where the index belongs.
        context: The context of its vectors.
        write: Writes the index into the folder it is given, which takes the other's place at the end.

    Raises:
        ContextMismatchError: if another context is already there.
    """
    with replacing_folder(folder) as new:
        context.save(new)
        write(new)


def replace_file(file: Path, write: Callable[[Path], Any]) -> None:
    """Put into a file's place what a function writes to the path it is given."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with hidden_beside(file, Path.touch) as new:
        write(new)
        new.replace(file)
