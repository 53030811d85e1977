"""Draw a sample of a corpus in one pass."""

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from cde_retriever.context.whole_numbers import valid_seed, whole_number
from cde_retriever.errors import ContextError


@dataclass(frozen=True)
class Sample:
    """Documents drawn from a corpus, and how many were seen."""

    texts: tuple[str, ...]
    documents_seen: int
    seed: int


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
    heap: list[tuple[int, str]] = []  # largest priority first, hence the minus
    kept: set[str] = set()
    seen = 0
    for seen, text in enumerate(documents, start=1):
        if not isinstance(text, str):
            raise TypeError(f"document {seen - 1} is {type(text).__name__}, expected str: {text!r:.80}")
        if not text.strip() or text in kept:
            continue
        try:
            digest = hashlib.blake2b(text.encode(), digest_size=16, key=key).digest()
        except UnicodeEncodeError as error:
            raise ValueError(f"document {seen - 1} is not valid Unicode ({error}); clean it") from error
        entry = (-int.from_bytes(digest, "big"), text)
        if len(heap) < size:
            heapq.heappush(heap, entry)
        elif entry > heap[0]:
            kept.remove(heapq.heapreplace(heap, entry)[1])
        else:
            continue
        kept.add(text)
    if not heap:
        raise ContextError(f"none of the {seen} documents has any text; a context needs at least one")
    return Sample(texts=tuple(text for _, text in sorted(heap, reverse=True)), documents_seen=seen, seed=seed)
