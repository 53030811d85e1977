"""Text files cut into passages of about 200 words, each under its heading.

A passage is its heading, an empty line, and whole paragraphs; only a paragraph longer than a passage is cut inside.
"""

import re
from html.parser import HTMLParser
from pathlib import Path

WORDS = 200
SUFFIXES = (".txt", ".md", ".rst", ".html", ".htm")
_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*")
_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_])\1{2,}\s*")
_BLOCKS = {"p", "li", "div", "tr", "pre", "dd", "dt", "section", "article", "table", "ul", "ol", "br", "title"}
_HIDDEN = {"script", "style", "nav", "head", "footer", "template"}


def is_text_file(file: Path) -> bool:
    """Whether a file is of a form that `read_passages` reads; hidden files are not."""
    return file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith(".")


def read_passages(file: Path) -> list[str]:
    """Return the passages of a file.

    Raises:
        UnicodeDecodeError: if it is not in UTF-8.
    """
    text = file.read_text(encoding="utf-8-sig")
    if file.suffix.lower() in (".html", ".htm"):
        parser = _Html()
        parser.feed(text)
        parser.close()
        text = "".join(parser.parts)
    return split(text)


def split(text: str, words: int = WORDS) -> list[str]:
    """Cut a text at headings and paragraphs into passages of at most about ``words`` words."""
    passages: list[str] = []
    for heading, paragraphs in _sections(text):
        body: list[str] = []
        size = 0
        for paragraph in (piece for whole in paragraphs for piece in _pieces(whole, words)):
            length = len(paragraph.split())
            if body and size + length > words:
                passages.append("\n\n".join([heading, *body]).strip())
                body, size = [], 0
            body.append(paragraph)
            size += length
        if body:
            passages.append("\n\n".join([heading, *body]).strip())
    return passages


def _pieces(paragraph: str, words: int) -> list[str]:
    found = paragraph.split()
    if len(found) <= 2 * words:
        return [paragraph]
    return [" ".join(found[start : start + words]) for start in range(0, len(found), words)]


def _sections(text: str) -> list[tuple[str, list[str]]]:
    """Return each heading, without its marks, and the paragraphs below it."""
    sections: list[tuple[str, list[str]]] = [("", [])]
    paragraph: list[str] = []
    fenced = False
    for line in [*text.splitlines(), ""]:
        fence = line.lstrip().startswith("```")
        fenced ^= fence
        heading = "" if fenced or fence else _heading(line, paragraph)
        if heading or not line.strip():
            if paragraph:
                sections[-1][1].append("\n".join(paragraph))
                paragraph.clear()
            if heading:
                sections.append((heading, []))
        else:
            paragraph.append(line.rstrip())
    return sections


def _heading(line: str, paragraph: list[str]) -> str:
    """Return the heading this line makes, or nothing; an underlined one is taken out of the open paragraph."""
    if match := _HEADING.fullmatch(line.strip()):
        return match[1]
    alone = len(paragraph) == 1 or (len(paragraph) == 2 and _UNDERLINE.fullmatch(paragraph[0]))
    if alone and _UNDERLINE.fullmatch(line) and len(line.strip()) >= len(paragraph[-1].strip()):
        title = paragraph[-1].strip()
        paragraph.clear()
        return title
    return ""


class _Html(HTMLParser):
    """Text of a page: headings as ``# heading``, blocks apart, scripts and navigation left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0
        self._in_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - given by name
        self._hidden += tag in _HIDDEN
        if re.fullmatch("h[1-6]", tag):
            self.parts.append("\n\n# ")
            self._in_heading = True
        elif tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in _HIDDEN))
        if re.fullmatch("h[1-6]", tag):
            self._in_heading = False
        if tag in _BLOCKS or re.fullmatch("h[1-6]", tag):
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(re.sub(r"\s+", " ", data) if self._in_heading else data)
