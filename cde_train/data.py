"""Training pairs: a query and the document that answers it, by domain."""

import gzip
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingPair:
    """One query, its document, and the domain whose corpus the document belongs to."""

    query: str
    document: str
    domain: str


def read_pairs(path: str | os.PathLike[str]) -> list[TrainingPair]:
    """Read pairs from a JSONL file (``.jsonl`` or ``.jsonl.gz``), or from every one in a folder.

    Each line is ``{"query": str, "document": str, "domain": str}``; the domain defaults to the file's name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a malformed line; names file and line.
    """
    path = Path(path)
    files = sorted(path.glob("*.jsonl*")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{path} holds no .jsonl or .jsonl.gz file")
    return [pair for file in files for pair in _read_file(file)]


def _read_file(file: Path) -> list[TrainingPair]:
    pairs = []
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                pair = TrainingPair(row["query"], row["document"], row.get("domain") or file.name.split(".")[0])
                usable = bool(pair.query.strip() and pair.document.strip())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{file}, line {number}: not a pair ({error!r}); expected query and document"
                ) from error
            if not usable:
                raise ValueError(f"{file}, line {number}: query or document is empty; leave the pair out")
            pairs.append(pair)
    return pairs


def by_domain(pairs: list[TrainingPair]) -> dict[str, list[TrainingPair]]:
    """Group pairs by domain, domains in alphabetical order."""
    groups: dict[str, list[TrainingPair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.domain].append(pair)
    return dict(sorted(groups.items()))
