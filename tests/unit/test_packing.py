"""Packing: what must hold of any batches, and how hard they are."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hardness import batch_difficulty
from cde_train.batching.difficulty import pair_difficulty
from cde_train.batching.packing import (
    Packer,
    PackingConfig,
    load_batches,
    packer,
    rank_share,
    save_batches,
)
from cde_train.data.pairs import TrainingPair
from cde_train.errors import ArtifactError, TrainingDataError
from cde_train.vectors.surrogate import embed_texts


@dataclass
class Clusters:
    """A clustering as packing sees it."""

    labels: np.ndarray
    centroids: np.ndarray
    cluster_domains: tuple[str, ...]

    @classmethod
    def of_sizes(cls, sizes, domains=None, seed=0):
        """Clusters of these sizes, on a line in this order; pairs are numbered in any order."""
        labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
        centroids = np.stack([np.arange(len(sizes)), np.zeros(len(sizes))], axis=1).astype(np.float32)
        return cls(labels, centroids, tuple(domains or ["only"] * len(sizes)))

    def domains_of(self, pairs):
        return {self.cluster_domains[label] for label in self.labels[pairs]}


@st.composite
def clusterings(draw):
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=12))
    domains = draw(st.lists(st.sampled_from("abc"), min_size=len(sizes), max_size=len(sizes)))
    clusters = Clusters.of_sizes(sizes, domains, seed=draw(st.integers(0, 9)))
    config = PackingConfig(
        draw(st.integers(2, 24)), draw(st.sampled_from(["random", "greedy"])), draw(st.integers(0, 5))
    )
    difficulty = draw(st.sampled_from([None, np.sin(np.arange(len(clusters.labels)))]))
    return clusters, config, difficulty


@settings(max_examples=150, deadline=None)
@given(clusterings(), st.integers(0, 1000))
def test_whatever_is_packed(case, epoch):
    clusters, config, difficulty = case
    counts = dict.fromkeys(clusters.cluster_domains, 0)
    for label in clusters.labels:
        counts[clusters.cluster_domains[label]] += 1
    whole = {domain: count // config.batch_size for domain, count in counts.items()}
    if not any(whole.values()):
        with pytest.raises(TrainingDataError, match="pairs"):
            Packer(clusters, config, difficulty)
        return
    packer = Packer(clusters, config, difficulty)
    batches = packer.epoch(epoch)
    assert batches.dtype == np.int64
    assert batches.shape == (sum(whole.values()), config.batch_size)
    assert len(np.unique(batches)) == batches.size, "a pair comes twice"
    for row in batches:
        assert len(clusters.domains_of(row)) == 1
    again = Packer(clusters, config, difficulty)
    again.epoch(epoch + 1)
    assert np.array_equal(again.epoch(epoch), batches), "an epoch depends on what was packed before"
    whole_clusters = (np.bincount(clusters.labels[batches.ravel()]) // config.batch_size).sum()
    assert sum(len(set(clusters.labels[row])) == 1 for row in batches) >= whole_clusters
    assert packer.report.batches == len(batches)
    assert packer.report.left_out == {d: n for d, n in counts.items() if 0 < n < config.batch_size}
    assert batches.size + packer.report.left_over + sum(packer.report.left_out.values()) == len(clusters.labels)


@settings(max_examples=50, deadline=None)
@given(clusterings(), st.integers(0, 50))
def test_no_pair_is_left_over_twice_in_a_row(case, epoch):
    clusters, config, difficulty = case
    try:
        packer = Packer(clusters, config, difficulty)
    except TrainingDataError:
        return
    used = set(packer.epoch(epoch).ravel()) | set(packer.epoch(epoch + 1).ravel())
    assert len(used) == packer.report.pairs - sum(packer.report.left_out.values())


def test_every_pair_has_its_turn_to_be_left_over_before_one_has_a_second():
    packer = Packer(Clusters.of_sizes([11, 13]), PackingConfig(batch_size=7))
    assert packer.report.left_over == 3
    left = [sorted(set(range(24)) - set(packer.epoch(epoch).ravel().tolist())) for epoch in range(16)]
    for turn in (left[:8], left[8:]):
        assert sorted(pair for pairs in turn for pair in pairs) == list(range(24))


@pytest.mark.parametrize("order", ["random", "greedy"])
def test_epochs_and_seeds_differ(order):
    clusters = Clusters.of_sizes([30, 50, 20], ["a", "b", "a"])

    def members(seed, epoch):
        return {frozenset(row) for row in Packer(clusters, PackingConfig(8, order, seed)).epoch(epoch).tolist()}

    assert members(0, 0) == members(0, 0)
    assert members(0, 0) != members(0, 1)
    assert members(0, 0) != members(1, 0)


def test_batches_of_domains_are_mixed():
    clusters = Clusters.of_sizes([80, 80], ["a", "b"])
    batches = Packer(clusters, PackingConfig(8)).epoch(0)
    domains = [clusters.domains_of(row).pop() for row in batches]
    changes = sum(a != b for a, b in pairwise(domains))
    assert changes > 3, domains


def test_clusters_of_exactly_one_batch_stay_whole():
    clusters = Clusters.of_sizes([8] * 10)
    for row in Packer(clusters, PackingConfig(8)).epoch(0):
        assert len(set(clusters.labels[row])) == 1


def test_an_epoch_by_hand():
    """On a line: five pairs, three, four. Batches of four: the hard ones of the first, the last, and what is left."""
    clusters = Clusters(np.repeat([0, 1, 2], [5, 3, 4]), np.array([[0.0], [1], [2]], np.float32), ("a",) * 3)
    difficulty = np.array([5.0, 1, 4, 3, 2, 9, 9, 9, 0, 0, 0, 0])
    for config in (PackingConfig(4, seed=0), PackingConfig(4, seed=1)):
        for packed in (
            Packer(clusters, config, difficulty).epoch(3),
            Packer(clusters, config, difficulty).epoch(3),
        ):
            assert {frozenset(row) for row in packed.tolist()} == {
                frozenset({0, 2, 3, 4}),
                frozenset({1, 5, 6, 7}),
                frozenset({8, 9, 10, 11}),
            }


@pytest.mark.parametrize(("order", "neighbours"), [("greedy", True), ("random", False)])
def test_small_clusters_merge_with_their_neighbours(order, neighbours):
    """Eighty clusters of two pairs on a line: along the tour, a batch of eight is four clusters in a row."""
    clusters = Clusters.of_sizes([2] * 80)
    spans = [np.ptp(clusters.labels[row]) for row in Packer(clusters, PackingConfig(8, order)).epoch(0)]
    assert (max(spans) <= 3) == neighbours


def test_neighbours_lie_near_one_another_and_are_not_those_with_the_next_number():
    clusters, place = Clusters.of_sizes([2] * 80), np.random.default_rng(1).permutation(80)
    clusters.centroids = clusters.centroids[place]
    spans = [np.ptp(place[clusters.labels[row]]) for row in Packer(clusters, PackingConfig(8)).epoch(0)]
    assert max(spans) <= 3


def test_large_clusters_are_split_by_difficulty():
    clusters = Clusters.of_sizes([24, 3])  # three batches, and three pairs left over
    difficulty = np.arange(27.0)
    batches = Packer(clusters, PackingConfig(8), difficulty).epoch(0)
    kept = np.sort(batches[[len(set(clusters.labels[row])) == 1 for row in batches]], axis=1)
    of_large = np.flatnonzero(clusters.labels == 0)
    used = np.intersect1d(of_large, batches)[::-1]  # hardest first
    assert {tuple(row) for row in kept} >= {tuple(sorted(used[:8])), tuple(sorted(used[8:16]))}


def test_the_order_inside_a_batch_says_nothing_of_difficulty():
    """Or else the first device would get the hard half of every batch."""
    batches = Packer(Clusters.of_sizes([64]), PackingConfig(32), np.arange(64.0)).epoch(0)
    first, second = rank_share(batches, 0, 2), rank_share(batches, 1, 2)
    for a, b in zip(first, second, strict=True):
        assert a.min() < b.max()
        assert b.min() < a.max()


def test_a_run_is_its_epochs_in_a_row():
    clusters, config = Clusters.of_sizes([20, 17]), PackingConfig(4)
    packer = Packer(clusters, config)
    run = Packer(clusters, config).run(steps=23)
    assert np.array_equal(run, np.concatenate([packer.epoch(0), packer.epoch(1), packer.epoch(2)[:5]]))
    assert np.array_equal(run[13:], Packer(clusters, config).run(steps=40)[13:23])  # resumed at step 13
    assert np.array_equal(Packer(clusters, config).run(epochs=2), run[:18])
    assert np.array_equal(packer.run(epochs=1), packer.epoch(0))
    assert np.array_equal(packer.run(steps=1), packer.epoch(0)[:1])


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_ranks_share_a_batch(world_size, each, rows):
    batches = np.arange(rows * each * world_size).reshape(rows, -1)
    shares = [rank_share(batches, rank, world_size) for rank in range(world_size)]
    assert {share.shape for share in shares} == {(rows, each)}
    assert np.array_equal(np.concatenate(shares, axis=1), batches)
    assert np.array_equal(rank_share(batches[0], 0, world_size), shares[0][0])


def test_ranks_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match=r"8 pairs cannot be shared equally among 3 devices; .* multiple of 3"):
        rank_share(np.zeros((2, 8), np.int64), 0, 3)
    with pytest.raises(ValueError, match="a batch of 8 pairs cannot"):
        rank_share(np.zeros(8, np.int64), 0, 3)


def test_too_few_pairs_name_the_largest_domain():
    clusters = Clusters.of_sizes([5, 3, 4, 1], ["a", "b", "a", "c"])
    with pytest.raises(TrainingDataError, match=r"the 10 pairs .* \(.*: a: 9, b: 3, c: 1\); .* at most 9"):
        Packer(clusters, PackingConfig(10))
    with pytest.raises(TrainingDataError, match=r"^there are no pairs to pack; give at least a batch of them$"):
        Packer(Clusters.of_sizes([0]), PackingConfig(10))


@pytest.mark.parametrize(
    ("sizes", "listed"),
    [([1, 2, 3, 3, 5], "e: 5, c: 3, d: 3, b: 2, a: 1"), ([1, 2, 3, 4, 5, 6, 7], "g: 7, .*, c: 3 and 2 more")],
)
def test_five_domains_that_are_too_small_are_listed_largest_first(sizes, listed):
    clusters = Clusters.of_sizes(sizes, "abcdefg"[: len(sizes)])
    with pytest.raises(TrainingDataError, match=rf"domain: {listed}\); .* at most {sizes[-1]}, or"):
        Packer(clusters, PackingConfig(10))


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"batch_size": 1}, "batch_size is 1"),
        ({"order": "gready"}, "'gready', expected 'random' or 'greedy'"),
        ({"seed": -1}, "seed is"),
    ],
)
def test_valuesout_of_range_are_refused(values, fault):
    with pytest.raises(ValueError, match=fault):
        PackingConfig(**values)


def test_batches_on_disk(tmp_path):
    file, batches = tmp_path / "batches.npy", Packer(Clusters.of_sizes([20]), PackingConfig(4)).epoch(0)
    save_batches(file, batches)
    assert np.array_equal(load_batches(file, pairs=20), batches)
    with pytest.raises(ArtifactError, match="there are 19 pairs"):
        load_batches(file, pairs=19)
    whole = file.read_bytes()
    for broken in (whole[:-8], whole[:5], b"", b"words"):
        file.write_bytes(broken)
        with pytest.raises(ArtifactError, match="damaged"):
            load_batches(file, pairs=20)
    for other in (np.zeros((2, 3)), np.zeros(3, np.int64), np.zeros((0, 4), np.int64)):
        np.save(file, other)
        with pytest.raises(ArtifactError, match="no batches"):
            load_batches(file, pairs=20)
    save_batches(file, np.array([[0.0, 1.0]]))
    assert load_batches(file, pairs=2).tolist() == [[0, 1]]
    with pytest.raises(ArtifactError, match="from 0 to 1, but there are 1 pairs; it belongs to other data: pack again"):
        load_batches(file, pairs=1)


def test_difficulty_is_the_mean_over_the_others():
    rng = np.random.default_rng(2)
    queries, documents = rng.normal(size=(2, 60, 5)).astype(np.float32)
    labels = rng.integers(6, size=60)
    labels[0] = 9  # alone
    scores = (queries @ documents.T + documents @ queries.T) / 2
    expected = [
        np.mean([scores[i, j] for j in range(60) if labels[j] == labels[i] and j != i] or [0.0]) for i in range(60)
    ]
    assert pair_difficulty(queries, documents, labels) == pytest.approx(np.array(expected), abs=1e-5)
    batches = np.arange(60).reshape(3, 20)
    off = ~np.eye(20, dtype=bool)
    expected = [scores[np.ix_(row, row)][off].mean() for row in batches]
    assert batch_difficulty(queries, documents, batches) == pytest.approx(np.array(expected), abs=1e-5)
    with pytest.raises(ValueError, match="a label for each pair"):
        pair_difficulty(queries, documents, labels[:5])


def test_two_pairs_are_as_hard_as_each_others_documents_are_near():
    queries, documents = np.array([[1, 0], [0.6, 0.8]], np.float32), np.array([[0, 1], [1, 0]], np.float32)
    assert pair_difficulty(queries, documents, np.array([4, 4])) == pytest.approx([(1 + 0.8) / 2] * 2)


def test_the_packer_of_a_run_splits_clusters_by_what_the_surrogate_finds_hard(tmp_path):
    class Letters:
        def encode(self, sentences):
            return [[text.count("a") + 0.1, text.count("b") + 0.1] for text in sentences]

    pairs = [
        TrainingPair(q, d, "x") for q, d in (("a", "a b"), ("b", "b b"), ("a a", "b"), ("b a", "a"), ("a", "b b b"))
    ]
    texts = [text for pair in pairs for text in (pair.query, pair.document)]
    vectors = embed_texts(texts, Letters(), tmp_path, identity="letters", show_progress=False)
    clusters = Clusters(np.array([0, 1, 0, 0, 1]), np.zeros((2, 4), np.float32), ("x", "x"))
    made = packer(pairs, vectors, clusters, PackingConfig(2, seed=3))
    rows = [np.array([vectors.take([pair.query, pair.document]) for pair in pairs])[:, side] for side in (0, 1)]
    expected = pair_difficulty(*rows, clusters.labels)
    assert len(set(expected.round(4))) > 2
    assert made.difficulty == pytest.approx(expected, abs=1e-6)
    assert made.config == PackingConfig(2, seed=3)
    assert made.labels.tolist() == [0, 1, 0, 0, 1]
    with pytest.raises(ArtifactError, match=r"clusters are of 5 pairs, but there are 4.* cluster again"):
        packer(pairs[:4], vectors, clusters, PackingConfig(2))
