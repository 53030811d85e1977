"""Read any rows of a corpus of files: JSONL, Parquet, CSV, or documents that are cut into passages.

Rows are numbered through all files, those in alphabetical order, so that a document has the same place on every run and
every machine. Memory is a line, a row group of a Parquet file, or a file of text, however many files there are.
"""

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from cde_retriever.corpus import delimited, json_lines
from cde_retriever.corpus.delimited import read_delimited
from cde_retriever.corpus.json_lines import Interval, named, read_json_lines, rows_in
from cde_retriever.corpus.listing import DOCUMENT_ENDINGS, Listing, has_ending, list_files
from cde_retriever.corpus.unicode_fault import unicode_fault
from cde_retriever.errors import ConfigError, CorpusError

try:
    import pyarrow
    import pyarrow.parquet
except ModuleNotFoundError as missing:
    raise ImportError(f'{missing}; install it with: pip install "cde-retriever[bulk]"') from missing

if TYPE_CHECKING:  # a corpus of rows needs no reader of documents
    from cde_retriever.corpus.passage_size import PassageSize

ENDINGS = (*json_lines.ENDINGS, ".parquet")
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class Columns:
    """Which columns, or keys of a JSON object, make a document.

    Attributes:
        text: Its text.
        id: What its vector will be found by; strings or whole numbers.
        title: What is put before the text, with a space between. None means ``title`` where a row has one and it is
            not the text itself; an empty string means none; any other name has to be there.

    Raises:
        ConfigError: if title and text are the same column.
    """

    text: str = "text"
    id: str = "id"
    title: str | None = None

    def __post_init__(self) -> None:
        """Validate that no text would be put before itself."""
        if self.title == self.text:
            raise ConfigError(f"--title-column and --text-column are both {self.text!r}; name another title, or ''")

    @property
    def before_text(self) -> str:
        """Name of the column that is put before the text; empty for none."""
        if self.title is None:
            return "" if self.text == "title" else "title"
        return self.title

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
        passages: How long a passage may be, where the files are documents to be cut.
    """

    folder: Path
    files: tuple[CorpusFile, ...]
    columns: Columns
    passages: "PassageSize | None" = None

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
                for document in read_documents(self.folder, file.name, self.columns, here, self.passages):
                    found += 1
                    yield document
                if found != sum(b - a for a, b in here):
                    raise CorpusError(f"{self.folder / file.name} has fewer rows than before; has it been changed?")


def find_files(corpus: str | os.PathLike[str]) -> Listing:
    """List the files of a corpus: JSONL and Parquet, or where there are none, documents, or else CSV and TSV.

    Raises:
        FileNotFoundError: if there is nothing.
        CorpusError: if no file has one of the known endings, or judged queries stand beside a corpus.
    """
    for endings in (ENDINGS, DOCUMENT_ENDINGS, delimited.ENDINGS):
        found = list_files(corpus, endings)
        if found.names:
            if endings != DOCUMENT_ENDINGS:
                _refuse_queries(found)
            return found
    has_none = "ends in none of" if Path(corpus).expanduser().is_file() else "has no file that ends in"
    raise CorpusError(
        f"{corpus} {has_none} {', '.join((*ENDINGS, *DOCUMENT_ENDINGS, *delimited.ENDINGS))}; write the corpus as one "
        "of them"
    )


def _refuse_queries(found: Listing) -> None:
    """Refuse folders as BEIR has them, as files or folders ``corpus`` and ``queries``: queries are no documents."""
    places = [place for name in found.names if (place := _beir_place(PurePosixPath(name)))]
    corpora = {place.with_name("corpus"): place for place in places if _stem(place) == "corpus"}
    for place in places:
        corpus = corpora.get(place.with_name("corpus"))
        if corpus and _stem(place) == "queries":
            raise CorpusError(
                f"{found.folder / place} holds queries, as in BEIR's folders, and no documents; name the corpus "
                f"alone: {found.folder / corpus}"
            )


def _beir_place(path: PurePosixPath) -> PurePosixPath | None:
    """Return the file or the folder above it that is named ``corpus`` or ``queries``; None if none is."""
    above = [path, *path.parents]
    return next((place for place in above if _stem(place) in ("corpus", "queries")), None)


def _stem(place: PurePosixPath) -> str:
    return re.split(r"[.-]", place.name)[0]  # a part of a data set is corpus-00000-of-00002.parquet


def are_documents(names: list[str]) -> bool:
    """Tell whether files that `find_files` gave are documents, to be cut into passages, and not rows."""
    return has_ending(names[0], DOCUMENT_ENDINGS)


def read_documents(
    folder: Path,
    name: str,
    columns: Columns,
    intervals: Iterable[Interval] | None = None,
    passages: "PassageSize | None" = None,
) -> Iterator[Document]:
    """Yield the documents of one file.

    Args:
        folder: Where the corpus is.
        name: Path of the file below it.
        columns: Which columns make a document.
        intervals: Rows of this file, ascending and apart; None for all. Blank lines are no rows.
        passages: How long a passage may be, if the file is a document to be cut.

    Raises:
        CorpusError: if the file is damaged or a row is no document; names file and line or row, both counted from 1.
    """
    chosen = None if intervals is None else list(intervals)
    if passages is not None:
        yield from _read_passages(folder, name, chosen, passages)
    elif has_ending(name, (".parquet",)):
        yield from _read_parquet(folder / name, columns, chosen)
    else:
        read = read_delimited if has_ending(name, delimited.ENDINGS) else read_json_lines
        for number, row in read(folder / name, chosen):
            with named(f"{folder / name}, line {number}"):
                document = _document(row, columns)
            yield document


def _read_passages(
    folder: Path, name: str, intervals: list[Interval] | None, size: "PassageSize"
) -> Iterator[Document]:
    from cde_retriever.corpus.passages import read_file

    for passage in rows_in(iter(read_file(folder, name, size).passages), intervals):
        yield Document(passage.id, passage.text)


def _read_parquet(path: Path, columns: Columns, intervals: list[Interval] | None) -> Iterator[Document]:
    # Without pre_buffer, which would hold all columns of a row group at once.
    with _named_parquet(path), pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
        names = file.schema_arrow.names
        _check_columns(names, columns)
        wanted = [name for name in dict.fromkeys([columns.id, columns.before_text, columns.text]) if name in names]
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        starts = [0, *itertools.accumulate(groups)]
        for start, stop in [(0, starts[-1])] if intervals is None else intervals:
            chosen = [i for i in range(len(groups)) if starts[i] < stop and starts[i + 1] > start]
            if not chosen:
                continue
            batches = file.iter_batches(batch_size=_BATCH_ROWS, row_groups=chosen, columns=wanted)
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            before = starts[chosen[0]]
            for number, row in enumerate(itertools.islice(rows, start - before, stop - before), start=start + 1):
                with named(f", row {number}"):
                    document = _document(row, columns)
                yield document


@contextmanager
def _named_parquet(path: Path) -> Iterator[None]:
    try:
        with named(str(path)):
            yield
    except pyarrow.ArrowException as error:
        raise CorpusError(f"{path} cannot be read ({error}); is it whole?") from error


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
    title, text = _string(row, columns.before_text, "title"), _string(row, columns.text, "text")
    document = Document(str(identifier), f"{title} {text}" if title else text)
    for value in document:
        if fault := unicode_fault(value):
            raise CorpusError(f": {value!r:.80} is not valid Unicode ({fault}); clean it")
    return document


def _string(row: Mapping[str, Any], name: str, use: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise CorpusError(
            f": {name!r} is {type(value).__name__}, expected a string: {value!r:.80}; name another: --{use}-column"
            f"{', or none with an empty name' if use == 'title' else ''}"
        )
    return value or ""
