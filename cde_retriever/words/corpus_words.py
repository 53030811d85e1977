"""Hold what a context keeps of its documents' words, and turn it to arrays and back."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.words.pairs import telling
from cde_retriever.words.reading import TextCounts
from cde_retriever.words.sparse import WIDTH, Sparse
from cde_retriever.words.statistics import WordStatistics

PREFIX = "words_"


@dataclass(frozen=True, eq=False)
class CorpusWords:
    """The words of context documents.

    Attributes:
        language: Whose stemmer they went through.
        counts: How often each word stands in each document, (J, 2**32), from which topics come.
        grams: In how many of the documents each gram stands.
        pairs: In how many each pair stands that says something (`cde_retriever.words.pairs`), of a model that weighs
            them.
    """

    language: str
    counts: Sparse
    grams: WordStatistics
    pairs: WordStatistics = field(default_factory=WordStatistics)

    @classmethod
    def of(cls, language: str, counts: TextCounts) -> "CorpusWords":
        """Keep what is needed of context documents' words."""
        pairs = telling(counts.pairs, WordStatistics.of(counts.words))
        return cls(language, counts.words, WordStatistics.of(counts.grams), pairs)

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
        return {f"{PREFIX}{name}": array for name, array in arrays.items()}

    @classmethod
    def of_arrays(cls, language: str, arrays: Mapping[str, NDArray[Any]]) -> "CorpusWords":
        """Read what `arrays` gave.

        Raises:
            KeyError: if one is missing.
            ValueError: if they do not belong together.
        """
        part = {name: arrays[f"{PREFIX}{name}"] for name in ("starts", "indices", "values", "grams", "grams_with")}
        counts = Sparse(part["starts"], part["indices"], part["values"])
        ordered = len(counts.starts) > 0 and bool((np.diff(counts.starts) >= 0).all())
        if not ordered or counts.starts[0] != 0 or counts.starts[-1] != len(counts.indices):
            raise ValueError("words_starts do not cover words_indices")
        if len(counts.indices) != len(counts.values) or len(part["grams"]) != len(part["grams_with"]):
            raise ValueError("words and their counts are not equally many")
        for numbers in (counts.indices, part["grams"]):
            if len(numbers) and (numbers.min() < 0 or numbers.max() >= WIDTH):
                raise ValueError("a word's number is out of range")
        none = np.zeros(0, np.int64)
        pairs = [arrays.get(f"{PREFIX}{name}", none) for name in ("pairs", "pairs_with")]
        if len(pairs[0]) != len(pairs[1]) or not (pairs[0][1:] > pairs[0][:-1]).all():
            raise ValueError("pairs and their counts are not equally many, or not in order")
        mean = float(arrays[f"{PREFIX}grams_mean"][0])
        grams = WordStatistics(part["grams"], part["grams_with"], counts.rows, mean)
        return cls(language, counts, grams, WordStatistics(pairs[0], pairs[1], counts.rows))
