"""Project sparse word vectors to few numbers by random signs, so that inner products stay, up to noise of 1 / √m.

Each word has m signs, bits of a hash of its number (Achlioptas 2003), the same on every machine and never stored.
"""

from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from cde_retriever.words.mixing import mix
from cde_retriever.words.remembered import Remembered
from cde_retriever.words.sparse import Sparse

AT_ONCE = 2**17
"""Distinct words whose signs are in memory at a time: a document of 50 MB may have millions."""
_SIGNS = 2 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) - 1
"""The eight signs of each value of a byte, (256, 8)."""
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def signs_of(words: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """Return a sign for each word and dimension, (n, width)."""
    blocks = -(-width // 64)
    signs: NDArray[np.float32] = _SIGNS[_remembered(blocks)(words)].reshape(len(words), 64 * blocks)[:, :width]
    return signs


@cache
def _remembered(blocks: int) -> Remembered:
    return Remembered(partial(_octets, blocks=blocks))


def _octets(words: NDArray[np.int64], blocks: int) -> NDArray[np.uint8]:
    """Return the bits of signs, (n, 8 * blocks); splitmix64 of the word's number and the block of 64."""
    numbers = np.arange(1, 1 + blocks, dtype=np.uint64)
    mixed = mix(((words.astype(np.uint64)[:, None] << np.uint64(16)) + numbers) * _GAMMA)
    return mixed.astype("<u8", copy=False).view(np.uint8)


def project(vectors: Sparse, width: int) -> NDArray[np.float32]:
    """Return projections of sparse vectors, (n, width)."""
    output = np.zeros((vectors.rows, width), np.float32)
    if vectors.rows == 1:  # its words are distinct
        for first in range(0, len(vectors.indices), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            output[0] += vectors.values[part] @ signs_of(vectors.indices[part], width)
        return output / np.float32(np.sqrt(width))
    words, places = np.unique(vectors.indices, return_inverse=True)
    for first in range(0, len(words), AT_ONCE):
        signs = signs_of(words[first : first + AT_ONCE], width)
        for number in range(vectors.rows):
            part = slice(vectors.starts[number], vectors.starts[number + 1])
            near = places[part] - first
            here = (near >= 0) & (near < len(signs))
            output[number] += vectors.values[part][here] @ signs[near[here]]
    return output / np.float32(np.sqrt(width))
