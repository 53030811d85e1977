"""Name the topics of a context: clusters of its documents, each by the words that set it apart from the others.

A corpus head attends to single documents (`cde_retriever.context.neighbours`); their shares, added up over clusters,
say in a few words what a document is moved towards.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.context import Context
from cde_retriever.context.sampling import hash_text
from cde_retriever.context.selection import cluster_centres
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.pairs import fold
from cde_retriever.words.reading import NO_LANGUAGE, hash_word, reader, split
from cde_retriever.words.statistics import WordStatistics

NAMED_BY = 4
"""Words that name a topic."""


class ContextTopics:
    """The topics of one context.

    Args:
        context: The context.
        texts: Texts among which its documents are, for their words; a context need not keep its own.

    Attributes:
        reader: Reads words as the context does.
        documents_with: In how many of its documents the word or pair of a number stands.
    """

    def __init__(self, context: Context, texts: Sequence[str]) -> None:
        hashes = set(context.text_hashes)
        known = {hash_text(text): text for text in (*texts, *(context.texts or ()))}
        self._texts = {sha256: text for sha256, text in known.items() if sha256 in hashes}
        words = context.words or CorpusWords.none(NO_LANGUAGE)
        self.reader = reader(words.language)
        counted, pairs = WordStatistics.of(words.counts), words.pairs
        self.documents_with = dict(zip(fold(pairs.words).tolist(), pairs.documents_with.tolist(), strict=True))
        self.documents_with |= zip(counted.words.tolist(), counted.documents_with.tolist(), strict=True)
        self._of, self._names = dict[str, int](), list[str]()
        if context.size:
            centres = cluster_centres(context.vectors, round(context.size**0.5))
            labels = (context.vectors @ context.vectors[centres].T).argmax(axis=1)
            self._of = dict(zip(context.text_hashes, labels.tolist(), strict=True))
            written = self._written()
            self._names = [self._name(words, labels == label, written) for label in range(len(centres))]

    def text_of(self, sha256: str) -> str:
        """Return a document of the context, given its hash."""
        return self._texts.get(sha256, "(a text that is not in the index)")

    def shares(self, near: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
        """Return the shares of topics, largest first, given those of documents by hash."""
        shares = np.zeros(len(self._names))
        for sha256, share in near:
            shares[self._of[sha256]] += share
        return [(self._names[k], float(shares[k])) for k in np.argsort(-shares, kind="stable") if shares[k] > 0]

    def _written(self) -> dict[int, str]:
        """Return a word for each number of a stem that the texts at hand hold."""
        words = sorted({word for text in self._texts.values() for word in split(text)}, reverse=True)
        return {hash_word(stem): word for word in words for stem in self.reader.words(word)}  # the first by alphabet

    def _name(self, words: CorpusWords, members: NDArray[np.bool_], written: Mapping[int, str]) -> str:
        """Return the words with the largest w log(w / all), w being the share of a cluster's documents with a word."""
        inside = words.counts.take(np.flatnonzero(members))
        numbers, held = np.unique(inside.indices, return_counts=True)
        share = held / max(inside.rows, 1)
        of_all = np.array([self.documents_with[number] for number in numbers.tolist()]) / len(members)
        telling = numbers[np.argsort(-share * np.log(share / of_all), kind="stable")].tolist()
        return ", ".join([written[number] for number in telling if number in written][:NAMED_BY]) or "(no words known)"
