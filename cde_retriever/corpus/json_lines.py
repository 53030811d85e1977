"""Read files of one JSON object a line (``.jsonl``, ``.ndjson``, and these with ``.gz``), by one rule for every reader.

Blank lines are no rows, a byte-order mark at the beginning is passed over, and what is wrong is named by file and line.
"""

import gzip
import itertools
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from cde_retriever.errors import CorpusError

ENDINGS = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
Interval = tuple[int, int]
"""Numbers of rows, from the first to before the second."""
Row = TypeVar("Row")
_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")


@contextmanager
def named(place: str) -> Iterator[None]:
    """Put a place before the messages of what goes wrong.

    Raises:
        CorpusError: in the place of `OSError` and its like too.
    """
    try:
        yield
    except CorpusError as error:
        raise CorpusError(f"{place}{error}") from error.__cause__
    except (OSError, EOFError, zlib.error) as error:
        if fault := getattr(error, "strerror", None):  # of the system: nothing was read of what is inside
            raise CorpusError(f"{place} cannot be read ({fault}); give a file that is there and may be read") from error
        raise CorpusError(f"{place} cannot be read ({error}); is it whole?") from error


def read_json_lines(path: Path, intervals: Iterable[Interval] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line, counted from 1, and its object.

    Args:
        path: The file; compressed if its name ends in ``.gz``.
        intervals: Rows, ascending and apart; None for all. Rows that are not asked for are passed over, not parsed.

    Raises:
        CorpusError: if the file is damaged or a line is no JSON object; names file and line.
    """
    with named(str(path)), _open(path) as stream:
        rows = ((number, line) for number, line in enumerate(_without_mark(stream), start=1) if not line.isspace())
        for number, line in rows_in(rows, intervals):
            with named(f", line {number}"):
                row = _parse(line)
            yield number, row


def rows_in(rows: Iterator[Row], intervals: Iterable[Interval] | None) -> Iterator[Row]:
    """Yield those of the rows of a file that are in intervals, ascending and apart; None for all."""
    at = 0
    for start, stop in [(0, sys.maxsize)] if intervals is None else intervals:
        yield from itertools.islice(rows, start - at, stop - at)
        at = stop


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def _without_mark(stream: IO[bytes]) -> Iterator[bytes]:
    first = next(iter(stream), b"")
    if first.startswith(_WIDE_MARKS):
        raise CorpusError(" is UTF-16, expected UTF-8; convert it, for example: iconv -f UTF-16 -t UTF-8")
    first = first.removeprefix(_MARK)
    return itertools.chain([first or b"\n"], stream)


def _parse(line: bytes) -> dict[str, Any]:
    line = line.rstrip(b"\r\n")
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(f" is not JSON ({error.msg}, column {error.colno}): {line[:80]!r}") from error
    except RecursionError as error:
        raise CorpusError(f" is nested too deep to be read: {line[:80]!r}") from error
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        raise CorpusError(f" is not JSON ({error}): {line[:80]!r}") from error
    if not isinstance(row, dict):
        raise CorpusError(f" is {type(row).__name__}, expected a JSON object: {line[:80]!r}")
    return row
