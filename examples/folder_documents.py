"""The user's own corpus: a folder of text, Markdown and HTML files, one document for each section.

LlamaIndex's `SimpleDirectoryReader` finds and reads the files, `markdownify` turns HTML into Markdown, and LlamaIndex's
`MarkdownNodeParser` finds the sections. A section keeps the headings above it, so that "Options" says of what.
"""

import logging
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup
from llama_index.core import SimpleDirectoryReader
from llama_index.core.node_parser import MarkdownNodeParser
from llama_index.core.readers.base import BaseReader
from llama_index.core.schema import Document
from markdownify import ATX, MarkdownConverter

HTML, MARKDOWN, TEXT = (".html", ".htm", ".xhtml"), (".md", ".markdown"), (".txt", ".rst")
UNSEEN = ("script", "style", "template", "noscript", "nav")  # what a reader of the page does not see, and menus
TO_MARKDOWN = MarkdownConverter(
    heading_style=ATX, strip=["a", "img"], escape_asterisks=False, escape_underscores=False, strong_em_symbol=""
)
LONGEST_HEADING = 100  # characters; headings stand above every part of a section and may not crowd out its text


class HTMLToMarkdownReader(BaseReader):
    """Read an HTML file as Markdown: headings and lists stay, scripts, styles and tags go.

    The file's own ``charset`` is honoured. (`HTMLTagReader` of llama-index-readers-file takes UTF-8 only, finds
    nothing where the tag is missing, joins neighbouring cells and list items into one word, and keeps scripts.)
    """

    def load_data(self, file: Path, extra_info: dict[str, Any] | None = None) -> list[Document]:
        """Return the file as one document."""
        soup = BeautifulSoup(Path(file).read_bytes(), "html.parser")
        for tag in soup(UNSEEN):
            tag.decompose()
        if soup.title and soup.h1:
            soup.title.decompose()
        elif soup.title:
            soup.title.name = "h1"
        text = TO_MARKDOWN.convert_soup(soup)
        return [Document(text=text, metadata=extra_info or {})]


def read_folder(folder: Path, *, show_progress: bool = False) -> list[Document]:
    """Read one document for each section of each file, without duplicates.

    Args:
        folder: Where the files are, at any depth; hidden ones are passed over.
        show_progress: Whether to show a progress bar on stderr.

    Returns:
        Documents whose embedded text is the section's headings and text; ``metadata["name"]`` says where it stands.

    Raises:
        FileNotFoundError: if there is no such folder, or no file of a known kind in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; name one with {', '.join(HTML + MARKDOWN + TEXT)} files")
    # The reader says for each file that optional readers, for kinds of files we do not ask for, are not installed.
    logging.getLogger("llama_index.core.readers.file.base").setLevel(logging.ERROR)
    try:
        reader = SimpleDirectoryReader(
            input_dir=folder,
            recursive=True,
            required_exts=[*HTML, *MARKDOWN, *TEXT],
            file_extractor={suffix: HTMLToMarkdownReader() for suffix in HTML},
            file_metadata=lambda path: {"file": Path(path).relative_to(folder.resolve()).as_posix()},
            errors="replace",
        )
    except ValueError as error:
        raise FileNotFoundError(f"{folder} has no {', '.join(HTML + MARKDOWN + TEXT)} files ({error})") from error
    found: dict[str, Document] = {}
    for file in reader.load_data(show_progress=show_progress):
        for number, (heading, text) in enumerate(sections(file), start=1):
            found.setdefault(f"{heading}\n{text}", as_document(file.metadata["file"], number, heading, text))
    return list(found.values())


def sections(file: Document) -> Iterator[tuple[str, str]]:
    """Yield heading, those above it included, and text of each section that has any text."""
    if not file.metadata["file"].lower().endswith(HTML + MARKDOWN):
        yield "", file.text.strip()
        return
    for node in MarkdownNodeParser.from_defaults().get_nodes_from_node(file):
        first, _, rest = node.text.partition("\n")
        above = [part for part in str(node.metadata["header_path"]).split("/") if part]
        if first.startswith("#"):
            heading, text = " > ".join([*above, first.strip("# ")]), rest.strip()
        else:
            heading, text = " > ".join(above), node.text.strip()
        if text:
            yield textwrap.shorten(heading, LONGEST_HEADING, placeholder=" ..."), text


def as_document(file: str, number: int, heading: str, text: str) -> Document:
    """Make a document whose headings stand above each part it may be split into."""
    return Document(
        id_=f"{file}#{number}",
        text=text,
        metadata={"name": f"{file}: {heading.split(' > ')[-1]}" if heading else file, "headings": heading},
        excluded_embed_metadata_keys=["name"],
        excluded_llm_metadata_keys=["name"],
        metadata_template="{value}",
    )
