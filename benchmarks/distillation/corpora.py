"""Corpora to learn from and to judge on: judged sets as a teacher reads them, and mixtures of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.head_ranking import PlainTexts
from cde_retriever.words.reading import TextCounts, reader
from cde_retriever.words.sparse import Sparse
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.distillation.teacher import Texts

LANGUAGE = "english"


@dataclass(frozen=True)
class Corpus:
    """A judged set.

    Attributes:
        documents: Plain vectors and counts of words.
        queries: The same.
        relevant: For each query the gains of documents, by number.
    """

    documents: Texts
    queries: Texts
    relevant: list[dict[int, int]]

    @classmethod
    def of(cls, data: RetrievalSet, plain: PlainTexts) -> "Corpus":
        """Count the words of a set; pairs of words, which one vector does not hold, are left out."""
        words = reader(LANGUAGE)
        return cls(
            Texts(plain.document_vectors, words.read(plain.documents, "document", pairs=False)),
            Texts(plain.query_vectors, words.read(plain.queries, "query", pairs=False)),
            numbered(data),
        )

    def __len__(self) -> int:
        """Return how many documents there are."""
        return len(self.documents.vectors)


def numbered(data: RetrievalSet) -> list[dict[int, int]]:
    """Return the gains of documents, by number, for each query of a set."""
    place = {key: number for number, key in enumerate(data.document_ids)}
    return [{place[key]: gain for key, gain in data.relevant[query].items()} for query in data.query_ids]


def named(folders: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """Return the folders of sets by their names, in the order of these.

    Raises:
        ValueError: if one is not there.
    """
    there = {folder.name: folder for folder in folders}
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f"there are no sets named {missing}; give their folders too, beside those of {sorted(there)}")
    return [there[name] for name in names]


def joined(parts: Sequence[Texts]) -> Texts:
    """Return texts of several corpora, one after the other."""
    counts = zip(*(part.words for part in parts), strict=True)
    vectors = np.concatenate([part.vectors for part in parts])
    return Texts(vectors, TextCounts(*(Sparse.joined(kind) for kind in counts)))


def mixture(corpora: Sequence[Corpus], rng: np.random.Generator, queries: int = 60) -> Corpus:
    """Draw one to six corpora, half to all of each, and queries of all of them, unjudged."""
    count = min(int(rng.choice([1, 2, 3, 4, 6])), len(corpora))
    chosen = [corpora[i] for i in rng.choice(len(corpora), count, replace=False)]
    parts = [rng.permutation(len(c))[: int(len(c) * rng.uniform(0.5, 1))] for c in chosen]
    asked = [rng.permutation(len(c.relevant))[: queries // len(chosen)] for c in chosen]
    return Corpus(
        joined([c.documents.take(rows) for c, rows in zip(chosen, parts, strict=True)]),
        joined([c.queries.take(rows) for c, rows in zip(chosen, asked, strict=True)]),
        [],
    )
