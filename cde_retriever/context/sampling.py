"""Draw a sample of a corpus in one pass."""

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from cde_retriever.context.whole_numbers import valid_seed, whole_number
from cde_retriever.errors import ContextError

LONGEST = 500_000
"""Characters of a document that are held, far more than a model reads: so a sample of books fits into memory."""


@dataclass(frozen=True)
class Sample:
    """Documents drawn from a corpus, and how many were seen.

    Attributes:
        texts: The documents; of those longer than `LONGEST` characters the beginning.
        documents_seen: How many were seen.
        seed: Seed of the draw.
        hashes: sha256 of each whole document, if not all `texts` are whole; else None.
    """

    texts: tuple[str, ...]
    documents_seen: int
    seed: int
    hashes: tuple[str, ...] | None = None


def sample_documents(documents: Iterable[str], size: int, seed: int) -> Sample:
    """Draw distinct documents uniformly, without replacement, in one pass and O(size) memory.

    Every distinct text gets a pseudo-random priority, a hash of text and seed, and the `size` smallest stay
    (bottom-k sampling; Cohen & Kaplan, PODC 2007). Duplicates share a priority and count once; the order of the
    corpus does not matter; texts of white space only are passed over.

    Args:
        documents: The corpus; any iterable of strings.
        size: Most documents to draw; a smaller corpus is taken whole.
        seed: Seed of the priorities.

    Raises:
        TypeError: if `documents` is one string or an item is not a string; names its index. If size or seed is no
            whole number.
        ConfigError: if the size is below 1, or the seed has more than 63 bits.
        ValueError: if a document is not valid Unicode; names its index.
        ContextError: if no document has any text.
    """
    if isinstance(documents, str | bytes):
        raise TypeError(f"documents must be an iterable of strings, received one {type(documents).__name__}")
    size, seed = whole_number("context_size", size, 1), valid_seed(seed)
    key = str(seed).encode()
    heap: list[tuple[int, str, str]] = []  # largest priority first, hence the minus; text, and hash of a long one
    kept: set[int] = set()
    seen = 0
    for seen, text in enumerate(documents, start=1):
        if not isinstance(text, str):
            raise TypeError(f"document {seen - 1} is {type(text).__name__}, expected str: {text!r:.80}")
        if not text.strip():
            continue
        data = _encoded(text, seen - 1)
        place = -int.from_bytes(hashlib.blake2b(data, digest_size=16, key=key).digest(), "big")
        if place in kept or (len(heap) == size and place < heap[0][0]):
            continue
        long = len(text) > LONGEST
        entry = (place, text[:LONGEST], hashlib.sha256(data).hexdigest() if long else "")
        if len(heap) < size:
            heapq.heappush(heap, entry)
        else:
            kept.remove(heapq.heapreplace(heap, entry)[0])
        kept.add(place)
    if not heap:
        raise ContextError(f"none of the {seen} documents has any text; a context needs at least one")
    drawn = sorted(heap, reverse=True)
    texts = tuple(text for _, text, _ in drawn)
    hashes = None
    if any(sha256 for _, _, sha256 in drawn):
        hashes = tuple(sha256 or hashlib.sha256(text.encode()).hexdigest() for _, text, sha256 in drawn)
    return Sample(texts, seen, seed, hashes)


def _encoded(text: str, number: int) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"document {number} is not valid Unicode ({error}); clean it") from error
