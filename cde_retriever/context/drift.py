"""Tell whether documents that join an index are like those that its context was drawn from.

A context is a random sample of its corpus. So another document of that corpus is to the J context documents what each
of them is to the others, and its place among them is uniform, whatever the corpus is. Two places are taken: by the
share of the document's words that stand in some other context document, and by its cosine with the nearest of these. Of
n documents of the same corpus the mean place is 1/2, with variance (n + J + 1) / (12 n J) (Mann & Whitney 1947);
foreign documents lie near 0, so twice what the mean lacks to 1/2 is about their share.

Kept are counts and sums of places. How well it tells, and what drift costs, was measured (docs/drift.md).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.neighbours import unit
from cde_retriever.context.sampling import hash_text
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import reader

Vectors = NDArray[np.float32]

THRESHOLD = 2.24
"""Standard deviations below 1/2 of the mean place, by words or by vectors, that 2.5 % of samples have by chance."""
FEWEST = 20
"""So many documents tell something."""
NOTICED = 0.3
"""Share of foreign documents that `Drift.enough` is about."""
SURE = 1.645
"""Standard deviations that all but 5 % of samples are above."""
LOSS_OF_FOREIGN = 0.016
"""nDCG@10 that is lost to a refit, where all documents of an index are foreign to its context (`benchmarks.drift`)."""


@dataclass(frozen=True)
class Added:
    """Documents that joined an index after its context was fitted.

    Attributes:
        documents: How many.
        judged: Of how many the words were compared: not of context documents and empty ones.
        words: Sum of their places by words, 0 … 1 each.
        compared: Of how many the vectors were compared too.
        vectors: Sum of their places by vectors.
    """

    documents: int = 0
    judged: int = 0
    words: float = 0.0
    compared: int = 0
    vectors: float = 0.0

    def __add__(self, other: "Added") -> "Added":
        """Return both together."""
        return Added(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Added)))


@dataclass(frozen=True)
class Drift:
    """How unlike the documents that joined an index are to its context.

    Attributes:
        documents_seen: Documents that the context was drawn from.
        added: Documents that joined since.
        expected_loss: By how much nDCG@10 will be lower than after a refit, if nothing is done; 0 to 1.
        foreign: What share of the added documents is foreign, as far as can be told, 0 to 1.
        evidence: Standard deviations between what was added and what more of the same corpus would be.
        detected: Whether this is more than chance.
        enough: Whether 30 % foreign documents among what was added would be noticed in 95 of 100 cases. Else what is
            not detected means little: too few joined, or the context has too few documents (never enough below 56).
    """

    documents_seen: int
    added: int
    expected_loss: float
    foreign: float
    evidence: float
    detected: bool
    enough: bool = False

    @classmethod
    def of(cls, added: Added, documents_seen: int, size: int) -> "Drift":
        """Return what follows from documents that were added.

        Args:
            added: What was added.
            documents_seen: Documents that the context was drawn from.
            size: Documents of the context, J.
        """
        places = [(added.words, added.judged), (added.vectors, added.compared)]
        lacks = [(0.5 - total / n) / _deviation(n, size) for total, n in places if n]
        shares = [1 - 2 * total / n for total, n in places if n]
        evidence = max(lacks, default=0.0)
        detected = added.judged >= FEWEST and evidence > THRESHOLD
        enough = bool(added.judged) and (THRESHOLD + SURE) * _deviation(added.judged, size) <= NOTICED / 2
        foreign = max(0.0, *shares) if detected else 0.0
        of_index = added.documents / max(1, documents_seen + added.documents)
        loss = LOSS_OF_FOREIGN * foreign * of_index
        return cls(documents_seen, added.documents, loss, foreign, evidence, detected, enough)


def _deviation(count: int, size: int) -> float:
    return math.sqrt((count + size + 1) / (12 * count * size))


class Reference:
    """What new documents are compared with: the context's own documents, each compared with the others.

    Args:
        hashes: sha256 of the context documents.
        words: Their words.
        vectors: Their plain vectors, (J, d).
        moved: What becomes of these in documents of an index, as far as it is another, (J, d); None for the same.
    """

    def __init__(
        self, hashes: Iterable[str], words: CorpusWords, vectors: Vectors, moved: Vectors | None = None
    ) -> None:
        self._hashes, self._reader = frozenset(hashes), reader(words.language)
        known, documents_with = np.unique(words.counts.indices, return_counts=True)
        self._known = frozenset(known.tolist())
        alone = known[documents_with == 1]
        rows = words.counts.row_numbers[np.isin(words.counts.indices, alone)]
        lengths = np.diff(words.counts.starts)
        self._shares = np.sort(1 - np.bincount(rows, minlength=words.counts.rows) / np.maximum(lengths, 1))
        self._vectors = unit(vectors)
        cosines = (unit(vectors) if moved is None else moved) @ self._vectors.T
        np.fill_diagonal(cosines, -np.inf)
        self._nearest = np.sort(cosines.max(axis=1, initial=-1))

    @property
    def size(self) -> int:
        """How many documents the context has, J."""
        return len(self._shares)

    def judge(self, texts: Sequence[str], vectors: Vectors | None = None) -> Added:
        """Return the places of documents.

        Args:
            texts: The documents.
            vectors: As the index holds them, (n, d or more), the first d being the dense part; None for words alone.
        """
        shares, rows = [], []
        for row, text in enumerate(texts):
            numbers = self._reader.numbers(text)
            if numbers and hash_text(text) not in self._hashes:
                shares.append(len(numbers & self._known) / len(numbers))
                rows.append(row)
        words = _places(self._shares, np.array(shares))
        found = Added(len(texts), len(rows), float(words.sum()))
        width = self._vectors.shape[1]
        if vectors is None or vectors.shape[1] < width or not rows:
            return found
        nearest = (unit(np.asarray(vectors, np.float32)[rows, :width]) @ self._vectors.T).max(axis=1)
        return found + Added(compared=len(rows), vectors=float(_places(self._nearest, nearest).sum()))


def _places(ordered: NDArray[np.floating], values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return where values stand among ordered ones, 0 to 1, in the middle of equal ones."""
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    places: NDArray[np.float64] = (below + up_to) / (2 * len(ordered))
    return places
