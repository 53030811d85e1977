"""Keep plain vectors of an index's documents in its folder, so that a refit needs no model.

With an index in memory they are written when that is. Beside a store that writes by itself they are appended to a log
as they come, so that each addition costs what it holds.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from cde_retriever.context.context import ModelIdentity
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.plain_documents import FILE_NAME, PlainDocuments, Vectors
from cde_retriever.errors import ConfigError, ContextFormatError, ContextMismatchError
from cde_retriever.files.appending import Log
from cde_retriever.files.forking import ThreadLock
from cde_retriever.files.records import RecordFormat

__all__ = ["FILE_NAME", "LOG_NAME", "begin_plain", "open_plain", "read_plain", "save_plain", "write_log"]

LOG_NAME = "plain.changes"
_OWNER = hashlib.sha256(b"plain vectors 1").digest()
_FORMAT = RecordFormat(1, ContextFormatError, "delete it: documents are then embedded again where it would have served")


class LoggedPlain(PlainDocuments):
    """Plain vectors that are in a log, each addition a record of it; one process at a time may add.

    Args:
        folder: Where the log is, or is to be.
        model: What makes them.

    Raises:
        ContextMismatchError: if another model made those that are there.
        ContextFormatError: if the log is damaged.
    """

    def __init__(self, folder: Path, model: ModelIdentity) -> None:
        super().__init__()
        self._file, self._model, self._lock = folder / LOG_NAME, model, ThreadLock()
        self._log = Log(self._file, _OWNER)
        with _FORMAT.reading(self._file):
            records = self._log.read()
        for record in records:
            super().update(PlainDocuments.from_bytes(record, model, str(self._file)))
        self._written = self._bytes()

    def add(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Keep vectors, (n, d), of texts; raises as `update` does."""
        joining = PlainDocuments()
        joining.add(texts, vectors)
        self.update(joining)

    def update(self, others: PlainDocuments) -> None:
        """Keep what others keep too.

        Raises:
            ContextMismatchError: if another process added some since the log was read.
            OSError: if it cannot be written; nothing is kept.
        """
        with self._lock:
            joining = others.beyond(self)
            if not joining.count:
                return
            if self._bytes() != self._written:
                raise ContextMismatchError(
                    f"{self._file} was written by another process since this index was opened; open it again, and let "
                    "one at a time write"
                )
            self._file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._log.append(joining.to_bytes(self._model))
            finally:
                self._written = self._bytes()
            super().update(joining)

    def _bytes(self) -> int:
        return self._file.stat().st_size if self._file.is_file() else 0


def begin_plain(encoder: ContextualEncoder, store: str | None, folder: Path | None) -> None:
    """Have an encoder keep plain vectors of the documents that it embeds.

    Args:
        encoder: The index's.
        store: What keeps the index's vectors, by name, if it writes by itself; None for one in memory.
        folder: Where such a store's context is; None for nowhere.

    Raises:
        ConfigError: for a store that writes by itself without a folder, or a model without a corpus head.
        Errors of `open_plain`.
    """
    if store is not None and (folder is None or folder.suffix == ".safetensors"):
        raise ConfigError(
            f"keep_plain is True, but {store} writes by itself, and plain vectors need a place beside it; give a "
            "folder as context_dir, or leave keep_plain out"
        )
    encoder.keep_plain()
    if store is not None and folder is not None:
        encoder.plain_documents = LoggedPlain(folder, encoder.identity)


def open_plain(encoder: ContextualEncoder, folder: Path) -> None:
    """Have an encoder use and keep the plain vectors that are in a folder, if there are any.

    Raises:
        ContextMismatchError: if another model made them.
        ContextFormatError: if they are damaged.
    """
    if (folder / LOG_NAME).is_file():
        encoder.keep_plain()
        encoder.plain_documents = LoggedPlain(folder, encoder.identity)
    elif (kept := read_plain(folder, encoder.identity)) is not None:
        encoder.keep_plain(kept)


def read_plain(folder: Path, model: ModelIdentity) -> PlainDocuments | None:
    """Return the plain vectors that are in a folder; None if there are none. Raises as `open_plain` does."""
    if (folder / LOG_NAME).is_file():
        return LoggedPlain(folder, model)
    return PlainDocuments.load(folder, model)


def save_plain(encoder: ContextualEncoder, folder: Path, texts: Iterable[str]) -> None:
    """Write the plain vectors of texts into a folder, if the encoder keeps any; otherwise none stay there."""
    kept = encoder.plain_documents
    if kept is None:
        (folder / FILE_NAME).unlink(missing_ok=True)
    elif not isinstance(kept, LoggedPlain):  # whose place is beside its store
        kept.save(folder, texts, encoder.identity)


def write_log(kept: PlainDocuments | None, folder: Path, texts: Iterable[str], model: ModelIdentity) -> None:
    """Begin the log in the folder of a new collection with the plain vectors of its texts, if any are kept."""
    (folder / LOG_NAME).unlink(missing_ok=True)
    if kept is not None:
        LoggedPlain(folder, model).update(kept.among(texts))
