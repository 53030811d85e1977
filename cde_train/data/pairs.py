"""Hold training pairs: a query, the document that answers it, and their domain."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cde_retriever.files.replacing import write_atomically


@dataclass(frozen=True)
class TrainingPair:
    """A query and its document.

    Attributes:
        query: The query.
        document: A document that answers it.
        domain: The corpus the document belongs to.
        negatives: Hard negatives, nearest first, if there are any.
        source: The whole text that query and document were taken from, if they were; pairs of one source are held out
            together.
    """

    query: str
    document: str
    domain: str
    negatives: tuple[str, ...] = ()
    source: str = ""


def documents_by_domain(pairs: Sequence[TrainingPair]) -> dict[str, list[str]]:
    """Return the distinct documents of each domain, in the order of the pairs."""
    found: dict[str, dict[str, None]] = {}
    for pair in pairs:
        found.setdefault(pair.domain, {})[pair.document] = None
    return {domain: list(documents) for domain, documents in found.items()}


def texts_of(pairs: Sequence[TrainingPair]) -> list[str]:
    """Return every text of the pairs: queries, documents, hard negatives."""
    texts = [pair.query for pair in pairs] + [pair.document for pair in pairs]
    return texts + [text for pair in pairs for text in pair.negatives]


def write_pairs(pairs: Iterable[TrainingPair], file: Path) -> None:
    """Write pairs as JSONL that `cde_train.data.readers.read_pairs` reads."""
    rows = ({key: value for key, value in asdict(pair).items() if value != ""} for pair in pairs)
    write_atomically(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
