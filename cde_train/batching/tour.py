"""Order points along a greedy tour, each next to the nearest one left (paper, section 3.2).

The exact tour compares every point with every other. Here it is exact for up to 4,096 points; above, it walks a graph
of near neighbours found with inverted lists (Faiss), and

1. from a point whose neighbours are all visited, searches the lists again, wider and wider, among those left;
2. once half of the points are visited, builds the graph anew for the other half, until 4,096 are left.

A search looks at about ``4 * sqrt(k)`` points, so k points cost O(k ** 1.5) instead of O(k ** 2). Memory: two
copies of the points, 64 MB for the exact part, and 128 bytes a point. Measured: ``docs/figures/packing_scale.json``.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT_LIMIT = 4096
NEIGHBOURS = 32
PROBES = 8
"""Inverted lists looked at in a search; there are two for each of sqrt(k)."""

Points = NDArray[np.float32]
Order = NDArray[np.int64]


def greedy_tour(points: Points, *, exact_limit: int = EXACT_LIMIT) -> Order:
    """Return an order of the points in which each is near the one before, (k,).

    The tour starts at the point farthest from the mean, which is an end rather than the middle.

    Args:
        points: The points, (k, w); distance is Euclidean.
        exact_limit: Number of points up to which the nearest one is found by comparing with all.
    """
    points = np.ascontiguousarray(points, dtype=np.float32)
    if not len(points):
        return np.zeros(0, np.int64)
    left = np.arange(len(points))
    at = int(np.argmax(_squares(points - points.mean(axis=0))))
    parts = [np.array([at])]
    while len(left) > 1:
        left = np.concatenate([[at], left[left != at]])  # the walk starts at row 0
        exact = len(left) <= exact_limit + 1
        walk = _walk_all(points[left]) if exact else _walk_graph(points[left])
        steps = np.fromiter(walk if exact else islice(walk, len(left) // 2), np.int64)
        parts.append(left[steps])
        at = int(parts[-1][-1])
        keep = np.ones(len(left), bool)
        keep[steps] = keep[0] = False
        left = np.append(left[keep], at)
    return np.concatenate(parts)


def _squares(points: Points) -> Points:
    return np.asarray(np.einsum("kw,kw->k", points, points))


def _walk_all(points: Points) -> Iterator[int]:
    """Step from point 0 to the nearest of all others not visited, until none is left."""
    distances = points @ points.T
    distances *= -2
    distances += _squares(points)  # without the square of the point stood at, which changes no comparison
    visited = np.zeros(len(points), np.float32)
    at = 0
    for _ in range(len(points) - 1):
        visited[at] = np.inf
        at = int(np.argmin(distances[at] + visited))
        yield at


def _walk_graph(points: Points) -> Iterator[int]:
    """Step from point 0 to the nearest neighbour not visited; may be taken for as long as points are left."""
    index = _inverted_lists(points)
    graph = np.concatenate(
        [index.search(points[i : i + 4096], NEIGHBOURS)[1].astype(np.int32) for i in range(0, len(points), 4096)]
    )
    visited = np.zeros(len(points) + 1, bool)
    visited[-1] = True  # Faiss fills up with -1 where it found fewer
    at = 0
    for _ in range(len(points) - 1):
        visited[at] = True
        near = graph[at]
        free = near[~visited[near]]
        at = int(free[0]) if len(free) else _search_left(index, points[at], visited[:-1])
        yield at


def _inverted_lists(points: Points) -> Any:
    import faiss

    lists = max(1, round(2 * len(points) ** 0.5))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(points.shape[1]), points.shape[1], lists)
    index.cp.niter, index.cp.seed = 4, 0
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 32, 1
    index.train(points)
    index.add(points)
    index.nprobe = PROBES
    return index


def _search_left(index: Any, point: Points, visited: NDArray[np.bool_]) -> int:
    """Return the nearest point not visited; looks into twice as many lists until one has such a point."""
    import faiss

    selector = faiss.IDSelectorBitmap(np.packbits(~visited, bitorder="little"))  # type: ignore[call-arg, arg-type]
    probes = PROBES
    while True:
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=min(probes, index.nlist))  # type: ignore[call-arg]
        found = int(index.search(point[None], 1, params=parameters)[1][0, 0])
        if found >= 0 or probes >= index.nlist:
            return found
        probes *= 2
