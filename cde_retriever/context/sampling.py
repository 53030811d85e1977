"""Draw a sample of a corpus in one pass."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cde_retriever.context.whole_numbers import valid_seed, whole_number
from cde_retriever.corpus.unicode_fault import unicode_fault
from cde_retriever.errors import ContextError

LONGEST = 500_000
"""Characters of a document that are held, far more than a model reads: so a sample of books fits into memory."""
Entry = tuple[int, str, str]
"""Minus a text's priority, the text, and the hash of a long one."""


@dataclass(frozen=True)
class Choice:
    """How the documents of a context are chosen: what a refit does likewise.

    Attributes:
        seed: Seed of whatever is drawn; None where nothing was.
        size: Most documents; None if it is not known, as of contexts that earlier versions made.
        selection: The way (`cde_retriever.context.selection`).
        kind_field: Metadata field that says documents' kinds to it, where one does.
    """

    seed: int | None = None
    size: int | None = None
    selection: str = "random"
    kind_field: str | None = None


@dataclass(frozen=True)
class Sample:
    """Documents drawn from a corpus, and how many were seen.

    Attributes:
        texts: The documents; of those longer than `LONGEST` characters the beginning.
        documents_seen: How many were seen.
        choice: How they were chosen.
        hashes: sha256 of each whole document, if not all `texts` are whole; else None.
    """

    texts: tuple[str, ...]
    documents_seen: int
    choice: Choice
    hashes: tuple[str, ...] | None = None

    def take(self, rows: Sequence[int]) -> "Sample":
        """Return the sample of some of the documents."""
        hashes = None if self.hashes is None else tuple(self.hashes[row] for row in rows)
        return replace(self, texts=tuple(self.texts[row] for row in rows), hashes=hashes)


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
    size, seed = whole_number("context_size", size, 1), valid_seed(seed)
    smallest, seen = Smallest(size, seed), 0
    for seen, text in enumerate(checked_documents(documents), start=1):
        smallest.offer(text, seen - 1)
    return make_sample(smallest.entries(), seen, Choice(seed, size))


def checked_documents(documents: Iterable[str]) -> Iterator[str]:
    """Yield a corpus, and raise a TypeError for what is none; names the index of an item that is no string."""
    if not are_several(documents):
        raise TypeError(f"documents must be an iterable of strings, received one {type(documents).__name__}")
    for number, text in enumerate(documents):
        if not isinstance(text, str):
            raise TypeError(f"document {number} is {type(text).__name__}, expected str: {text!r:.80}")
        yield text


def are_several(texts: object) -> bool:
    """Tell whether something holds texts one after the other: not one text, a mapping or a table of columns."""
    return (
        isinstance(texts, Iterable) and not isinstance(texts, str | bytes | Mapping) and getattr(texts, "ndim", 1) == 1
    )


class Smallest:
    """Distinct texts with the smallest priorities of those offered, at most `size`."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._key = size, str(seed).encode()
        self._heap: list[Entry] = []
        self._kept: set[int] = set()

    def offer(self, text: str, number: int) -> None:
        """Take a text, document `number` of its corpus, if it belongs to the smallest."""
        if not text.strip():
            return
        if fault := unicode_fault(text):
            raise ValueError(f"document {number} is not valid Unicode ({fault}); clean it")
        data = text.encode()
        place = -int.from_bytes(hashlib.blake2b(data, digest_size=16, key=self._key).digest(), "big")
        if place in self._kept or (len(self._heap) == self._size and place < self._heap[0][0]):
            return
        long = len(text) > LONGEST
        entry = (place, text[:LONGEST], hashlib.sha256(data).hexdigest() if long else "")
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        else:
            self._kept.remove(heapq.heapreplace(self._heap, entry)[0])
        self._kept.add(place)

    def entries(self) -> list[Entry]:
        """Return what was taken, smallest priority first."""
        return sorted(self._heap, reverse=True)


def make_sample(drawn: Sequence[Entry], seen: int, choice: Choice) -> Sample:
    """Make a sample of entries that `Smallest` returned.

    Raises:
        ContextError: if there are none.
    """
    if not drawn:
        raise ContextError(f"none of the {seen} documents has any text; a context needs at least one")
    texts = tuple(text for _, text, _ in drawn)
    hashes = None
    if any(sha256 for _, _, sha256 in drawn):
        hashes = tuple(sha256 or hash_text(text) for _, text, sha256 in drawn)
    return Sample(texts, seen, choice, hashes)


def hash_text(text: str) -> str:
    """Return the sha256 of a text in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
