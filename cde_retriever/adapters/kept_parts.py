"""Keep an index of two parts beside a store that knows one vector a document: in a folder, and in step with the store.

A store finds documents by one vector each. A `PartsIndex` holds their dense and sparse parts under the same ids, ranks
by the exact sum, and the store gives the documents. What is written goes into the index before the store: an id that
only the index knows is passed over when it is searched, and one that it lacked would never be found. A change is
appended to a log, so that it costs what it holds and not what the index does; when the log outgrows the index, that is
written anew.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from cde_retriever.context.knowledge import Parts
from cde_retriever.errors import ContextMismatchError
from cde_retriever.files.appending import Log
from cde_retriever.search.index_file import (
    addition,
    deletion,
    index_file,
    index_files,
    open_index,
    open_log,
    save_index,
)
from cde_retriever.search.parts_index import PartsIndex

Document = TypeVar("Document")
LookUp = Callable[[list[str]], Mapping[str, Document]]
"""Returns those of the documents of these ids that a store has."""

_IDS_AT_ONCE = 500
_DEEPER = 4


class KeptParts:
    """An index of two parts whose folder holds each change as soon as it is made.

    Args:
        index: The documents.
        folder: The folder; None for an index that is saved with its store.
    """

    def __init__(self, index: PartsIndex, folder: Path | None = None) -> None:
        self.index, self.folder = index, folder
        self._log: Log | None = None
        self._written = self._state()

    def add(self, ids: list[str], parts: Parts) -> None:
        """Add documents, or replace those whose ids are there.

        Raises:
            ContextMismatchError: if somebody else wrote the folder's index since it was read; so does `delete`.
        """
        self._refuse_other_writers()
        last = {name: row for row, name in enumerate(ids)}  # of an id given twice stores keep the last
        rows = list(last.values())
        joining = PartsIndex(self.index.fingerprint)
        joining.add(list(last), Parts(parts.dense[rows], parts.sparse[rows]))
        self.index.join(joining)
        self._write(lambda: addition(joining))

    def delete(self, ids: Iterable[str]) -> None:
        """Remove documents."""
        self._refuse_other_writers()
        leaving = [name for name in ids if name in self.index]
        if leaving:
            self.index.delete(leaving)
            self._write(lambda: deletion(leaving))

    def find(
        self,
        query: Parts,
        count: int,
        mode: str,
        look_up: LookUp[Document],
        fits: Callable[[Document], bool],
        allowed: Collection[str] | None = None,
    ) -> list[tuple[Document, float]]:
        """Return the best documents that the store has, with their scores, best first.

        Args:
            query: In two parts.
            count: How many; fewer if fewer fit.
            mode: As for `PartsIndex.search`.
            look_up: Asks the store.
            fits: Which documents may be found; asked for the best ones, as deep as it takes.
            allowed: Their ids, where these are known; None for all.
        """
        seen, wanted, found = 0, count, list[tuple[Document, float]]()
        while True:
            hits = self.index.search(query, wanted, mode=mode, allowed=allowed)
            documents = looked_up(look_up, [hit.id for hit in hits[seen:]])
            there = [(documents[hit.id], hit.score) for hit in hits[seen:] if hit.id in documents]
            found += [pair for pair in there if fits(pair[0])]
            if len(found) >= count or len(hits) < wanted:
                return found[:count]
            seen, wanted = len(hits), wanted * _DEEPER

    def stay_in_memory(self) -> None:
        """Write the index only when it is saved."""
        self.folder, self._written = None, []

    def save(self, folder: Path) -> None:
        """Write the index into a folder."""
        save_index(self.index, folder)

    def _write(self, changed: Callable[[], bytes]) -> None:
        if self.folder is None:
            return
        file, change = index_file(self.folder), changed()
        try:
            if self._log is None and file.is_file():
                self._log = open_log(file)
            if self._log is None or self._log.size + len(change) > file.stat().st_size:
                self.save(self.folder)
                self._log = None
            else:
                self._log.append(change)
        finally:
            self._written = self._state()

    def _refuse_other_writers(self) -> None:
        if self._state() != self._written:
            raise ContextMismatchError(
                f"{index_file(self.folder or '')} was written by another process or store since this one was opened; "
                "open the store again, and let one at a time write"
            )

    def _state(self) -> list[tuple[int, ...] | None]:
        """Return what tells the folder's files from what they were."""
        return [] if self.folder is None else [_state(file) for file in index_files(self.folder)]


def _state(file: Path) -> tuple[int, ...] | None:
    if not file.is_file():
        return None
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def looked_up(look_up: LookUp[Document], ids: list[str]) -> dict[str, Document]:
    """Return those documents that a store has, asked for some at a time."""
    found: dict[str, Document] = {}
    for start in range(0, len(ids), _IDS_AT_ONCE):
        found |= look_up(ids[start : start + _IDS_AT_ONCE])
    return found


def read_index(folder: Path | None, fingerprint: str) -> PartsIndex:
    """Read the index of a folder, or begin one.

    Raises:
        ContextMismatchError: if it was made under another context.
        ContextFormatError: if it is damaged.
    """
    if folder is not None and index_file(folder).is_file():
        return open_index(folder, fingerprint)
    return PartsIndex(fingerprint)
