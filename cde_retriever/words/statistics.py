"""Tell how rare words are in a corpus: document frequencies of its sample, and a prior for what the sample lacks.

With df_w of n documents holding a word, and a prior share p_w worth κ documents, the share of the corpus's documents
that hold the word is estimated as (df_w + κ p_w) / (n + κ) (Dirichlet smoothing, Zhai & Lafferty 2001), but at least
1 / (n + 512), because nothing is known of words rarer than that; and the word says log(1 / share).
"""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cde_retriever.errors import ConfigError
from cde_retriever.words.sparse import Sparse

RAREST = 512
"""Documents; a word not seen in n of them is taken to be in one of n + RAREST."""


@dataclass(frozen=True, eq=False)
class WordPrior:
    """How many documents of any corpus hold a word.

    Attributes:
        words: Numbers of the words known, ascending, (k,) int64.
        shares: The share of documents that hold each, (k,) float32.
        unseen: The share for every other word.
        mean_length: Words of a document of any corpus.
    """

    words: NDArray[np.int64]
    shares: NDArray[np.float32]
    unseen: float
    mean_length: float

    def of(self, words: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the shares of words, (n,)."""
        return look_up(self.words, self.shares, words, self.unseen)


GRAM_PRIOR = WordPrior(np.zeros(0, np.int64), np.zeros(0, np.float32), unseen=1e-4, mean_length=400.0)
"""Nothing is known of grams beforehand; so rare a gram is as one that stands in no context document."""


@dataclass(frozen=True, eq=False)
class WordStatistics:
    """What is known of the words of one corpus.

    Attributes:
        words: Numbers of the words counted, ascending, (k,) int64.
        documents_with: How many of the documents hold each, (k,) int64.
        documents: How many documents were counted; 0 for the null context.
        mean_length: Their mean number of words; of the null context 0.
    """

    words: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    documents_with: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    documents: int = 0
    mean_length: float = 0.0

    @classmethod
    def of(cls, counts: Sparse) -> "WordStatistics":
        """Count documents, given how often each word stands in each."""
        words, documents_with = np.unique(counts.indices, return_counts=True)
        mean = float(counts.values.sum(dtype=np.float64)) / max(counts.rows, 1)
        return cls(words, documents_with.astype(np.int64), counts.rows, mean)

    def information(self, words: NDArray[np.int64], prior: WordPrior, worth: float) -> NDArray[np.float64]:
        """Return what words say, log(1 / share), at least 0, (n,).

        Args:
            words: Their numbers, (n,).
            prior: For what was not counted.
            worth: κ, how many documents the prior counts as.
        """
        found = look_up(self.words, self.documents_with, words, 0)
        share = (found + worth * prior.of(words)) / (self.documents + worth)
        return -np.log(np.clip(share, 1 / (self.documents + RAREST), 1.0))

    def length(self, prior: WordPrior, worth: float) -> float:
        """Return the mean length of the corpus's documents in words, smoothed by the prior's."""
        return (self.documents * self.mean_length + worth * prior.mean_length) / (self.documents + worth)


def look_up(
    keys: NDArray[np.int64], values: NDArray[np.float32] | NDArray[np.int64], wanted: NDArray[np.int64], default: float
) -> NDArray[np.float64]:
    """Return the values of the wanted among ascending keys, and a default for those that are not there."""
    output = np.full(len(wanted), default, np.float64)
    if len(keys):
        places = keys.searchsorted(wanted)
        found = keys.take(places, mode="clip") == wanted
        np.copyto(output, values.take(places, mode="clip"), where=found)
    return output


PRIORS = Path(__file__).parent / "priors"


@cache
def load_prior(name: str) -> WordPrior:
    """Return a prior that comes with the package (`benchmarks.recipes.word_prior` makes them).

    Raises:
        ConfigError: if there is none of that name.
    """
    table, numbers = PRIORS / f"{name}.npy", PRIORS / f"{name}.json"
    if not numbers.is_file():
        known = ", ".join(sorted(path.stem for path in PRIORS.glob("*.json")))
        raise ConfigError(f"there is no word prior {name!r}; this version has {known}")
    rows = np.load(table, allow_pickle=False)
    stated = json.loads(numbers.read_text())
    return WordPrior(
        rows["word"].astype(np.int64), rows["share"].astype(np.float32), stated["unseen"], stated["mean_length"]
    )
