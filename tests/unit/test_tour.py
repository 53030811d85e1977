"""The greedy tour: a planted line, the definition written out, and points that are alike."""

import numpy as np
import pytest

from benchmarks.hardness import tour_length
from cde_train.batching import tour as tours
from cde_train.batching.tour import greedy_tour


def exact_tour(points, start):
    """Go to the nearest point not visited, as it is defined."""
    left, tour = set(range(len(points))) - {start}, [start]
    while left:
        tour.append(min(sorted(left), key=lambda j: np.linalg.norm(points[j] - points[tour[-1]])))
        left.remove(tour[-1])
    return np.array(tour)


def test_the_tour_follows_a_line():
    place = np.random.default_rng(0).permutation(300)
    points = np.stack([place, 2.0 * place], axis=1)
    for limit in (1000, 16):
        walked = place[greedy_tour(points, exact_limit=limit)]
        assert np.array_equal(walked, np.arange(300)) or np.array_equal(walked, np.arange(300)[::-1])


def test_the_tour_is_the_exact_one_or_nearly():
    points = np.random.default_rng(1).normal(size=(700, 6)).astype(np.float32)
    exact, nearly = greedy_tour(points), greedy_tour(points, exact_limit=20)
    assert np.array_equal(exact, exact_tour(points, exact[0]))
    assert sorted(nearly) == list(range(700))
    assert tour_length(points, nearly) < 1.05 * tour_length(points, exact)
    assert tour_length(points, exact) < 0.6 * tour_length(points, np.arange(700))


def test_the_tour_leaves_dead_ends(monkeypatch):
    """With one neighbour each, the point itself, every step must search among those left."""
    monkeypatch.setattr("cde_train.batching.tour.NEIGHBOURS", 1)
    points = np.random.default_rng(1).normal(size=(400, 6)).astype(np.float32)
    tour = greedy_tour(points, exact_limit=20)
    assert sorted(tour) == list(range(400))
    assert tour_length(points, tour) < 1.1 * tour_length(points, greedy_tour(points))


@pytest.mark.parametrize("limit", [1, 7, 4096])
def test_the_tour_visits_every_point_even_of_many_alike(limit):
    points = np.repeat(np.eye(3, dtype=np.float32), [90, 1, 60], axis=0)
    tour = greedy_tour(points, exact_limit=limit)
    assert sorted(tour) == list(range(151))
    assert tour_length(points, tour) == pytest.approx(2 * np.sqrt(2) / 150, abs=1e-6)
    assert [len(greedy_tour(points[:k], exact_limit=limit)) for k in range(3)] == [0, 1, 2]


def test_the_tour_starts_at_an_end_far_from_the_mean():
    points = np.array([[9, 1], [10, 2], [10, 1], [7, 1], [9, 0]], np.float32)
    assert greedy_tour(points)[0] == 3
    assert greedy_tour(points[:0]).dtype == greedy_tour(points).dtype == np.int64


def test_a_graph_is_walked_for_half_of_the_points_and_made_anew_where_that_ended(monkeypatch):
    walks, starts = [], []

    def recorded(name, walk):
        def work(points):
            walks.append((name, len(points)))
            starts.append(points[0])
            return walk(points)

        return work

    for name in ("_walk_all", "_walk_graph"):
        monkeypatch.setattr(tours, name, recorded(name, getattr(tours, name)))
    points = np.random.default_rng(2).normal(size=(100, 6)).astype(np.float32)
    tour = greedy_tour(points, exact_limit=48)
    assert walks == [("_walk_graph", 100), ("_walk_graph", 50), ("_walk_all", 25)]
    np.testing.assert_array_equal(starts, points[tour[[0, 50, 75]]])
