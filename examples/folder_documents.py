"""Read the user's own folder of text, Markdown and web pages as LlamaIndex documents, one for each passage."""

import sys
from collections.abc import Mapping
from pathlib import Path

from llama_index.core.schema import Document

from cde_retriever import ContextualEncoder
from cde_retriever.corpus.passages import FilePassages, Passage, document_files, read_file
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
    place, names, others = document_files(folder)
    size, read = encoder.passage_size(), dict[str, FilePassages]()
    for name in progress(names, label="Reading", unit="file", show=show_progress):
        read[name] = read_file(place, name, size)
    for note in notes_on(read, others) if show_progress else ():
        print(note, file=sys.stderr)
    found: dict[str, Document] = {}
    for file in read.values():
        for passage in file.passages:
            found.setdefault(passage.text, as_document(passage))
    return list(found.values())


def notes_on(read: Mapping[str, FilePassages], others: Mapping[str, int]) -> list[str]:
    """Return a sentence for each kind of file that was not read, or not surely rightly.

    Args:
        read: What became of each file, by name.
        others: Endings of the files that are not read, and how many there are of each.
    """
    notes = []
    for what, said in (
        ("gave no text", {name: file.reason for name, file in read.items() if file.reason}),
        (
            "not in UTF-8, read as what seemed likely",
            {name: file.guessed for name, file in read.items() if file.guessed},
        ),
    ):
        if said:
            named = [f"{name} ({reason})" for name, reason in said.items()]
            more = f" and {len(named) - 5} more" if len(named) > 5 else ""
            notes.append(f"{_files(len(said))} {what}: {', '.join(named[:5])}{more}")
    if others:
        kinds = ", ".join(f"{count} {ending}" for ending, count in list(others.items())[:5])
        more = ", ..." if len(others) > 5 else ""
        notes.append(f"{_files(sum(others.values()))} of other kinds not read: {kinds}{more}")
    return notes


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


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
