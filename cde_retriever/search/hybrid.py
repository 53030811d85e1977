"""Score and rank vectors in two parts, and give their sparse part the form that vector stores take.

    score(q, d) = dense_q · dense_d + sparse_q · sparse_d

Nothing is scaled or fused a query: what words are worth is in the query's sparse part already, and `weigh` changes it
there. So a store that adds inner products ranks as `score` does. Products go through the places that occur, never along
the 2**32 that there are.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.knowledge import Parts
from cde_retriever.errors import ConfigError
from cde_retriever.words.sparse import Sparse

if TYPE_CHECKING:
    from scipy.sparse import csr_array


LEAST_DEPTH, DEPTH = 100, 10
"""Documents of each list where a store ranks by one part at a time: so many at least, so many for one asked for."""


class SparseVector(NamedTuple):
    """One sparse vector as Qdrant, Milvus, OpenSearch and others take it: ascending places of 32 bits, and values."""

    indices: list[int]
    values: list[float]


class Found(NamedTuple):
    """The best documents of queries, best first: positions, (q, k), and scores, (q, k)."""

    positions: NDArray[np.int64]
    scores: NDArray[np.float32]


def sparse_vectors(array: "csr_array[Any]") -> Iterator[SparseVector]:
    """Yield the rows of a sparse part, (n, 2**32), as indices and values."""
    sparse = Sparse.of_csr(array)
    for number in range(sparse.rows):
        indices, values = sparse.row(number)
        yield SparseVector(indices.tolist(), values.tolist())


def depth_of_lists(count: int) -> int:
    """Return how many documents of each part's list to fetch, deeper than asked: the best by both may be low in one."""
    return max(LEAST_DEPTH, DEPTH * count)


def weights_of(alpha: float | None) -> tuple[float, float]:
    """Return what meaning and words are to count, as multiples of what the context says: 2 alpha and 2 (1 - alpha).

    Args:
        alpha: From 0, words alone, to 1, meaning alone; 0.5, or None, is what the context says.

    Raises:
        ConfigError: if it is not from 0 to 1.
    """
    if alpha is None:
        return 1.0, 1.0
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha is {alpha!r}, expected from 0 (words alone) to 1 (meaning alone); 0.5 is the default")
    return 2 * alpha, 2 * (1 - alpha)


def check_alpha(alpha: float | None, other: str | None = None) -> None:
    """Refuse an alpha out of range, and any where a search does not mix both parts.

    Args:
        alpha: As for `weights_of`.
        other: What is searched by instead of both parts, such as ``"one vector a node"``; None for both.

    Raises:
        ConfigError: if it is refused.
    """
    weights_of(alpha)
    if alpha is not None and other is not None:
        raise ConfigError(
            f"alpha is {alpha!r}, but this retriever searches by {other}; alpha is of hybrid search, leave it out"
        )


def weigh(queries: Parts, alpha: float | None) -> Parts:
    """Return queries whose meaning counts 2 alpha times and whose words count 2 (1 - alpha) times as much.

    Documents stay as they are, so one index answers under every alpha.

    Args:
        queries: From `ContextualEncoder.encode_queries` with ``parts="both"``.
        alpha: As for `weights_of`.

    Raises:
        ConfigError: if alpha is not from 0 to 1.
    """
    if alpha is None:
        return queries
    meaning, words = weights_of(alpha)
    return Parts(np.float32(meaning) * queries.dense, (queries.sparse * words).astype(np.float32))


def inner_products(queries: "csr_array[Any]", documents: "csr_array[Any]") -> NDArray[np.float32]:
    """Return the inner products of two sparse parts, (q, n)."""
    return Sparse.of_csr(queries).dot(Sparse.of_csr(documents))


def score(queries: Parts, documents: Parts) -> NDArray[np.float32]:
    """Return the scores of documents for queries, (q, n).

    Raises:
        ValueError: if the dense parts have other widths, or a part of other texts stands beside them.
    """
    if queries.dense.shape[1] != documents.dense.shape[1]:
        raise ValueError(
            f"queries have {queries.dense.shape[1]} dense numbers and documents {documents.dense.shape[1]}; embed both "
            "with one model under one context"
        )
    for name, parts in (("queries", queries), ("documents", documents)):
        if len(parts.dense) != parts.sparse.shape[0]:
            raise ValueError(
                f"{name} have {len(parts.dense)} dense and {parts.sparse.shape[0]} sparse vectors; "
                "expected equally many"
            )
    scores: NDArray[np.float32] = queries.dense @ documents.dense.T + inner_products(queries.sparse, documents.sparse)
    return scores


def score_one_form(queries: Any, documents: Any) -> NDArray[np.float32]:
    """Return the scores of documents for queries, (q, n), both in two parts, as `score` does, or both in one vector."""
    if isinstance(queries, Parts):
        return score(queries, documents)
    scores: NDArray[np.float32] = queries @ documents.T
    return scores


def search(queries: Parts, documents: Parts, count: int) -> Found:
    """Return the best documents of each query; of equal scores the earlier document comes first.

    Args:
        queries: From `ContextualEncoder.encode_queries` with ``parts="both"``.
        documents: From `encode_documents` likewise, under the same context.
        count: How many; all if there are fewer.

    Raises:
        ValueError: for parts that do not fit, or a count below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}, expected at least 1")
    scores = score(queries, documents)
    positions = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return Found(positions.astype(np.int64), np.take_along_axis(scores, positions, axis=1))
