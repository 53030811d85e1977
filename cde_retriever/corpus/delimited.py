"""Read CSV and TSV files: a line that names the columns, then a row a line, or several where a value is quoted."""

import csv
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cde_retriever.corpus.json_lines import Interval, named
from cde_retriever.corpus.listing import has_ending
from cde_retriever.errors import CorpusError

ENDINGS = (".csv", ".tsv")
csv.field_size_limit(2**31 - 1)  # a text may be a book; 128 kB by default


def read_delimited(path: Path, intervals: Iterable[Interval] | None = None) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of the line at which each row ends, counted from 1, and its values by column, all as text.

    Args:
        path: The file, in UTF-8.
        intervals: Rows, ascending and apart; None for all. Empty lines are no rows.

    Raises:
        CorpusError: if the file is damaged, or a row has more or fewer values than columns; names file and line.
    """
    with named(str(path)), path.open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(stream, delimiter="\t" if has_ending(path.name, (".tsv",)) else ",", strict=True)
        rows = (row for row in lines if row)
        at = 0
        try:
            columns = next(rows, [])
            if len(set(columns)) < len(columns):
                raise CorpusError(f" names a column twice: {', '.join(columns)}; rename one")
            for start, stop in [(0, sys.maxsize)] if intervals is None else intervals:
                for row in itertools.islice(rows, start - at, stop - at):
                    if len(row) != len(columns):
                        raise CorpusError(f", line {lines.line_num} has {len(row)} values for {len(columns)} columns")
                    yield lines.line_num, dict(zip(columns, row, strict=True))
                at = stop
        except (csv.Error, UnicodeDecodeError) as error:
            raise CorpusError(f", line {lines.line_num + 1} cannot be read ({error}); expected UTF-8") from error
