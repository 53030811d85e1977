"""Find the sections of a text: what stands below each heading, in Markdown, reStructuredText and plain text."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cde_retriever.corpus.requirements import missing_package

try:
    from markdown_it import MarkdownIt
except ModuleNotFoundError as missing:
    raise missing_package(missing) from missing

BETWEEN_HEADINGS = " > "
"""Stands between a heading and those above it, where they are one line."""
_MARKDOWN = MarkdownIt("commonmark").enable("table")
_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?\n)?\1[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*(.+?)[ \t]*$", re.MULTILINE)
_ANCHOR = re.compile(r"\s*\{[#.:][^}]*\}\s*$")
_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_])\1{2,}\s*")


class Section(NamedTuple):
    """Part of a text.

    Attributes:
        headings: Its heading, and those above it, the highest first.
        blocks: Its paragraphs, lists, tables and listings, as they stand in the text.
    """

    headings: tuple[str, ...]
    blocks: list[str]


def under_headings(found: Iterable[tuple[int, str, str]]) -> list[Section]:
    """Return sections of levels (0 for none), headings and texts in order; those without text are left out."""
    sections: list[Section] = []
    above: list[tuple[int, str]] = []
    for level, heading, text in found:
        if heading:
            above = [*(one for one in above if one[0] < level), (level, heading)]
        blocks = [block for block in re.split(r"\n\s*\n", text) if re.search(r"\w", block)]
        if blocks:
            sections.append(Section(tuple(heading for _, heading in above), [block.strip("\n") for block in blocks]))
    return sections


def markdown_sections(text: str) -> list[Section]:
    """Return the sections of a Markdown text (CommonMark with tables).

    Front matter is left out; its title is the highest heading where the text has none of the first level.
    """
    front = _FRONT_MATTER.match(text)
    body = text[front.end() :] if front else text
    title = _FRONT_TITLE.search(front[2] or "") if front else None
    blocks = list(_blocks(body))
    sections = [Section((), [])]
    above: list[tuple[int, str]] = []
    for level, content in blocks:
        if level:
            above = [*(one for one in above if one[0] < level), (level, content)]
            sections.append(Section(tuple(heading for _, heading in above if heading), []))
        else:
            sections[-1].blocks.append(content)
    sections = [section for section in sections if section.blocks]
    if title and all(level != 1 for level, _ in blocks):
        name = title[1].strip("\"'")
        sections = [Section((name, *headings), blocks) for headings, blocks in sections]
    return sections


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield headings with their level, and other blocks with level 0."""
    lines = text.splitlines()
    tokens = _MARKDOWN.parse("\n".join(lines))
    for token, following in zip(tokens, [*tokens, None][1:], strict=True):
        if token.level or token.nesting < 0 or token.map is None:
            continue
        if token.type == "heading_open" and following is not None:
            parts = [part for part in following.children or () if part.type != "html_inline"]
            heading = "".join(" " if part.type == "softbreak" else part.content for part in parts)
            yield int(token.tag[1]), _ANCHOR.sub("", " ".join(heading.split()))
        elif re.search(r"\w", block := "\n".join(lines[slice(*token.map)]).strip("\n")):
            yield 0, block


def restructured_sections(text: str) -> list[Section]:
    """Return the sections of a reStructuredText; a heading's level is the order in which its kind of line comes."""
    lines, found, kinds = text.splitlines(), [(0, "", "")], list[tuple[str, bool]]()
    number = 0
    while number < len(lines):
        heading = _underlined(lines, number)
        if heading is None:
            level, title, body = found[-1]
            found[-1] = (level, title, f"{body}{lines[number].rstrip()}\n")
            number += 1
            continue
        title, kind, number = heading
        if kind not in kinds:
            kinds.append(kind)
        found.append((kinds.index(kind) + 1, title, ""))
    return under_headings(found)


def _underlined(lines: list[str], number: int) -> tuple[str, tuple[str, bool], int] | None:
    """Return the heading that begins at a line, the kind of its lines, and the number of the line after it."""
    over = bool(_UNDERLINE.fullmatch(lines[number]))
    title, under = (*lines[number + over : number + over + 2], "", "")[:2]
    alone = number == 0 or not lines[number - 1].strip()
    marked = _UNDERLINE.fullmatch(under) and len(under.rstrip()) >= len(title.rstrip()) and title.strip()
    if not (alone and marked) or _UNDERLINE.fullmatch(title) or (over and lines[number][0] != under[0]):
        return None
    return title.strip(), (under[0], over), number + over + 2


def plain_sections(text: str) -> list[Section]:
    """Return a plain text as one section without a heading."""
    return under_headings([(0, "", "\n".join(line.rstrip() for line in text.splitlines()))])
