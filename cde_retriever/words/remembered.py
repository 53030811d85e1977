"""Remember what was found of words, a row of numbers each, so that a query of known words needs no tables."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_WORDS = 2**14
"""Words remembered, some 200 bytes each; then all are forgotten, so memory does not grow."""
MOST_AT_ONCE = 64
"""Of more words at once than a query has, nothing is looked up and nothing remembered."""


class Remembered:
    """Rows of numbers by word; safe to use from several threads.

    Args:
        find: Returns a row for each of n words, (n, ...), which depends on that word alone.
    """

    def __init__(self, find: Callable[[NDArray[np.int64]], NDArray[Any]]) -> None:
        self._find, self._rows = find, dict[int, bytes]()
        self._like = find(np.zeros(0, np.int64))

    def __call__(self, words: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows of words, (n, ...)."""
        if not 0 < len(words) <= MOST_AT_ONCE:
            return self._find(words)
        numbers = words.tolist()
        rows = [row for row in map(self._rows.get, numbers) if row is not None]
        if len(rows) == len(numbers):
            return np.frombuffer(b"".join(rows), self._like.dtype).reshape(-1, *self._like.shape[1:])
        found = self._find(words)
        kept = {} if len(self._rows) > MOST_WORDS - len(numbers) else self._rows
        kept.update(zip(numbers, (row.tobytes() for row in found), strict=True))
        self._rows = kept
        return found
