"""Choose which documents of a corpus become its context.

| selection | what it takes |
|---|---|
| ``"random"`` | every distinct document with the same chance, in one pass, O(J) memory |
| ``"stratified"`` | of each kind of document as many as its share of the corpus, at random; O(J · kinds) memory |
| ``"kmeans"`` | the documents nearest to the centres of clusters |
| ``"k-center"`` | documents far from each other: each is the farthest from those before (Gonzalez 1985) |

The last two compare vectors, so they choose among `CANDIDATES` times J documents drawn at random, which are embedded:
in memory and time they do not grow with the corpus.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.neighbours import unit
from cde_retriever.context.sampling import Choice, Sample, Smallest, checked_documents, make_sample, sample_documents
from cde_retriever.context.whole_numbers import valid_seed, whole_number
from cde_retriever.errors import ConfigError

SELECTIONS = ("random", "stratified", "kmeans", "k-center")
CANDIDATES = 4
ROUNDS = 10
_NONE = object()
UNKNOWN = ""
"""The kind of documents that do not say theirs."""

Vectors = NDArray[np.float32]


class Chosen(NamedTuple):
    """The documents chosen, and their vectors, (J, d), where choosing took some."""

    sample: Sample
    vectors: Vectors | None


def choose(
    documents: Iterable[str],
    choice: Choice,
    kinds: Iterable[str] | None,
    embed: Callable[[Sequence[str]], Vectors],
) -> Chosen:
    """Choose context documents, in one pass over the corpus.

    Args:
        documents: The corpus.
        choice: How; its `selection` is one of `SELECTIONS`.
        kinds: For each document its kind, which ``"stratified"`` needs and no other takes.
        embed: Returns vectors of texts, (n, d); asked once at most.

    Raises:
        ConfigError: for another selection, kinds that are missing or of no use, or more kinds than J.
        Errors of `sample_documents`.
    """
    check_selection(choice.selection, kinds is not None)
    size, seed = whole_number("context_size", choice.size, 1), valid_seed(choice.seed)
    vectors = None
    if kinds is not None:
        sample = sample_kinds(documents, kinds, size, seed)
    elif choice.selection == "random":
        sample = sample_documents(documents, size, seed)
    else:
        sample = sample_documents(documents, CANDIDATES * size, seed)
        vectors = embed(sample.texts)
        if len(vectors) > size:
            rows = (cluster_centres if choice.selection == "kmeans" else far_apart)(unit(vectors), size)
            sample, vectors = sample.take(rows.tolist()), vectors[rows]
    return Chosen(replace(sample, choice=replace(choice, size=size, seed=seed)), vectors)


def kind_of(metadata: Mapping[str, Any], field: str) -> str:
    """Return a document's kind by a field of its metadata; those without it, or with None, are a kind of their own."""
    value = metadata.get(field)
    return UNKNOWN if value is None else str(value)


def kinds_of(metadata: Iterable[Mapping[str, Any]], field: str) -> list[str]:
    """Return the kind of each document of a corpus.

    Raises:
        ConfigError: if no document has the field, as where its name is misspelled.
    """
    kinds = [kind_of(values, field) for values in metadata]
    if set(kinds) <= {UNKNOWN}:
        raise ConfigError(f"none of the {len(kinds)} documents has the field {field!r} in its metadata; check its name")
    return kinds


def check_selection(selection: str, has_kinds: bool) -> None:
    """Refuse an unknown selection, and kinds of documents without one that reads them, or the other way round.

    Raises:
        ConfigError: naming what there is.
    """
    if selection not in SELECTIONS:
        raise ConfigError(f"selection is {selection!r}, expected one of {', '.join(map(repr, SELECTIONS))}")
    if (selection == "stratified") != has_kinds:
        wanted = "needs to know each document's kind" if not has_kinds else "reads no kinds of documents"
        raise ConfigError(
            f"selection {selection!r} {wanted}; give both selection='stratified' and kinds (in LlamaIndex and "
            "LangChain kind_field, a name in the metadata), or neither"
        )


def sample_kinds(documents: Iterable[str], kinds: Iterable[str], size: int, seed: int) -> Sample:
    """Draw of each kind as many distinct documents as its share of the corpus, one at least; as `sample_documents`.

    Raises:
        ConfigError: for more kinds than `size`, which a sample could not show, if all are unknown, or if there are not
            as many kinds as documents.
        TypeError: if the kinds are one string.
    """
    of_kind: dict[str, Smallest] = {}
    counts: dict[str, int] = {}
    everything, seen = Smallest(size, seed), 0
    for seen, (text, kind) in enumerate(_with_kinds(documents, kinds), start=1):
        if not text.strip():
            continue
        if kind not in of_kind and len(of_kind) == size:
            raise ConfigError(
                f"documents are of more than {size} kinds (the last is {kind!r:.80}), and the context has room for "
                f"{size}; give a field with fewer values, or a larger context_size"
            )
        of_kind.setdefault(kind, Smallest(size, seed)).offer(text, seen - 1)
        counts[kind] = counts.get(kind, 0) + 1
        everything.offer(text, seen - 1)
    if set(counts) == {UNKNOWN}:
        raise ConfigError(f"none of the {seen} documents has the field that kinds are taken from; check its name")
    room, choice = _shares(counts, size), Choice(seed, size, "stratified")
    drawn = {entry for kind, smallest in of_kind.items() for entry in smallest.entries()[: room[kind]]}
    more = [entry for entry in everything.entries() if entry not in drawn]  # kinds of few distinct texts leave room
    return make_sample(sorted([*drawn, *more[: size - len(drawn)]], reverse=True), seen, choice)


def _with_kinds(documents: Iterable[str], kinds: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each document with its kind."""
    if isinstance(kinds, str):
        raise TypeError(f"kinds must be one for each document, received one text: {kinds!r:.80}")
    for number, (text, kind) in enumerate(zip_longest(checked_documents(documents), kinds, fillvalue=_NONE)):
        if not isinstance(text, str) or kind is _NONE:
            fewer = "kinds" if kind is _NONE else "documents"
            raise ConfigError(f"there are only {number} {fewer}, fewer than the others; give a kind for each document")
        yield text, cast(str, kind)


def _shares(counts: dict[str, int], size: int) -> dict[str, int]:
    """Return how many documents each kind gives, in all `size`: one, and the rest by largest remainders."""
    total, rest = sum(counts.values()), size - len(counts)
    exact = {kind: rest * count / total for kind, count in counts.items()}
    room = {kind: 1 + int(share) for kind, share in exact.items()}
    by_remainder = sorted(counts, key=lambda kind: (int(exact[kind]) - exact[kind], kind))
    for kind in by_remainder[: size - sum(room.values())]:
        room[kind] += 1
    return room


def cluster_centres(vectors: Vectors, count: int) -> NDArray[np.int64]:
    """Return the rows of unit vectors, (n, d), nearest to the centres of `count` clusters (spherical k-means).

    The vectors are in random order, so the first ones are the first centres. A cluster that loses all its vectors keeps
    the vector that is farthest from every centre.
    """
    centres = vectors[:count].copy()
    for _ in range(ROUNDS):
        cosines = vectors @ centres.T
        nearest = cosines.argmax(axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors)
        empty = np.flatnonzero(np.bincount(nearest, minlength=count) == 0)
        sums[empty] = vectors[np.argsort(cosines.max(axis=1), kind="stable")[: len(empty)]]
        centres = unit(sums)
    cosines = vectors @ centres.T
    rows = np.full(count, -1)
    for centre in np.argsort(-cosines.max(axis=0), kind="stable"):  # no document stands for two centres
        rows[centre] = cosines[:, centre].argmax()
        cosines[rows[centre]] = -np.inf
    return np.sort(rows)


def far_apart(vectors: Vectors, count: int) -> NDArray[np.int64]:
    """Return the rows of `count` unit vectors, (n, d), each farthest from those before it; the first is the mean's."""
    rows = [int((vectors @ vectors.mean(axis=0)).argmax())]
    nearest = vectors @ vectors[rows[0]]
    for _ in range(count - 1):
        nearest[rows[-1]] = np.inf
        rows.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, vectors @ vectors[rows[-1]])
    return np.sort(np.array(rows, np.int64))
