"""Hash the 13-grams of a text's words, by which near copies are found."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GRAM = 13
_POWERS = np.random.default_rng(13).integers(2**63, size=GRAM, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


class Grams:
    """Hashes of the 13-grams of texts; each distinct word is hashed once."""

    def __init__(self) -> None:
        self._words: dict[str, int] = {}

    def __call__(self, words: Sequence[str]) -> NDArray[np.uint64]:
        """Return the distinct hashes of a text's 13-grams; none if it has fewer words."""
        if len(words) < GRAM:
            return np.zeros(0, np.uint64)
        hashes = np.fromiter(map(self._hash, words), np.uint64, len(words))
        windows = np.lib.stride_tricks.sliding_window_view(hashes, GRAM)
        return np.unique((windows * _POWERS).sum(axis=1, dtype=np.uint64))

    def _hash(self, word: str) -> int:
        value = self._words.get(word)
        if value is None:
            value = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
            self._words[word] = value
        return value
