"""A corpus as files: JSONL (``.jsonl``, ``.jsonl.gz``) or Parquet, one file or a folder of them, read as a stream.

Rows are numbered through all files, those in alphabetical order, so that a document has the same place on every run and
every machine. Memory is a line, or a row group of a Parquet file, however many files there are.
"""

import gzip
import itertools
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cde_retriever.errors import CorpusError

try:
    import pyarrow
    import pyarrow.parquet
except ModuleNotFoundError as missing:
    raise ImportError(f'{missing}; install it with: pip install "cde-retriever[bulk]"') from missing

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_BATCH_ROWS = 1024

Interval = tuple[int, int]
"""Numbers of rows, from the first to before the second."""


@dataclass(frozen=True)
class Columns:
    """Which columns, or keys of a JSON object, make a document.

    Attributes:
        text: Its text.
        id: What its vector will be found by; strings or whole numbers.
        title: What is put before the text, with a space between. None means ``title`` where a row has one; an empty
            string means none; any other name has to be there.
    """

    text: str = "text"
    id: str = "id"
    title: str | None = None

    @property
    def needed(self) -> dict[str, str]:
        """Columns that have to be there, by what they are for."""
        return {use: name for use in ("id", "text", "title") if (name := getattr(self, use))}


class Document(NamedTuple):
    """A row of a corpus: its id, and title and text as one string."""

    id: str
    text: str


@dataclass(frozen=True)
class CorpusFile:
    """A file of a corpus.

    Attributes:
        name: Path below the corpus, with forward slashes.
        sha256: Hash of its content, in hexadecimal.
        rows: Number of documents in it.
    """

    name: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class Corpus:
    """Files whose rows have been counted.

    Attributes:
        folder: Where the files are.
        files: The files, in order.
        columns: Which columns make a document.
    """

    folder: Path
    files: tuple[CorpusFile, ...]
    columns: Columns

    @property
    def rows(self) -> int:
        """Number of documents."""
        return sum(file.rows for file in self.files)

    def starts(self) -> list[int]:
        """Return the number of each file's first row."""
        return list(itertools.accumulate((file.rows for file in self.files[:-1]), initial=0))

    def read(self, intervals: Iterable[Interval]) -> Iterator[Document]:
        """Yield the documents of some rows; what is before and between them is passed over, not decoded.

        Args:
            intervals: Rows, ascending and apart.

        Raises:
            CorpusError: if a file is damaged, a row is no document, or there are fewer than were counted.
        """
        wanted = list(intervals)
        for file, start in zip(self.files, self.starts(), strict=True):
            stop = start + file.rows
            here = [(max(a, start) - start, min(b, stop) - start) for a, b in wanted if a < stop and b > start]
            if here:
                found = 0
                for document in read_documents(self.folder / file.name, self.columns, here):
                    found += 1
                    yield document
                if found != sum(b - a for a, b in here):
                    raise CorpusError(f"{self.folder / file.name} has fewer rows than before; has it been changed?")


def find_files(corpus: str | os.PathLike[str]) -> tuple[Path, list[str]]:
    """Return a corpus's folder and the names of its files below that, in order; hidden ones are left out.

    Raises:
        FileNotFoundError: if there is nothing.
        CorpusError: if no file has one of the known endings.
    """
    path = Path(corpus).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a file or folder of {', '.join(SUFFIXES)}")
    folder, files = (path, path.rglob("*")) if path.is_dir() else (path.parent, iter([path]))
    names = [file.relative_to(folder).as_posix() for file in files if file.is_file()]
    known = [name for name in names if name.endswith(SUFFIXES) and not any(p[0] == "." for p in name.split("/"))]
    if not known:
        raise CorpusError(f"{path} has no file that ends in {', '.join(SUFFIXES)}; write the corpus as one of them")
    return folder, sorted(known)


def read_documents(path: Path, columns: Columns, intervals: Iterable[Interval] | None = None) -> Iterator[Document]:
    """Yield the documents of one file.

    Args:
        path: The file.
        columns: Which columns make a document.
        intervals: Rows of this file, ascending and apart; None for all. Blank lines of JSONL are no rows.

    Raises:
        CorpusError: if the file is damaged or a row is no document; names file and line or row, both counted from 1.
    """
    read = _read_parquet if path.suffix == ".parquet" else _read_jsonl
    with _named(str(path)):
        yield from read(path, columns, None if intervals is None else list(intervals))


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Put a place before the messages of what goes wrong."""
    try:
        yield
    except CorpusError as error:
        raise CorpusError(f"{place}{error}") from error.__cause__
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        raise CorpusError(f"{place} cannot be read ({error}); is it whole?") from error


def _read_jsonl(path: Path, columns: Columns, intervals: list[Interval] | None) -> Iterator[Document]:
    # Not with pyarrow.json: it would say in which row of which block a line is malformed, not in which line.
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        rows = ((number, line) for number, line in enumerate(stream, start=1) if not line.isspace())
        at = 0
        for start, stop in intervals or [(0, sys.maxsize)]:
            for number, line in itertools.islice(rows, start - at, stop - at):
                with _named(f", line {number}"):
                    yield _document(_parse(line), columns)
            at = stop


def _parse(line: bytes) -> dict[str, Any]:
    line = line.rstrip(b"\r\n")
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(f" is not JSON ({error.msg}, column {error.colno}): {line[:80]!r}") from error
    except ValueError as error:  # not UTF-8
        raise CorpusError(f" is not JSON ({error}): {line[:80]!r}") from error
    if not isinstance(row, dict):
        raise CorpusError(f" is {type(row).__name__}, expected a JSON object: {line[:80]!r}")
    return row


def _read_parquet(path: Path, columns: Columns, intervals: list[Interval] | None) -> Iterator[Document]:
    # Without pre_buffer, which would hold all columns of a row group at once.
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
        names = file.schema_arrow.names
        _check_columns(names, columns)
        wanted = [name for name in dict.fromkeys([columns.id, _title(columns), columns.text]) if name in names]
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        starts = [0, *itertools.accumulate(groups)]
        for start, stop in intervals or [(0, starts[-1])]:
            chosen = [i for i in range(len(groups)) if starts[i] < stop and starts[i + 1] > start]
            if not chosen:
                continue
            batches = file.iter_batches(batch_size=_BATCH_ROWS, row_groups=chosen, columns=wanted)
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            before = starts[chosen[0]]
            for number, row in enumerate(itertools.islice(rows, start - before, stop - before), start=start + 1):
                with _named(f", row {number}"):
                    yield _document(row, columns)


def _title(columns: Columns) -> str:
    return "title" if columns.title is None else columns.title


def _check_columns(there: Iterable[str], columns: Columns) -> None:
    names = list(there)
    for use, name in columns.needed.items():
        if name not in names:
            raise CorpusError(f" has no column {name!r}, it has {', '.join(names)}; name the right one: --{use}-column")


def _document(row: Mapping[str, Any], columns: Columns) -> Document:
    """Make a document of a row; a text that is null is empty."""
    if columns.id not in row or columns.text not in row or (columns.title and columns.title not in row):
        _check_columns(row, columns)
    identifier = row[columns.id]
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        raise CorpusError(f": {columns.id!r} is {identifier!r:.80}, expected a string or a whole number")
    title, text = (_string(row, name) for name in (_title(columns), columns.text))
    document = Document(str(identifier), f"{title} {text}" if title else text)
    for value in document:
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise CorpusError(f": {value!r:.80} is not valid Unicode ({error.reason}); clean it") from error
    return document


def _string(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise CorpusError(f": {name!r} is {type(value).__name__}, expected a string: {value!r:.80}")
    return value or ""
