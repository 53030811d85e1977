"""What the demo asks."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from llama_index.core.schema import Document

from cde_retriever.corpus.decoding import decode

STDLIB_QUESTIONS = (
    "run a function after a delay",
    "keep only the n largest items",
    "compare two text files line by line",
    "remember the results of expensive calls",
    "read settings from an INI file",
    "delete a folder with everything in it",
    "send an e-mail with an attachment",
    "how long does a small piece of code take",
    "wait until several threads have reached the same point",
    "split a command line the way a shell does",
)


def given_questions(text: str) -> list[str]:
    """Return questions from a file, one a line, or from the text itself, separated by semicolons or line breaks.

    Raises:
        ValueError: if there is no question in it, or the file is no text.
    """
    is_file = os.path.isfile(text)  # noqa: PTH113 - Path.is_file raises if the text is longer than a name may be
    parts = decode(Path(text).read_bytes())[0].splitlines() if is_file else re.split(r"[;\n]", text)
    questions = [part.strip() for part in parts if part.strip()]
    if not questions:
        raise ValueError(f"no question in {text!r}; give a file with one a line, or questions separated by ';'")
    return questions


def questions_from(documents: Sequence[Document], count: int = 8) -> list[str]:
    """Return what documents say they are about: their heading, or else first sentence; `count` of them."""
    topics: dict[str, None] = {}
    for document in documents:
        heading = str(document.metadata.get("headings", "")).split(" > ")[-1]
        sentence = re.split(r"(?<=[.!?])\s", " ".join(document.text.split()), maxsplit=1)[0]
        topics.setdefault(heading or sentence[:120])
    whole = [topic for topic in topics if " " in topic] or list(topics)
    return [whole[i * len(whole) // count] for i in range(count)] if len(whole) > count else whole
