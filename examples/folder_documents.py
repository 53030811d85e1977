"""Read the user's own folder of text, Markdown and web pages as LlamaIndex documents, one for each passage."""

import sys
from pathlib import Path

from llama_index.core.schema import Document

from cde_retriever import ContextualEncoder
from cde_retriever.corpus.passages import Passage, PassageFolder
from cde_retriever.corpus.sections import BETWEEN_HEADINGS
from cde_retriever.progress import progress


def read_folder(folder: Path, encoder: ContextualEncoder, *, show_progress: bool = False) -> list[Document]:
    """Read the passages that `cde embed` and `cde-train fit` read of the folder, without duplicates.

    Args:
        folder: Where the files are, at any depth; hidden ones are passed over.
        encoder: The model whose tokens a passage is measured in.
        show_progress: Whether to show the progress, and which files were not read, on stderr.

    Raises:
        FileNotFoundError: if there is no such folder, or no file of a known kind in it.
    """
    files = PassageFolder(folder, encoder.passage_size())
    found: dict[str, Document] = {}
    for name in progress(files.names, label="Reading", unit="file", show=show_progress):
        for passage in files.read(name):
            found.setdefault(passage.text, as_document(passage))
    for note in files.notes() if show_progress else ():
        print(note, file=sys.stderr)
    return list(found.values())


def as_document(passage: Passage) -> Document:
    """Make a document that is embedded as the passage is, and named after its file and heading."""
    file = passage.id.rpartition("#")[0]
    return Document(
        id_=passage.id,
        text=passage.text,
        metadata={
            "name": f"{file}: {passage.headings[-1]}" if passage.headings else file,
            "headings": BETWEEN_HEADINGS.join(passage.headings),
        },
        excluded_embed_metadata_keys=["name", "headings"],
        excluded_llm_metadata_keys=["name", "headings"],
    )
