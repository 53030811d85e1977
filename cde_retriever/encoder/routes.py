"""Find which of several contexts a text is nearest to, and sort a corpus without kinds into such: `Routes`, `sort`.

A corpus of several kinds of text, or of several tenants, has a context for each: a document is embedded under that of
its kind, a query under those of the nearest kinds (`cde_retriever.encoder.one_pass` runs the model once). How near a
context is to a text is the mean cosine of the text's plain vector with its nearest documents. Scores in two parts, sums
of a cosine and of what shared words are worth, are compared as they are; measured in ``docs/figures/routing.md``.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.blas_threads import one_blas_thread
from cde_retriever.context.context import Context
from cde_retriever.context.neighbours import unit
from cde_retriever.context.selection import cluster_centres
from cde_retriever.errors import ConfigError, ContextError

Vectors = NDArray[np.float32]
Found = TypeVar("Found")

NEAREST = 5
"""Documents of a context that say how near it is."""
ROUNDS, DRAWN = 5, 512
"""How often documents are sorted again, and by how many of each kind at most."""
ROWS_AT_ONCE = 10_000
"""Documents sorted at once, which bounds memory."""


class Routes:
    """Contexts by name, and which are near.

    Args:
        contexts: The contexts, of one model with a corpus head.

    Raises:
        ContextError: if there are none, one has no documents, or they are of several models.
        ConfigError: if the model has no corpus head: a query would take a pass of the model for each context.
    """

    def __init__(self, contexts: Mapping[str, Context]) -> None:
        self.names = list(contexts)
        if not contexts:
            raise ContextError("there are no contexts to route to; give one of a kind at least")
        if len({repr(context.model) for context in contexts.values()}) != 1:
            raise ContextError(f"{len(contexts)} contexts are of no one model; give contexts of the same model")
        for name, context in contexts.items():
            if context.words is None:
                raise ConfigError(
                    f"the model of context {name!r} has no corpus head, so that each context would take a pass of it; "
                    "give a model that has one (docs/encoders.md)"
                )
            if not context.size:
                raise ContextError(f"context {name!r} has no documents, so nothing is near to it; fit it")
        self._vectors = [unit(context.vectors) for context in contexts.values()]

    def nearest(self, plain: Vectors, count: int) -> list[list[str]]:
        """Return the names of the nearest contexts, nearest first, for each plain vector, (n, d)."""
        with one_blas_thread():
            near = np.stack([_nearness(plain @ vectors.T) for vectors in self._vectors], axis=1)
        order = np.argsort(-near, axis=1, kind="stable")[:, :count]
        return [[self.names[place] for place in row] for row in order]

    def ask(self, plain: Vectors, count: int, search: Callable[[str], list[Found]]) -> list[Found]:
        """Search the nearest contexts; one where nothing is found, as a filter leaves nothing of it, does not count.

        Args:
            plain: The query's plain vector, (1, d).
            count: How many contexts to ask.
            search: Searches one, by its name.
        """
        found, answered = list[Found](), 0
        for name in self.nearest(plain, len(self.names))[0]:
            some = search(name)
            found += some
            answered += bool(some)
            if answered == count:
                break
        return found


def _nearness(cosines: Vectors) -> Vectors:
    count = min(NEAREST, cosines.shape[1])
    found: Vectors = np.partition(cosines, -count, axis=1)[:, -count:].mean(axis=1)
    return found


def sort(plain: Vectors, kinds: int, seed: int) -> list[str]:
    """Sort documents into kinds by their plain unit vectors, (n, d), and return the kind of each.

    Clusters are the beginning. Then a document goes to the kind that is nearest to it as contexts are to a query, by
    some documents of each, `ROUNDS` times: else what lies at the border of a cluster is not found where queries look
    for it. A kind that loses all its documents is none.

    Raises:
        ConfigError: for fewer than one kind, or more than documents.
    """
    if not 1 <= kinds <= len(plain):
        raise ConfigError(f"kinds is {kinds} for {len(plain)} documents, expected 1 to {len(plain)}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(plain))
    centres = plain[order][cluster_centres(plain[order], kinds)]
    found = (plain @ centres.T).argmax(axis=1)
    for _ in range(ROUNDS):
        drawn = [rng.permutation(np.flatnonzero(found == kind))[:DRAWN] for kind in np.unique(found)]
        parts = np.array_split(np.arange(len(plain)), len(plain) // ROWS_AT_ONCE + 1)
        found = np.concatenate([_nearest_kind(plain, rows, drawn) for rows in parts])
    return [f"kind {number}" for number in found]


def _nearest_kind(plain: Vectors, rows: NDArray[np.int64], drawn: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return to which of the kinds, of which some rows were drawn, documents are nearest, each but for itself."""
    near = []
    for kind in drawn:
        cosines = plain[rows] @ plain[kind].T
        cosines[rows[:, None] == kind] = -1
        near.append(_nearness(cosines))
    nearest: NDArray[np.int64] = np.stack(near).argmax(axis=0)
    return nearest
