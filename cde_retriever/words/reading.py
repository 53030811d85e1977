"""Split texts into words, stem them, and number each word by a hash, so that no vocabulary is needed.

Letters, digits and the marks that belong to them make a word, in lower case after Unicode's compatibility folding
(NFKC). Scripts that put no spaces between words (Han, kana, Thai, Lao, Khmer, Burmese) give overlapping pairs of
characters. Words of a language that Snowball has a stemmer for are stemmed (snowballstem.org); some are left out
(`cde_retriever.words.stop_words`). Beside its stem a word has grams: all runs of four characters of ``^word$``, by
which words of one root, misspelt ones and compounds meet. The number of a stem or gram is the first four bytes of its
BLAKE2b hash: 2³² places, so of a million words some hundred share one.

A document's first words count twice: titles and first sentences say what it is about.

Pairs of stems that stand beside each other are counted too where they are asked for (`cde_retriever.words.pairs`).
"""

import hashlib
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cde_retriever.errors import ConfigError
from cde_retriever.words.pairs import count_pairs, fold, pairs_of
from cde_retriever.words.sparse import Sparse
from cde_retriever.words.stop_words import question_words, stop_words

KNOWN_WORDS = 2**16
"""Words whose numbers a reader remembers, and as many whose grams'; then it starts anew, so memory does not grow with a
corpus."""
LONGEST_WORD = 10_000
"""Of what has no blanks, such as base64, so many characters count: each is a gram."""
GRAM = 4
LEAD = 16
NO_LANGUAGE = "none"
_ASCII = re.compile(r"\w+")


class WordReader:
    """Reads texts of one language; safe to use from several threads.

    Args:
        language: Name of a Snowball stemmer such as ``"english"``; ``"none"`` to keep words as they are.

    Raises:
        ConfigError: for a language without a stemmer.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self._stem = _stemmer(language)
        self._stop = stop_words(language)
        self._skipped = self._stop | question_words(language)
        self._lock = threading.Lock()
        self._stems, self._grams = _Known(self._number), _Known(self._gram_numbers)

    def words(self, text: str) -> Iterator[str]:
        """Yield the words of a text, stemmed, in order."""
        for word in split(text):
            if word not in self._stop:
                yield self._stem(word)

    def read(
        self, texts: Iterable[str], role: str, *, skip_question_words: bool = False, pairs: bool = True
    ) -> "TextCounts":
        """Return how often each stem, gram and pair stands in each text, whole texts.

        Args:
            texts: The texts.
            role: ``"document"`` or ``"query"``; the first `LEAD` words of a document count twice.
            skip_question_words: Leave out words such as "what" and "does", unless a text has no others.
            pairs: Whether to count pairs.
        """
        words, grams, runs = [], [], []
        for text in texts:
            found = self._found(text, skip_question_words)
            times = _times(found, role)
            words.append(_sums(times, self._stems))
            grams.append(_sums(times, self._grams))
            runs.append([self._in_order(run) for run in _runs(found, role)] if pairs else [])
        return TextCounts(Sparse.of_rows(words), Sparse.of_rows(grams), count_pairs(runs))

    def read_stems(self, texts: Iterable[str], role: str, *, skip_question_words: bool = False) -> Sparse:
        """Return how often each stem stands in each text, (n, 2**32), as `read` does, and make no grams."""
        found = (self._found(text, skip_question_words) for text in texts)
        return Sparse.of_rows([_sums(_times(words, role), self._stems) for words in found])

    def pairs(self, text: str) -> Iterator[tuple[str, str, int]]:
        """Yield the neighbouring words of a query, as they stand there, and the number of each pair."""
        found = [word for word in self._found(text, True) if word not in self._stop]
        for first, second in pairwise(found):
            for pair in fold(pairs_of(self._in_order([first, second]))).tolist():
                yield first, second, pair

    def numbers(self, text: str) -> set[int]:
        """Return the numbers of the stems in a text."""
        return {number for word in set(split(text)) for number in self._stems[word]}

    def _found(self, text: str, skip_question_words: bool) -> list[str]:
        """Return the words that count, not stemmed, in order, stop words among them."""
        found = split(text)
        return [word for word in found if word not in self._skipped] or found if skip_question_words else found

    def _in_order(self, words: Sequence[str]) -> list[int]:
        """Return the numbers of the stems of words, in order."""
        stems = self._stems
        return [number for word in words for number in stems[word]]

    def _number(self, word: str) -> tuple[int, ...]:
        """Return the number of a word's stem; none of a stop word."""
        if word in self._stop:
            return ()
        with self._lock:  # Snowball's stemmers keep the word they are at
            return (hash_word(self._stem(word)),)

    def _gram_numbers(self, word: str) -> tuple[int, ...]:
        """Return the numbers of a word's grams; none of a stop word."""
        return () if word in self._stop else tuple(map(hash_word, grams_of(word)))


class TextCounts(NamedTuple):
    """How often each stem and gram stands in each of n texts, both (n, 2**32), and each pair, (n, 2**64)."""

    words: Sparse
    grams: Sparse
    pairs: Sparse

    def take(self, rows: NDArray[np.int64]) -> "TextCounts":
        """Return those of some of the texts, in the order asked for."""
        return TextCounts(self.words.take(rows), self.grams.take(rows), self.pairs.take(rows))


class _Known(dict[str, tuple[int, ...]]):
    """Remembers numbers of words; those of a word that is not there are found when they are asked for."""

    def __init__(self, find: Callable[[str], tuple[int, ...]]) -> None:
        self._find = find

    def __missing__(self, word: str) -> tuple[int, ...]:
        numbers = self._find(word[:LONGEST_WORD])
        if len(self) >= KNOWN_WORDS:
            self.clear()
        if len(word) <= LONGEST_WORD:
            self[word] = numbers
        return numbers


def _runs(found: list[str], role: str) -> list[list[str]]:
    """Return the runs of words of which each counts once: all words, and of a document the first ones again."""
    return [found, found[:LEAD]] if role == "document" else [found]


def _times(found: list[str], role: str) -> Counter[str]:
    """Return how often each word counts."""
    times = Counter[str]()
    for run in _runs(found, role):
        times.update(run)
    return times


def _sums(times: Mapping[str, int], known: _Known) -> dict[int, int]:
    """Return how often each number counts, given how often each word does."""
    sums: dict[int, int] = {}
    for word, count in times.items():
        for number in known[word]:
            sums[number] = sums.get(number, 0) + count
    return sums


def grams_of(word: str) -> list[str]:
    """Return the runs of four characters of ``^word$``, marked so that no gram equals a word."""
    marked = f"^{word}$"
    return [f"\x1f{marked[i : i + GRAM]}" for i in range(max(1, len(marked) - GRAM + 1))]


@lru_cache(maxsize=8)
def reader(language: str) -> WordReader:
    """Return the reader of a language, made once a process."""
    return WordReader(language)


def split(text: str) -> list[str]:
    """Return the words of a text in lower case, not stemmed; pairs of characters where words are not spaced."""
    if text.isascii():
        return _ASCII.findall(text.lower())
    found: list[str] = []
    for run in _pattern().finditer(unicodedata.normalize("NFKC", text).lower()):
        word = run.group()
        if run.lastgroup == "spaced" or len(word) == 1:
            found.append(word)
        else:
            found += [word[i : i + 2] for i in range(len(word) - 1)]
    return found


def hash_word(word: str) -> int:
    """Return a word's number, 0 to 2³² - 1, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little")


@cache
def _pattern() -> Any:
    import regex  # its Unicode classes; where texts are plain ASCII it is never loaded

    unspaced = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    return regex.compile(rf"(?P<unspaced>[{unspaced}]+)|(?P<spaced>[\p{{L}}\p{{N}}\p{{M}}_--[{unspaced}]]+)", regex.V1)


def _stemmer(language: str) -> Callable[[str], str]:
    if language == NO_LANGUAGE:
        return str
    import snowballstemmer

    try:
        stem: Callable[[str], str] = snowballstemmer.stemmer(language).stemWord
    except (KeyError, UnicodeEncodeError):  # the latter for a name such as "español"
        raise ConfigError(
            f"language is {language!r}, which Snowball has no stemmer for; expected 'none' or one of "
            f"{', '.join(sorted(snowballstemmer.algorithms()))}"
        ) from None
    return stem
