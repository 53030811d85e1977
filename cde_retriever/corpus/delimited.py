"""Read CSV and TSV files: a line that names the columns, then a row a line, or several where a value is quoted."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from cde_retriever.corpus.json_lines import Interval, named, rows_in
from cde_retriever.corpus.listing import has_ending
from cde_retriever.corpus.unicode_fault import unicode_fault
from cde_retriever.errors import CorpusError

ENDINGS = (".csv", ".tsv")
LONGEST = 2**31 - 1
"""Characters of a value; a text may be a book, and `csv` reads 128 kB by default."""


def read_delimited(path: Path, intervals: Iterable[Interval] | None = None) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of the line at which each row ends, counted from 1, and its values by column, all as text.

    Args:
        path: The file, in UTF-8.
        intervals: Rows, ascending and apart; None for all. Empty lines are no rows.

    Raises:
        CorpusError: if the file is damaged, not in UTF-8, has other marks between its columns, or a row has more or
            fewer values than columns; names file and line.
    """
    # Of the process, as csv has no limit of a reader's own; left so, since putting it back would stop readers that are
    # at work in other threads, or between two rows in this one.
    csv.field_size_limit(max(LONGEST, csv.field_size_limit()))
    delimiter = "\t" if has_ending(path.name, (".tsv",)) else ","
    with named(str(path)), path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        lines = csv.reader(_in_utf8(stream), delimiter=delimiter, strict=True)
        rows = (row for row in lines if row)
        try:
            columns = next(rows, [])
            _check_header(columns, delimiter)
            for row in rows_in(rows, intervals):
                if len(row) != len(columns):
                    raise CorpusError(f", line {lines.line_num} has {len(row)} values for {len(columns)} columns")
                yield lines.line_num, dict(zip(columns, row, strict=True))
        except csv.Error as error:
            raise CorpusError(f", line {lines.line_num} cannot be read ({error})") from error


def _check_header(columns: list[str], delimiter: str) -> None:
    if len(set(columns)) < len(columns):
        raise CorpusError(f" names a column twice: {', '.join(columns)}; rename one")
    for other in ";\t,|":
        if len(columns) == 1 and other in columns[0]:
            raise CorpusError(
                f" has {other!r} between its columns ({columns[0]!r:.80}), expected {delimiter!r}; convert it"
            )


def _in_utf8(stream: Iterable[str]) -> Iterator[str]:
    """Yield lines that were decoded with ``surrogateescape``, and name the first that was not UTF-8."""
    for number, line in enumerate(stream, start=1):
        if unicode_fault(line):
            raise CorpusError(f", line {number} is not UTF-8; convert the file to it")
        yield line
