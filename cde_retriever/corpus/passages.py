"""Read text, Markdown, reStructuredText and web pages as passages that fit a model, each under its headings.

A passage is its headings, an empty line, and whole paragraphs, lists, tables or listings; only what is longer than the
model reads is cut inside, at the ends of sentences where it has any. `cde embed`, `cde-train fit` and the demo read
folders with this module, so the same folder gives the same passages everywhere.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cde_retriever.corpus.decoding import decode
from cde_retriever.corpus.listing import (
    DOCUMENT_ENDINGS,
    MARKDOWN,
    PAGES,
    RESTRUCTURED,
    Listing,
    has_ending,
    list_files,
)
from cde_retriever.corpus.passage_size import PassageSize
from cde_retriever.corpus.sections import (
    BETWEEN_HEADINGS,
    Section,
    markdown_sections,
    plain_sections,
    restructured_sections,
)
from cde_retriever.corpus.web_pages import page_sections
from cde_retriever.errors import CorpusError

_BETWEEN = "\n\n"
_JOINT = 2
"""Tokens that an empty line between two blocks may take."""


class Passage(NamedTuple):
    """Part of a file.

    Attributes:
        id: Path of the file below its folder, ``#``, and the number of the passage in the file, from 1.
        headings: The headings it stands under, the highest first.
        text: Headings and text, as they are embedded.
    """

    id: str
    headings: tuple[str, ...]
    text: str


def document_files(path: str | os.PathLike[str]) -> Listing:
    """List the documents of a folder, or one document.

    Raises:
        FileNotFoundError: if there is nothing at the path, or no file of a known ending.
    """
    found = list_files(path, DOCUMENT_ENDINGS)
    if not found.names:
        raise FileNotFoundError(f"{path} has no file that ends in {', '.join(DOCUMENT_ENDINGS)}")
    return found


class FilePassages(NamedTuple):
    """Passages of a file, why there are none, and the encoding it was read as if nothing says it."""

    passages: list[Passage]
    reason: str | None = None
    guessed: str | None = None


def read_file(folder: Path, name: str, size: PassageSize) -> FilePassages:
    """Read a file of a folder as passages; one that cannot be read gives none."""
    try:
        sections, guessed = read_sections(folder / name)
    except (CorpusError, OSError) as error:
        return FilePassages([], str(error))
    passages = cut_sections(name, sections, size)
    return FilePassages(passages, None if passages else "it has no text", guessed)


def read_sections(file: Path) -> tuple[list[Section], str | None]:
    """Return the sections of a file, and its encoding if that had to be guessed.

    Raises:
        CorpusError: if it is no text.
        OSError: if it cannot be read.
    """
    data = file.read_bytes()
    if has_ending(file.name, PAGES):
        return page_sections(data)
    text, guessed = decode(data)
    if has_ending(file.name, MARKDOWN):
        return markdown_sections(text), guessed
    return (restructured_sections if has_ending(file.name, RESTRUCTURED) else plain_sections)(text), guessed


def cut_sections(name: str, sections: list[Section], size: PassageSize) -> list[Passage]:
    """Return passages of at most a size, numbered under a name."""
    found: list[tuple[tuple[str, ...], str]] = []
    for headings, blocks in sections:
        above = _heading_that_fits(headings, size)
        room = size.tokens - (size.count(above) + _JOINT if above else 0)
        for body in _bodies(blocks, room, size):
            found.append((headings, f"{above}{_BETWEEN}{body}" if above else body))
    return [Passage(f"{name}#{number}", *one) for number, one in enumerate(found, start=1)]


def _heading_that_fits(headings: tuple[str, ...], size: PassageSize) -> str:
    """Return the headings as one line of at most half a passage; the highest go first, then words of the last."""
    for start in range(len(headings)):
        joined = BETWEEN_HEADINGS.join(headings[start:])
        if size.count(joined) <= size.tokens // 2:
            return joined
    return size.cut(headings[-1], size.tokens // 2)[0] if headings else ""


def _bodies(blocks: list[str], room: int, size: PassageSize) -> Iterator[str]:
    """Yield whole blocks together as long as they fit, and blocks that are too long in pieces."""
    body: list[str] = []
    taken = 0
    for block, count in zip(blocks, size.count_each(blocks), strict=True):
        pieces = [block] if count <= room else size.cut(block, room)
        for piece, tokens in zip(pieces, [count] if len(pieces) == 1 else size.count_each(pieces), strict=True):
            if body and taken + _JOINT + tokens > room:
                yield _BETWEEN.join(body)
                body, taken = [], 0
            body.append(piece)
            taken += tokens + (_JOINT if len(body) > 1 else 0)
    if body:
        yield _BETWEEN.join(body)
