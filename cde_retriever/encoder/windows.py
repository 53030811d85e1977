"""Cut the tokens of long texts into overlapping windows, and join the windows' vectors to one a text.

A window is what the model reads at most: the special tokens and the prompt that a text begins with, a part of the text,
and the special tokens that it ends with. Neighbours share an eighth of the text's part. A text's vector is the mean of
its windows' unit vectors, weighed by their tokens, at unit length; for mean pooling almost the mean of all token
vectors (``docs/encoders.md``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

SHARED = 8
"""Neighbouring windows share one in so many tokens of the text."""


@dataclass(frozen=True)
class Windows:
    """The windows of texts, in order.

    Attributes:
        ids: Token ids of each window.
        starts: Number of each text's first window, (n,).
    """

    ids: list[list[int]]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, ids: Sequence[list[int]], longest: int, first: int, last: int) -> "Windows":
        """Cut texts.

        Args:
            ids: Token ids of whole texts, special tokens and prompt included.
            longest: Most tokens of a window.
            first: How many tokens every window begins with: special ones and the prompt.
            last: How many special tokens it ends with.
        """
        windows: list[list[int]] = []
        starts = np.zeros(len(ids), np.int64)
        room = longest - first - last
        for number, row in enumerate(ids):
            starts[number] = len(windows)
            if len(row) <= longest:
                windows.append(row)
                continue
            end = len(row) - last
            for place in range(first, end - room // SHARED, room - room // SHARED):
                windows.append([*row[:first], *row[place : min(place + room, end)], *row[end:]])
        return cls(windows, starts)

    def join(self, vectors: Vectors) -> Vectors:
        """Return one vector a text, (n, d), of one a window, (w, d); a text of one window keeps its own."""
        if len(self.ids) == len(self.starts):
            return vectors
        lengths = np.array([len(row) for row in self.ids], np.float32)
        joined: Vectors = np.add.reduceat(vectors * lengths[:, None], self.starts, axis=0)
        joined /= np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        alone = np.diff(self.starts, append=len(self.ids)) == 1
        joined[alone] = vectors[self.starts[alone]]
        return joined
