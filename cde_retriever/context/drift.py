"""Tell whether documents that join an index are like those that its context was drawn from.

A context is a random sample of its corpus. So another document of that corpus is to the J context documents what each
of them is to the others, and its place among them is uniform, whatever the corpus is. Two places are taken: by the
share of the document's words that stand in some other context document, and by its cosine with the nearest of these. Of
n documents of the same corpus the mean place is 1/2, with variance (n + J + 1) / (12 n J) if all were independent
(Mann & Whitney 1947). Context documents are not: two of them that are each other's nearest have one cosine. So the
context's part, 1 / (12 J), is `PAIRED` times that. Foreign documents lie near 0, so twice what the mean lacks to 1/2 is
about their share.

Kept are counts and sums of places. How well it tells, and what drift costs, was measured (docs/figures/drift.md).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.neighbours import ROWS_AT_ONCE, unit
from cde_retriever.context.sampling import hash_text
from cde_retriever.errors import ContextError
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import reader

Vectors = NDArray[np.float32]

THRESHOLD = 2.24
"""Standard deviations below 1/2 of the mean place, by words or by vectors, that 2.5 % of samples have by chance."""
PAIRED = 1.4
"""How many times the variance of independent places a context's has: on nine judged sets 1.3 by words and 1.4 by
vectors, with 64 to 512 documents, where 0.4 of them are each other's nearest (docs/log.md, 2026-11-26)."""
FEWEST = 20
"""So many documents tell something."""
NOTICED = 0.3
"""Share of foreign documents that `Drift.enough` is about."""
SURE = 1.645
"""Standard deviations that all but 5 % of samples are above."""
LOSS_OF_FOREIGN = 0.040
"""nDCG@10 that is lost to a refit, where all documents of an index are foreign to its context (`benchmarks.drift`)."""
LOSS_WITH_WORDS = 0.044
"""The same of one vector that holds words, and whose queries are fitted to the context, and to all documents after a
refit: they know words less well where foreign documents lie. To part of the documents, it is that part of this."""
LOSS_WHERE_FITTED = 0.052
"""The same of documents as they are, which hold no words: queries know none where foreign documents lie. Of one vector
of version 3, which held none either, it was 0.064."""

FORMS = ("both", "one", "queries")
"""Forms of an index, of which each loses otherwise: two parts, one vector that holds words, documents as they are."""


@dataclass(frozen=True)
class Added:
    """Documents that joined an index after its context was fitted.

    Attributes:
        documents: How many.
        judged: Of how many the words were compared: not of context documents, empty ones and copies that came at once.
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
            not detected means little: too few joined, or the context has too few documents.
        judged: How many of the added documents were compared: not context documents, empty ones, copies that came
            together, nor any of a model without a corpus head.
        needed: From how many compared documents on `enough` is true; None if never: a context of too few documents, or
            a model without a corpus head.
    """

    documents_seen: int
    added: int
    expected_loss: float
    foreign: float
    evidence: float
    detected: bool
    enough: bool = False
    judged: int = 0
    needed: int | None = None

    @classmethod
    def of(cls, added: Added, documents_seen: int, size: int, *, fitted: int = 0, words: bool = False) -> "Drift":
        """Return what follows from documents that were added.

        Args:
            added: What was added.
            documents_seen: Documents that the context was drawn from.
            size: Documents of the context, J; 0 if there is nothing to compare with.
            fitted: Documents of a new context, at most, where queries are fitted to these; 0 where they are not.
            words: Whether the vectors that they are compared with hold words too.
        """
        return cls.of_all([Joined(added, documents_seen, size, fitted, words)])

    @classmethod
    def of_all(cls, joined: Sequence["Joined"]) -> "Drift":
        """Return what follows from documents that were added under several contexts, taken together."""
        added, seen = sum((one.added for one in joined), Added()), sum(one.documents_seen for one in joined)
        places = [
            (added.words, [(one.added.judged, one.size) for one in joined if one.added.judged]),
            (added.vectors, [(one.added.compared, one.size) for one in joined if one.added.compared]),
        ]
        means = [total / sum(n for n, _ in counts) if counts else 0.5 for total, counts in places]
        lacks = [(0.5 - mean) / _deviation(counts) for mean, (_, counts) in zip(means, places, strict=True) if counts]
        evidence = max(lacks, default=0.0)
        detected = added.judged >= FEWEST and evidence > THRESHOLD
        needed = _needed(joined)
        enough = needed is not None and added.judged >= needed
        foreign = max(0.0, *(1 - 2 * mean for mean in means)) if detected else 0.0
        loss = foreign * sum(one.loss for one in joined) / max(1, seen + added.documents)
        return cls(seen, added.documents, loss, foreign, evidence, detected, enough, added.judged, needed)

    def __str__(self) -> str:
        """Say it in a sentence."""
        counted = f"the context was drawn from {self.documents_seen} documents, {self.added or 'none'} joined since"
        if not self.added:
            return counted
        if self.judged < self.added:
            counted += f", {self.judged} of which can be compared"
        if self.detected:
            return (
                f"{counted}, some {100 * self.foreign:.0f} % of them unlike these ({self.evidence:.1f} standard "
                f"deviations); without a refit nDCG@10 x 100 is expected to be {100 * self.expected_loss:.1f} lower "
                "than with one"
            )
        if self.enough:
            return f"{counted}, and nothing shows that they are unlike these"
        if self.needed is None:
            return (
                f"{counted}; nothing shows that they are unlike these, but the context has too few documents, or its "
                "model no corpus head, for that to mean much"
            )
        return f"{counted}: too few to tell whether they are unlike these, which takes {self.needed}"


class Joined(NamedTuple):
    """What joined documents under one context.

    Attributes:
        added: What was added.
        documents_seen: Documents that the context was drawn from.
        size: Documents of the context, J; 0 if there is nothing to compare with.
        fitted: Documents of a new context, at most, where queries are fitted to these; 0 where they are not.
        words: Whether the vectors that they are compared with hold words too.
    """

    added: Added
    documents_seen: int
    size: int
    fitted: int = 0
    words: bool = False

    @property
    def loss(self) -> float:
        """What the documents that were added lose to a refit together, were all of them foreign."""
        documents = self.added.documents
        held = min(1.0, self.fitted / max(1, self.documents_seen + documents))
        if not self.fitted:
            return documents * LOSS_OF_FOREIGN
        return documents * held * (LOSS_WITH_WORDS if self.words else LOSS_WHERE_FITTED)


class KindDrifts(dict[str, Drift]):
    """The drift of each kind of document in an index of several contexts, by its name.

    Args:
        joined: What joined each kind.
    """

    def __init__(self, joined: Mapping[str, Joined]) -> None:
        super().__init__({name: Drift.of_all([one]) for name, one in joined.items()})
        self._joined = dict(joined)

    @property
    def whole(self) -> Drift:
        """The drift of all kinds taken together: one test, where each kind by itself is one more chance of an alarm."""
        return Drift.of_all(list(self._joined.values()))

    def __str__(self) -> str:
        """Say it in a sentence for the whole and one for each kind."""
        return "\n".join([f"all: {self.whole}", *(f"{name}: {drift}" for name, drift in self.items())])

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what a copy is made from."""
        return type(self), (self._joined,)


def _deviation(counts: Sequence[tuple[int, int]]) -> float:
    """Return the deviation of the mean place of so many documents beside contexts of J, (n, J) each."""
    total = sum(n for n, _ in counts)
    return math.sqrt(sum((n / total) ** 2 * (PAIRED * n + size + 1) / (12 * n * size) for n, size in counts))


def _needed(joined: Sequence[Joined]) -> int | None:
    """Return how many documents are `Drift.enough`, in the proportions of those that joined; None if none are.

    Of n documents, a share p of them beside a context of J, the mean place has the variance
    Σ p² PAIRED / (12 J) + Σ p (J + 1) / (12 J) / n.
    """
    weights = [one.added.judged for one in joined]
    if not any(weights):
        weights = [one.documents_seen for one in joined]
    kinds = [(weight / sum(weights), one.size) for weight, one in zip(weights, joined, strict=True) if weight]
    if not kinds or not all(size for _, size in kinds):
        return None
    room = (NOTICED / 2 / (THRESHOLD + SURE)) ** 2 - sum(share**2 * PAIRED / (12 * size) for share, size in kinds)
    of_one = sum(share * (size + 1) / (12 * size) for share, size in kinds)
    return math.ceil(of_one / room) if room > 0 else None


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
        self._nearest = np.sort(self._nearest_to(self._vectors if moved is None else moved, own=True))

    def _nearest_to(self, vectors: Vectors, *, own: bool = False) -> Vectors:
        """Return the greatest cosine of each row with a context document, (n,), with another one if these are its own.

        Block by block: all cosines at once are many of thousands of documents.
        """
        found = [np.zeros(0, np.float32)]
        for first in range(0, len(vectors), ROWS_AT_ONCE):
            cosines = vectors[first : first + ROWS_AT_ONCE] @ self._vectors.T
            if own:
                rows = np.arange(len(cosines))
                cosines[rows, first + rows] = -np.inf
            found.append(cosines.max(axis=1, initial=-1))
        return np.concatenate(found)

    @property
    def size(self) -> int:
        """How many documents the context has, J."""
        return len(self._shares)

    def judge(self, texts: Sequence[str], vectors: Vectors | None = None) -> Added:
        """Return the places of documents; of copies that come together one counts, as in the context.

        Args:
            texts: The documents.
            vectors: As the index holds them, (n, d or more), the first d being the dense part; None for words alone.
        """
        shares, rows, judged = [], [], set[str]()
        for row, text in enumerate(texts):
            numbers, name = self._reader.numbers(text), hash_text(text)
            if numbers and name not in self._hashes and name not in judged:
                judged.add(name)
                shares.append(len(numbers & self._known) / len(numbers))
                rows.append(row)
        words = _places(self._shares, np.array(shares))
        found = Added(len(texts), len(rows), float(words.sum()))
        width = self._vectors.shape[1]
        if vectors is None or vectors.shape[1] < width or not rows:
            return found
        nearest = self._nearest_to(unit(np.asarray(vectors, np.float32)[rows, :width]))
        return found + Added(compared=len(rows), vectors=float(_places(self._nearest, nearest).sum()))


def _places(ordered: NDArray[np.floating], values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return where values stand among ordered ones, 0 to 1, in the middle of equal ones."""
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    places: NDArray[np.float64] = (below + up_to) / (2 * len(ordered))
    return places


def plain_vectors(given: Any, documents: int, width: int) -> Vectors:
    """Return vectors of documents, (n, d or more), that a user gives.

    Raises:
        ContextError: if they are not one a document, or narrower.
    """
    vectors: Vectors = np.asarray(given, np.float32)
    if vectors.ndim != 2 or len(vectors) != documents or vectors.shape[1] < width:
        raise ContextError(
            f"vectors have the shape {vectors.shape}, expected {(documents, width)}: the plain vector of each document"
        )
    return vectors
