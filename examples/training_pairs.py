"""Make pairs of a query and its answer, for training and for judging: a docstring's first line asks for the rest.

A question that people asked, with the document that answers it, is better wherever you have it.
"""

import json
from pathlib import Path

from examples.small_corpus import few_docstrings

MODULES = ("zipfile", "calendar", "sched", "argparse", "ast", "pathlib", "typing")


def pairs() -> list[tuple[str, str, str]]:
    """Return id, query and document of every docstring that has a first line and more."""
    found = []
    for name, text in few_docstrings(*MODULES).items():
        _, first, *rest = text.split("\n", 2)
        if rest and len(rest[0].split()) >= 5:
            found.append((name, first, rest[0].strip()))
    return found


def write_pairs(file: Path) -> int:
    """Write them as JSONL, as cde-train reads them, and return how many there are."""
    rows = [{"query": query, "document": document} for _, query, document in pairs()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)
