"""Turn web pages into sections: their headings, and the text below each as Markdown.

Beautiful Soup with lxml reads the page, as tolerantly as browsers do; `markdownify` turns it into text.
"""

import re
from typing import Any

from cde_retriever.corpus.decoding import decode
from cde_retriever.corpus.requirements import missing_package
from cde_retriever.corpus.sections import Section, under_headings

try:
    from bs4 import BeautifulSoup
    from bs4.dammit import EncodingDetector
    from markdownify import MarkdownConverter
except ModuleNotFoundError as missing:
    raise missing_package(missing) from missing

UNSEEN = ("script", "style", "template", "noscript", "nav")
"""What a reader of the page does not see, and menus."""
# Elements that stand inside a line, and those of which a page or a table consists. All others that markdownify does not
# know end a line, so that words keep apart.
_INLINE = "a|abbr|acronym|b|bdi|bdo|big|br|cite|code|data|del|dfn|em|font|i|img|ins|kbd|mark|nobr|q|r[bpt]|ruby|s|samp"
_KEPT = re.compile(
    rf"{_INLINE}|small|span|strike|strong|su[bp]|time|tt|u|var|wbr|html|body|table|thead|tbody|tfoot|colgroup|col|h[1-6]"
)
_MARK = "\x02"
_HEADING = re.compile(rf"[\s>*+.\d-]*{_MARK}(\d) (.*)")  # it may stand in a list or a quotation


class _Converter(MarkdownConverter):
    """Write headings as lines that begin with a mark of ours and a level."""

    def convert_hN(self, n: int, el: Any, text: str, parent_tags: set[str]) -> str:  # noqa: ARG002, N802
        text = " ".join(text.split())
        return f" {text} " if "_inline" in parent_tags else f"\n\n{_MARK}{n} {text}\n\n"


_CONVERTER = _Converter(
    strip=["a", "img"], escape_asterisks=False, escape_underscores=False, strong_em_symbol="", autolinks=False
)


def page_sections(data: bytes) -> tuple[list[Section], str | None]:
    """Return the sections of a page, and its encoding if that was guessed.

    Raises:
        CorpusError: if the bytes are no text.
    """
    text, guessed = decode(data, EncodingDetector.find_declared_encoding(data, is_html=True))
    page = BeautifulSoup(_without_declaration(text).replace(_MARK, " "), "lxml")
    for tag in page(UNSEEN):
        tag.decompose()
    if page.title and page.h1:
        page.title.decompose()
    elif page.title:
        page.title.name = "h1"
    for tag in page(True):
        if not (_KEPT.fullmatch(tag.name) or hasattr(_CONVERTER, f"convert_{tag.name}")):
            tag.name = "div"
    try:
        text = _CONVERTER.convert_soup(page)
    except RecursionError:  # elements nested a thousand deep
        text = page.get_text("\n\n")
    return _sections(text), guessed


def _without_declaration(text: str) -> str:
    """Leave out an XML declaration: lxml takes no text that names an encoding."""
    return re.sub(r"\A\s*<\?xml[^>]*\?>", "", text)


def _sections(text: str) -> list[Section]:
    found: list[tuple[int, str, list[str]]] = [(0, "", [])]
    for line in text.splitlines():
        if match := _HEADING.fullmatch(line):
            found.append((int(match[1]), match[2].strip(), []))
        else:
            found[-1][2].append(line)
    return under_headings((level, heading, "\n".join(lines)) for level, heading, lines in found)
