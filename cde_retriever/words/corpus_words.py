"""Hold what a context keeps of its documents' words, and turn it to arrays and back."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.words.pairs import telling
from cde_retriever.words.reading import TextCounts
from cde_retriever.words.sparse import WIDTH, Sparse
from cde_retriever.words.statistics import WordStatistics

PREFIX = "words_"
PARTS = {"starts": np.int64, "indices": np.int64, "values": np.float32}
BEYOND = ("gram_counts", "pair_counts")


@dataclass(frozen=True, eq=False)
class CorpusWords:
    """The words of context documents.

    Attributes:
        language: Whose stemmer they went through.
        counts: How often each word stands in each document, (J, 2**32), from which topics come.
        grams: In how many of the documents each gram stands.
        pairs: In how many each pair stands that says something (`cde_retriever.words.pairs`), of a model that weighs
            them.
        beyond: How often each gram and each pair, telling or not, stands in each document, of a model that scores them
            for queries (`cde_retriever.context.fitted_queries`); None for others.
    """

    language: str
    counts: Sparse
    grams: WordStatistics
    pairs: WordStatistics = field(default_factory=WordStatistics)
    beyond: tuple[Sparse, Sparse] | None = None

    @classmethod
    def of(cls, language: str, counts: TextCounts, *, whole: bool = False) -> "CorpusWords":
        """Keep what is needed of context documents' words; `whole` for all that their exact words are weighed by."""
        pairs = telling(counts.pairs, WordStatistics.of(counts.words))
        beyond = (counts.grams, counts.pairs) if whole else None
        return cls(language, counts.words, WordStatistics.of(counts.grams), pairs, beyond)

    def take(self, rows: NDArray[np.int64]) -> "CorpusWords":
        """Return the same with the documents in another order, that of their row numbers."""
        beyond = None if self.beyond is None else (self.beyond[0].take(rows), self.beyond[1].take(rows))
        return replace(self, counts=self.counts.take(rows), beyond=beyond)

    @property
    def whole(self) -> TextCounts | None:
        """All that the documents' exact words are weighed by; None where it is not kept."""
        return None if self.beyond is None else TextCounts(self.counts, *self.beyond)

    @classmethod
    def none(cls, language: str) -> "CorpusWords":
        """Return those of the null context."""
        return cls(language, Sparse.of_rows([]), WordStatistics())

    @property
    def fingerprint(self) -> str:
        """sha256 over language and counts, whatever the documents' order; another stemmer's version has another."""
        words = WordStatistics.of(self.counts)
        digest = hashlib.sha256(self.language.encode())
        for counted in (words, self.grams, self.pairs):
            digest.update(counted.words.tobytes() + counted.documents_with.tobytes())
        return digest.hexdigest()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return them as arrays to store; numbers and counts as int64."""
        mean = np.array([self.grams.mean_length], np.float32)
        arrays: dict[str, NDArray[Any]] = {
            "starts": self.counts.starts,
            "indices": self.counts.indices,
            "values": self.counts.values,
            "grams": self.grams.words,
            "grams_with": self.grams.documents_with,
            "grams_mean": mean,
        }
        if len(self.pairs.words):  # none in files of models that do not weigh them
            arrays |= {"pairs": self.pairs.words, "pairs_with": self.pairs.documents_with}
        for name, counts in zip(BEYOND, self.beyond or (), strict=False):
            arrays |= {f"{name}_{part}": _narrow(getattr(counts, part)) for part in PARTS}
        return {f"{PREFIX}{name}": array for name, array in arrays.items()}

    @classmethod
    def of_arrays(cls, language: str, arrays: Mapping[str, NDArray[Any]]) -> "CorpusWords":
        """Read what `arrays` gave.

        Raises:
            KeyError: if one is missing.
            ValueError: if they do not belong together.
        """
        part = {name: arrays[f"{PREFIX}{name}"] for name in ("grams", "grams_with")}
        counts = _read(arrays, "")
        beyond = [_read(arrays, f"{name}_") for name in BEYOND if f"{PREFIX}{name}_starts" in arrays]
        if len(part["grams"]) != len(part["grams_with"]) or any(kept.rows != counts.rows for kept in beyond):
            raise ValueError("words and their counts are not equally many")
        for numbers in (counts.indices, part["grams"], *(kept.indices for kept in beyond[:1])):
            if len(numbers) and (numbers.min() < 0 or numbers.max() >= WIDTH):
                raise ValueError("a word's number is out of range")
        none = np.zeros(0, np.int64)
        pairs = [arrays.get(f"{PREFIX}{name}", none) for name in ("pairs", "pairs_with")]
        if len(pairs[0]) != len(pairs[1]) or not (pairs[0][1:] > pairs[0][:-1]).all():
            raise ValueError("pairs and their counts are not equally many, or not in order")
        mean = float(arrays[f"{PREFIX}grams_mean"][0])
        grams = WordStatistics(part["grams"], part["grams_with"], counts.rows, mean)
        if len(beyond) == 1:
            raise ValueError(f"grams or pairs of the documents are missing, of {', '.join(BEYOND)}")
        found = (beyond[0], beyond[1]) if beyond else None
        return cls(language, counts, grams, WordStatistics(pairs[0], pairs[1], counts.rows), found)


def _narrow(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return whole numbers in the smallest type that a file holds them in; those below 0 as they are."""
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= WIDTH:
        return numbers
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _read(arrays: Mapping[str, NDArray[Any]], name: str) -> Sparse:
    """Return sparse counts out of their arrays; raises as `CorpusWords.of_arrays` does."""
    read = (arrays[f"{PREFIX}{name}{part}"].astype(dtype, copy=False) for part, dtype in PARTS.items())
    counts = Sparse(*read)
    ordered = len(counts.starts) > 0 and bool((np.diff(counts.starts) >= 0).all())
    if not ordered or counts.starts[0] != 0 or counts.starts[-1] != len(counts.indices):
        raise ValueError(f"{PREFIX}{name}starts do not cover {PREFIX}{name}indices")
    if len(counts.indices) != len(counts.values):
        raise ValueError("words and their counts are not equally many")
    return counts
