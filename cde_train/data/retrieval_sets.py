"""Read judged corpora: documents, queries, and which documents answer them."""

import hashlib
import json
import os
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cde_retriever.corpus.json_lines import read_json_lines
from cde_retriever.errors import CorpusError
from cde_retriever.files.replacing import write_atomically

TREC, BEIR = ("query", "0", "document", "gain"), ("query", "document", "gain")
"""Columns of a file of judgements."""


@dataclass(frozen=True)
class RetrievalSet:
    """A corpus, queries, and which documents answer them.

    Attributes:
        name: The folder's name.
        document_ids: Ids of the documents, in file order.
        documents: ``title + " " + text`` of each, stripped.
        query_ids: Ids of the queries that have a relevant document.
        queries: Their texts.
        relevant: Query id to document id to gain, all above 0.
        unknown_judgements: Judgements left out because they name a document or query that is not there.
    """

    name: str
    document_ids: tuple[str, ...]
    documents: tuple[str, ...]
    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    relevant: dict[str, dict[str, int]] = field(repr=False)
    unknown_judgements: int = 0


def read_retrieval_set(folder: str | os.PathLike[str], split: str = "test") -> RetrievalSet:
    """Read a retrieval set.

    Two layouts: ``corpus.jsonl`` and ``queries.jsonl`` with ``qrels.tsv`` in TREC form (query, 0, document, gain), or
    with ``qrels/SPLIT.tsv`` in BEIR form (header line; query, document, gain). The JSONL files may end in ``.gz``
    and name ids ``id`` or ``_id``.

    Args:
        folder: The folder; its name becomes the set's.
        split: Which BEIR judgements to read.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for a malformed line (file and line are named), a repeated id, or a set without any usable query.
    """
    folder = Path(folder).resolve()
    documents = dict(_read_texts(_find(folder, "corpus.jsonl")))
    queries = dict(_read_texts(_find(folder, "queries.jsonl")))
    trec, beir = folder / "qrels.tsv", folder / "qrels" / f"{split}.tsv"
    if not trec.is_file() and not beir.is_file():
        raise FileNotFoundError(f"{folder} has no judgements; expected qrels.tsv or qrels/{split}.tsv")
    judged = _read_judgements(trec, TREC) if trec.is_file() else _read_judgements(beir, BEIR)
    relevant, unknown = _relevant(judged, queries, documents)
    if unknown:
        warnings.warn(
            f"{folder.name}: {len(unknown)} judgements name a query or document that is not there and were left out, "
            f"for example {unknown[0]!r}",
            stacklevel=2,
        )
    if not relevant:
        raise ValueError(f"{folder} has no query with a relevant document ({len(queries)} queries)")
    return RetrievalSet(
        name=folder.name,
        document_ids=tuple(documents),
        documents=tuple(documents.values()),
        query_ids=tuple(query for query in queries if query in relevant),
        queries=tuple(text for query, text in queries.items() if query in relevant),
        relevant=relevant,
        unknown_judgements=len(unknown),
    )


def _relevant(
    judged: Iterable[tuple[str, str, int]], queries: Collection[str], documents: Collection[str]
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Return gains above 0 by query and document, and the judgements of what is not there."""
    relevant: dict[str, dict[str, int]] = {}
    unknown = []
    for query, document, gain in judged:
        if query not in queries or document not in documents:
            unknown.append(f"{query} {document}")
        elif gain > 0:
            relevant.setdefault(query, {})[document] = gain
    return relevant, unknown


def write_retrieval_set(data: RetrievalSet, folder: Path) -> None:
    """Write a retrieval set that `read_retrieval_set` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids, texts in (
        ("corpus.jsonl", data.document_ids, data.documents),
        ("queries.jsonl", data.query_ids, data.queries),
    ):
        rows = (
            json.dumps({"_id": key, "text": text}, ensure_ascii=False) for key, text in zip(ids, texts, strict=True)
        )
        write_atomically(folder / name, "".join(row + "\n" for row in rows).encode())
    judged = ((query, document, gain) for query, gains in data.relevant.items() for document, gain in gains.items())
    lines = (f"{query}\t0\t{document}\t{gain}\n" for query, document, gain in judged)
    write_atomically(folder / "qrels.tsv", "".join(lines).encode())


def hash_retrieval_set(data: RetrievalSet) -> str:
    """Return the sha256 of a set's ids, texts and judgements."""
    content = json.dumps([data.document_ids, data.documents, data.query_ids, data.queries, data.relevant])
    return hashlib.sha256(content.encode()).hexdigest()


def find_retrieval_sets(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the set folders in a folder, or the folder itself if it is one, in alphabetical order.

    Raises:
        FileNotFoundError: if there is none.
        PermissionError: if the folder, or one in it, cannot be listed; `Path.glob` would leave it out.
    """
    folder = Path(folder)
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())] if folder.is_dir() else []
    found = [path for path in candidates if any(file.name.startswith("corpus.jsonl") for file in path.iterdir())]
    if not found:
        raise FileNotFoundError(f"{folder} holds no retrieval set, that is a folder with corpus.jsonl[.gz]")
    return found


def _find(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise FileNotFoundError(f"{folder} has neither {name} nor {name}.gz")


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        yield from read_json_lines(file)
    except CorpusError as error:
        raise ValueError(str(error)) from error


def _read_texts(file: Path) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for number, row in _rows(file):
        try:
            key, title, text = row["_id"] if "_id" in row else row["id"], row.get("title"), row["text"]
        except KeyError as error:
            raise ValueError(f"{file}, line {number}: expected id and text ({error!r})") from error
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise ValueError(f"{file}, line {number}: the id is {key!r:.80}, expected a string or a whole number")
        for name, value in (("title", title or ""), ("text", text)):
            if not isinstance(value, str):
                raise ValueError(f"{file}, line {number}: {name} is {value!r:.80}, expected a string")
        key, text = str(key), f"{title or ''} {text}".strip()
        if key in seen:
            raise ValueError(f"{file}, line {number}: id {key!r} is there twice")
        seen.add(key)
        yield key, text


def _read_judgements(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, str, int]]:
    """Yield query, document and gain of each line; a file in BEIR's form begins with a header."""
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip() or (number == 1 and columns == BEIR):
            continue
        try:
            values = line.split("\t")
            if columns == TREC and len(values) != len(TREC):
                values = line.split()
            row = dict(zip(columns, values, strict=True))
            yield row["query"], row["document"], int(row["gain"])
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: expected {', '.join(columns)}; received {line!r}") from error
