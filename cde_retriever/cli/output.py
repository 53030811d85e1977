"""Check where a command is to write, before work begins."""

import tempfile
from pathlib import Path

from cde_retriever.errors import ConfigError


def output_folder(given: str) -> Path:
    """Return the folder that a user names to write into; it need not be there.

    Raises:
        ConfigError: if a file is there, or nothing can be written there.
    """
    folder = _path(given)
    if folder.is_file():
        raise ConfigError(f"{folder} is a file; give a folder to write into")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    _try_to_write(there)
    return folder


def output_file(given: str) -> Path:
    """Return the file that a user names to write to; one that is there will be replaced.

    Raises:
        ConfigError: if a folder is there, if its own folder is not there, or if nothing can be written there.
    """
    file = _path(given)
    if file.is_dir():
        raise ConfigError(f"{file} is a folder; give the name of a file in it")
    if not file.parent.exists():
        raise ConfigError(f"{file.parent} does not exist; make this folder first, or give a file elsewhere")
    _try_to_write(file.parent)
    return file


def _path(given: str) -> Path:
    if not given.strip():
        raise ConfigError("-o is empty; say where to write to")
    return Path(given).expanduser()


def _try_to_write(folder: Path) -> None:
    """Make a file without a name in a folder: no other way tells of a drive that is read-only or full."""
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"\0")
    except OSError as error:
        raise ConfigError(f"nothing can be written to {folder}: {error.strerror}; choose another place") from error
