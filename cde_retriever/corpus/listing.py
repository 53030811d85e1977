"""List the files of a corpus, by one rule for every reader.

A file that is named is taken as it is. Of a folder, files below it are taken by their ending, whatever its case; hidden
files and folders in it are passed over, links that lead nowhere too, and links to folders are not followed.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cde_retriever.corpus.unicode_fault import unicode_fault
from cde_retriever.errors import CorpusError

PAGES, MARKDOWN, RESTRUCTURED, PLAIN = (".html", ".htm", ".xhtml"), (".md", ".markdown"), (".rst",), (".txt",)
DOCUMENT_ENDINGS = (*PAGES, *MARKDOWN, *RESTRUCTURED, *PLAIN)
"""Endings of documents, which are cut into passages (`cde_retriever.corpus.passages`)."""


class Listing(NamedTuple):
    """Files of a corpus.

    Attributes:
        folder: Where they are.
        names: Their paths below the folder, with forward slashes, in order.
        others: Endings of the files beside them, and how many there are of each.
    """

    folder: Path
    names: list[str]
    others: dict[str, int]

    def warn_of_others(self) -> None:
        """Warn if there are files that are not read."""
        if self.others:
            counts = ", ".join(f"{count} {ending}" for ending, count in list(self.others.items())[:5])
            more = ", ..." if len(self.others) > 5 else ""
            warnings.warn(f"files in the corpus {self.folder} that are not read: {counts}{more}", stacklevel=2)


def list_files(path: str | os.PathLike[str], endings: tuple[str, ...]) -> Listing:
    """List a file, or the files in a folder and below that have one of the endings.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        CorpusError: if the name of a file is not UTF-8.
        PermissionError: if the folder, or one below it, cannot be listed; `os.walk` by itself leaves it out.
    """
    place = Path(path).expanduser()
    if not os.fspath(path):
        raise FileNotFoundError("the corpus has no name; give a file or folder, . for this one")
    if place.exists() and not (place.is_file() or place.is_dir()):
        raise FileNotFoundError(f"{place} is neither file nor folder, and a corpus is read twice; write it to a file")
    if not place.exists():
        raise FileNotFoundError(f"{place} does not exist; expected a file or folder of {', '.join(endings)}")
    if place.is_file():
        return Listing(place.parent, _checked([place.name] if has_ending(place.name, endings) else []), {})
    names, others = [], Counter[str]()
    for name in _below(place):
        if has_ending(name, endings):
            names.append(name)
        else:
            others["linked folder" if name.endswith("/") else Path(name).suffix.lower() or "without ending"] += 1
    return Listing(place, _checked(sorted(names)), dict(others.most_common()))


def _checked(names: list[str]) -> list[str]:
    """Refuse names of bytes that are no text: ids are made of names, and ids are stored as UTF-8."""
    for name in names:
        if unicode_fault(name):
            raise CorpusError(f"the name of the file {name!r} is not UTF-8; rename it")
    return names


def has_ending(name: str, endings: tuple[str, ...]) -> bool:
    """Tell whether a file's name ends with one of the endings, in any case."""
    return name.lower().endswith(endings)


def _refuse(error: OSError) -> None:
    raise error


def _below(folder: Path) -> Iterator[str]:
    """Yield the files below a folder, and the links to folders, these with a slash at their end."""
    for root, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (f"{name}/" for name in folders if Path(root, name).is_symlink())
        for name in files:
            file = Path(root, name)
            if not name.startswith(".") and file.is_file():
                yield file.relative_to(folder).as_posix()
