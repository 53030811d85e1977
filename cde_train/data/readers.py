"""Read training pairs, or documents without queries, from whatever a user has.

Pairs are held in memory, about 1 kB each: up to a million are fine.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cde_retriever.corpus.json_lines import ENDINGS as JSON_LINES
from cde_retriever.corpus.json_lines import read_json_lines
from cde_retriever.corpus.listing import DOCUMENT_ENDINGS, has_ending, list_files
from cde_retriever.corpus.passage_size import PassageSize
from cde_retriever.corpus.passages import read_file
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import CorpusError
from cde_train.data.pairs import TrainingPair
from cde_train.data.retrieval_sets import read_retrieval_set
from cde_train.data.tables import TABLES, read_dataset, read_table
from cde_train.errors import TrainingDataError

QUERY_COLUMNS = ("query", "anchor", "question")
DOCUMENT_COLUMNS = ("document", "positive", "answer", "passage")
_NEGATIVE = re.compile(r"negative(_\d+)?")


@dataclass(frozen=True)
class TrainingData:
    """What was found at a path.

    Attributes:
        pairs: The usable pairs; none if there are only documents.
        documents: Documents without queries, or the whole corpus of a BEIR folder; distinct.
        skipped: Reason to how many pairs, documents or negatives were left out for it.
        kind: ``"pairs"``, ``"dataset"``, ``"beir"`` or ``"documents"``.
        domain: Name of the source, which is the domain of its documents.
    """

    pairs: list[TrainingPair]
    documents: list[str]
    skipped: dict[str, int]
    kind: str
    domain: str


def bundled_size() -> PassageSize:
    """Return how long a passage may be for the bundled model to read it whole."""
    return ContextualEncoder.from_pretrained().passage_size()


def read_data(path: str | os.PathLike[str], size: Callable[[], PassageSize] = bundled_size) -> TrainingData:
    """Read pairs, or documents without queries.

    Recognised, in this order: a Hugging Face dataset on disk (its ``train`` split); a file of columns (.csv .tsv
    .parquet); a BEIR folder (its train split); JSONL files of pairs, ``{"query", "document", "negatives"?,
    "domain"?}``, or of documents, ``{"text"}``, plain or gzipped, alone or in a folder and below (other files beside
    them are not read); text files (.txt .md .rst .html), alone or in a folder and below, cut into passages.

    Empty texts, queries equal to their document and exact duplicates are left out and counted; so are files that give
    no text.

    Args:
        path: File or folder.
        size: Returns how long a passage may be; asked only where documents are to be cut.

    Raises:
        FileNotFoundError: if there is nothing, or nothing of a known form.
        TrainingDataError: for a malformed line (file and line are named), missing or ambiguous columns, a BEIR folder
            without a train split, or if nothing usable is left.
    """
    if not os.fspath(path):
        raise FileNotFoundError("the training data have no name; give a file or folder, . for this one")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected training pairs or documents there")
    found = _Collector(_name(path.resolve()))
    if path.is_dir() and ((path / "dataset_dict.json").is_file() or (path / "state.json").is_file()):
        kind = "dataset"
        _read_pairs(path, read_dataset(path), found)
    elif path.is_file() and has_ending(path.name, TABLES):
        kind = "dataset"
        _read_pairs(path, read_table(path), found)
    elif path.is_dir() and any(path.glob("corpus.jsonl*")):
        kind = "beir"
        _read_beir(path, found)
    elif names := list_files(path, JSON_LINES).names:
        _read_rows(path if path.is_dir() else path.parent, names, found)
        kind = "pairs" if found.pairs else "documents"
    else:
        kind = "documents"
        _read_documents(path, size(), found)
    if not found.pairs and (kind != "documents" or not found.documents):
        raise TrainingDataError(f"{path} holds nothing to train on; left out: {dict(found.skipped) or 'nothing'}")
    return TrainingData(list(found.pairs), list(found.documents), dict(found.skipped), kind, found.domain)


def read_pairs(path: str | os.PathLike[str], say: Callable[[str], None] = warnings.warn) -> list[TrainingPair]:
    """Read pairs as `read_data` does.

    Args:
        path: Where they are.
        say: Told what was left out; by default it becomes a warning.

    Raises:
        FileNotFoundError: if there is no such file.
        TrainingDataError: as `read_data`, or if there are only documents.
    """
    found = read_data(path)
    if found.skipped:
        say(f"{path}: left out " + ", ".join(f"{count} ({reason})" for reason, count in found.skipped.items()))
    if not found.pairs:
        raise TrainingDataError(
            f"{path} holds documents without queries, expected pairs of query and document; cde-train fit makes pairs "
            "of them, in OUT/work/data/pairs.jsonl"
        )
    return found.pairs


@dataclass
class _Collector:
    """Distinct pairs and documents in the order they came, and a count of what was left out."""

    domain: str
    pairs: dict[TrainingPair, None] = field(default_factory=dict)
    documents: dict[str, None] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    _seen: set[tuple[str, str, str]] = field(default_factory=set)

    def add(self, row: Mapping[str, Any], domain: str) -> None:
        """Add one row with the columns of a pair.

        Raises:
            TypeError: if a value is of another type.
        """
        query, document = _text(row, "query"), _text(row, "document")
        domain = _text(row, "domain") if row.get("domain") is not None else domain
        given = _texts(row, "negatives")
        if not query.strip() or not document.strip():
            self.skipped["empty query" if not query.strip() else "empty document"] += 1
        elif _plain(query) == _plain(document):
            self.skipped["query equal to document"] += 1
        elif (query, document, domain) in self._seen:
            self.skipped["duplicate pair"] += 1
        else:
            self._seen.add((query, document, domain))
            kept = tuple(text for text in given if text.strip() and _plain(text) != _plain(document))
            if len(kept) < len(given):
                self.skipped["negative empty or equal to document"] += len(given) - len(kept)
            source = row.get("source")
            if not isinstance(source, str) or len(source) < len(document):
                source = ""  # the name of a website, say, and not the text that query and document were taken from
            self.pairs[TrainingPair(query, document, domain or self.domain, kept, source)] = None

    def add_document(self, text: str) -> None:
        """Add a document without a query."""
        if not text.strip():
            self.skipped["empty document"] += 1
        elif text in self.documents:
            self.skipped["duplicate document"] += 1
        else:
            self.documents[text] = None


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise TypeError(f"{name} is {row[name]!r}, expected text")
    return str(row[name])


def _texts(row: Mapping[str, Any], name: str) -> list[str]:
    """Return a column of texts; a single text is a list of one, and a missing one is empty."""
    given = row.get(name)
    if given is None or isinstance(given, str):
        return [] if given is None else [given]
    if not isinstance(given, list | tuple) or not all(isinstance(text, str) for text in given):
        raise TypeError(f"{name} is {given!r}, expected a list of texts")
    return list(given)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _name(path: Path) -> str:
    return path.name.split(".")[0] or path.name


def _read_rows(path: Path, names: list[str], found: _Collector) -> None:
    for name in names:
        file = path / name
        for number, row in _lines(file):
            with _named(f"{file}, line {number}"):
                if "text" in row and not {"query", "document"} & row.keys():
                    found.add_document(_text(row, "text"))
                else:
                    found.add(_pair(row), _name(file))
        if found.pairs and found.documents:
            raise TrainingDataError(f"{file}: pairs and documents without queries are mixed; put them in folders apart")


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Say where a row is that is no pair."""
    try:
        yield
    except TypeError as error:
        raise TrainingDataError(f"{place}: not a pair; {error}") from error


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        yield from read_json_lines(file)
    except CorpusError as error:
        raise TrainingDataError(str(error)) from error


def _read_pairs(path: Path, rows: Iterable[Mapping[str, Any]], found: _Collector) -> None:
    for number, row in enumerate(rows, start=1):
        with _named(f"{path}, row {number}"):
            found.add(_pair(row), found.domain)


def _pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the columns of a pair under one name each.

    Raises:
        TypeError: if query or document are missing or ambiguous, or negatives are no texts.
    """
    single = [name for name in row if _NEGATIVE.fullmatch(name)]
    negatives = [text for name in ("negatives", *single) for text in _texts(row, name)]
    query, document = _column(row, QUERY_COLUMNS), _column(row, DOCUMENT_COLUMNS)
    return {**row, "query": row[query], "document": row[document], "negatives": negatives}


def _column(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    there = [name for name in names if name in row]
    if names[0] not in there and len(there) != 1:
        raise TypeError(f"it has the columns {list(row)}, expected {names[0]!r}, or one of {names[1:]}")
    return there[0]


def _read_beir(path: Path, found: _Collector) -> None:
    if (path / "qrels.tsv").is_file() or not (path / "qrels" / "train.tsv").is_file():
        raise TrainingDataError(
            f"{path} has no train split: expected qrels/train.tsv, and no qrels.tsv, which is for evaluation"
        )
    with warnings.catch_warnings():  # what it warns of is counted below
        warnings.simplefilter("ignore")
        try:
            data = read_retrieval_set(path, "train")
        except ValueError as error:
            raise TrainingDataError(str(error)) from error
    texts = dict(zip(data.document_ids, data.documents, strict=True))
    for text in data.documents:
        found.add_document(text)
    for key, query in zip(data.query_ids, data.queries, strict=True):
        for document in data.relevant[key]:
            found.add({"query": query, "document": texts[document]}, found.domain)
    if data.unknown_judgements:
        found.skipped["judgement of an unknown query or document"] = data.unknown_judgements


def _read_documents(path: Path, size: PassageSize, found: _Collector) -> None:
    folder, names, _ = list_files(path, DOCUMENT_ENDINGS)
    if not names:
        if path.is_dir():
            known = ", ".join((*JSON_LINES, *DOCUMENT_ENDINGS))
            raise FileNotFoundError(
                f"{path} has no file that ends in {known}; of {', '.join(TABLES)} name one file, not its folder"
            )
        known = ", ".join((*JSON_LINES, *TABLES, *DOCUMENT_ENDINGS))
        raise FileNotFoundError(f"{path} ends in none of {known}")
    for name in names:
        read = read_file(folder, name, size)
        for passage in read.passages:
            found.add_document(passage.text)
        if read.reason:
            found.skipped[f"file without text: {name} ({read.reason})"] += 1
