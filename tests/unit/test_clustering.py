"""Paired spherical k-means against planted clusters, brute force and answers that can be read off."""

import itertools
import json

import faiss
import numpy as np
import pytest
from safetensors.numpy import save

from benchmarks.hardness import paired_objective
from cde_retriever.errors import ConfigError
from cde_train.batching import pair_vectors, spherical_kmeans
from cde_train.batching.clustering import METADATA_KEY, Clustering, cluster_pairs
from cde_train.batching.pair_vectors import PairVectors
from cde_train.batching.spherical_kmeans import ClusteringConfig, apportion, refine
from cde_train.errors import ArtifactError, TrainingDataError
from cde_train.vectors.surrogate import embed_texts


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_pairs(count, width=8, seed=0, noise=0.7):
    rng = np.random.default_rng(seed)
    documents = rng.standard_normal((count, width))
    return unit(documents + noise * rng.standard_normal((count, width))), unit(documents)


def planted(clusters, size, width=48, noise=0.05, seed=0):
    """Return queries, documents and the true cluster of pairs around random directions, shuffled."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(clusters), size))
    centres = unit(rng.standard_normal((clusters, width)))[truth]
    return *(unit(centres + noise * rng.standard_normal(centres.shape)) for _ in range(2)), truth


def cluster(queries, documents, domains=None, **options):
    domains = ["one"] * len(queries) if domains is None else domains
    return cluster_pairs(queries, documents, domains, ClusteringConfig(**options), show_progress=False)


def kmeans_objective(queries, documents, labels):
    """Return what the k-means maximises: the sum over clusters of the length of the sum of f(d) + g(q)."""
    sums = [(queries + documents)[labels == label].sum(axis=0) for label in np.unique(labels)]
    return float(np.linalg.norm(sums, axis=1).sum())


def same_grouping(left, right):
    """Tell whether two labellings differ by the names of the labels only."""
    return len(set(zip(left, right, strict=True))) == len(set(left)) == len(set(right))


@pytest.mark.parametrize(("clusters", "size"), [(2, 3), (7, 20), (12, 5)])
def test_planted_clusters_are_recovered(clusters, size):
    queries, documents, truth = planted(clusters, size)
    found = cluster(queries, documents, cluster_size=size, restarts=50)
    assert same_grouping(found.labels, truth)
    assert found.sizes.tolist() == [size] * clusters


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3])
def test_best_of_restarts_is_the_optimum_by_brute_force(seed, count):
    """All partitions of 7 pairs into at most `count` clusters; both objectives."""
    queries, documents = random_pairs(7, width=4, seed=seed)
    partitions = [np.array(labels) for labels in itertools.product(range(count), repeat=7)]
    best = max(kmeans_objective(queries, documents, labels) for labels in partitions)
    hardest = max(paired_objective(queries, documents, labels) for labels in partitions)
    found = cluster(queries, documents, cluster_size=-(-7 // count), restarts=50)
    assert kmeans_objective(queries, documents, found.labels) == pytest.approx(best, abs=1e-5)
    scores = sorted((paired_objective(queries, documents, labels) for labels in partitions), reverse=True)
    achieved = paired_objective(queries, documents, found.labels)
    assert hardest == scores[0]
    assert achieved >= np.quantile(scores, 0.95)  # a proxy for it: among the hardest twentieth of all partitions


def test_the_k_means_objective_is_that_of_both_concatenations():
    """The sum over all 2N unit vectors of their inner product with their cluster's unit centroid, written out."""
    queries, documents = random_pairs(30, seed=3)
    labels = np.random.default_rng(0).integers(4, size=30)
    both = np.concatenate([np.hstack([documents, queries]), np.hstack([queries, documents])]) / np.sqrt(2)
    twice = np.concatenate([labels, labels])
    expected = 0.0
    for k in range(4):
        centroid = both[twice == k].sum(axis=0)
        expected += (both[twice == k] @ (centroid / np.linalg.norm(centroid))).sum()
    assert kmeans_objective(queries, documents, labels) == pytest.approx(expected, rel=1e-5)


def test_the_paired_objective_by_hand():
    """Pairs 0 and 1 in one cluster: scores 1, 0.6, 0, 0.8 of four; pair 2 alone scores 0."""
    documents = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    queries = np.array([[1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32)
    assert paired_objective(queries, documents, np.array([0, 0, 1])) == pytest.approx((2.4 / 2 + 0) / 3)


def test_both_orders_of_a_pair_matter():
    """Query and document of 0 and 1 are exchanged, so each is the other's hardest negative; so are 2 and 3.

    To k-means on f(d), g(q) alone the four pairs are equally far apart.
    """
    axes = np.eye(4, dtype=np.float32)
    documents, queries = axes[[0, 1, 2, 3]], axes[[1, 0, 3, 2]]
    found = cluster(queries, documents, cluster_size=2, restarts=20)
    assert same_grouping(found.labels, [0, 0, 1, 1])
    assert paired_objective(queries, documents, found.labels) == pytest.approx(0.5)
    assert paired_objective(queries, documents, np.array([0, 1, 0, 1])) == 0
    one_order = np.hstack([documents, queries])
    assert np.unique(one_order @ one_order.T).tolist() == [0, 2]


def test_swapping_query_and_document_of_some_pairs_changes_nothing():
    queries, documents = random_pairs(200)
    swapped = (np.arange(200) % 3 == 0)[:, None]
    before = cluster(queries, documents, cluster_size=20)
    after = cluster(np.where(swapped, documents, queries), np.where(swapped, queries, documents), cluster_size=20)
    np.testing.assert_array_equal(before.labels, after.labels)


def test_labels_name_the_nearest_unit_centroid():
    queries, documents = random_pairs(300)
    found = cluster(queries, documents, cluster_size=30)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-6)
    assert found.centroids.shape == (10, 16)
    assert found.centroids.dtype == np.float32
    np.testing.assert_array_equal((np.hstack([documents, queries]) @ found.centroids.T).argmax(axis=1), found.labels)


def test_domains_never_share_a_cluster():
    """The same pairs in two domains, interleaved, and a domain of a single pair."""
    queries, documents, truth = planted(4, 10)
    domains = [*np.tile(["b", "a"], 40), "c"]
    queries = np.concatenate([np.repeat(queries, 2, axis=0), queries[:1]])
    documents = np.concatenate([np.repeat(documents, 2, axis=0), documents[:1]])
    found = cluster(queries, documents, domains, cluster_size=10, restarts=20)
    assert found.cluster_domains == ("a",) * 4 + ("b",) * 4 + ("c",)
    assert [found.cluster_domains[label] for label in found.labels] == domains
    assert same_grouping(found.labels[1:-1:2], truth)


def test_one_cluster_a_domain():
    queries, documents = random_pairs(9)
    domains = ["x", "y", "x"] * 3
    found = cluster(queries, documents, domains, method="domain", cluster_size=2)
    assert found.cluster_domains == ("x", "y")
    assert [found.cluster_domains[label] for label in found.labels] == domains
    mean = (queries + documents)[1::3].sum(axis=0)
    np.testing.assert_allclose(found.centroids[1, :8], mean / np.linalg.norm(mean) / np.sqrt(2), atol=1e-6)


@pytest.mark.parametrize("flat", [4, 64])
def test_equal_seeds_give_equal_clusters_on_one_thread_or_two(monkeypatch, flat):
    monkeypatch.setattr(spherical_kmeans, "FLAT", flat)
    queries, documents = random_pairs(300)
    options = {"cluster_size": 25, "points_per_centroid": 20, "iterations": 10}
    threads = faiss.omp_get_max_threads()
    try:
        found = []
        for number in (1, 1, 2):
            faiss.omp_set_num_threads(number)
            found.append(cluster(queries, documents, **options))
    finally:
        faiss.omp_set_num_threads(threads)
    for other in found[1:]:
        np.testing.assert_array_equal(other.labels, found[0].labels)
        np.testing.assert_array_equal(other.centroids, found[0].centroids)
    assert not same_grouping(cluster(queries, documents, **options, seed=1).labels, found[0].labels)


def test_faiss_reads_the_number_of_points():
    """Trained on all 1,200 pairs, more than Faiss' own limit for two clusters, centroids are means; on a sample not."""
    queries, documents = random_pairs(1200)
    everything = cluster(queries, documents, cluster_size=600, points_per_centroid=600)
    sample = cluster(queries, documents, cluster_size=600, points_per_centroid=40)

    def gap(found):
        sums = np.stack([(queries + documents)[found.labels == k].sum(axis=0) for k in range(2)])
        return np.abs(unit(sums) / np.sqrt(2) - found.centroids[:, :8]).max()

    assert gap(everything) < 1e-5
    assert gap(sample) > 1e-3


def test_faiss_reads_restarts_and_iterations():
    queries, documents = random_pairs(400, width=16)

    def reached(**options):
        return kmeans_objective(queries, documents, cluster(queries, documents, cluster_size=20, **options).labels)

    assert reached(restarts=1, iterations=100) > reached(restarts=1, iterations=1) + 1
    assert reached(restarts=30) > reached(restarts=1) + 0.1


def test_faiss_reads_the_seed():
    queries, documents = random_pairs(200)
    options = {"cluster_size": 20, "points_per_centroid": 1000, "restarts": 1}  # no sample of our own
    labels = [cluster(queries, documents, **options, seed=seed).labels for seed in (0, 1)]
    assert not same_grouping(*labels)


def test_many_clusters_are_made_by_small_k_means(monkeypatch):
    """With at most 4 clusters a k-means, 60 planted clusters are found, exactly as many as asked for."""
    monkeypatch.setattr(spherical_kmeans, "FLAT", 4)
    made, real = [], faiss.Kmeans
    monkeypatch.setattr(faiss, "Kmeans", lambda d, k, **options: made.append(k) or real(d, k, **options))
    queries, documents, truth = planted(60, 12)
    found = cluster(queries, documents, cluster_size=12, restarts=10)
    assert max(made) == 4
    assert len(found.centroids) == 60
    pure = sum(np.bincount(truth[found.labels == label]).max() for label in range(60))
    assert pure >= 0.85 * len(truth)


def test_refinement_wins_back_what_dividing_loses(monkeypatch):
    queries, documents = random_pairs(3000, width=24)
    exhaustive = cluster(queries, documents, cluster_size=50)
    monkeypatch.setattr(spherical_kmeans, "FLAT", 8)
    refined = cluster(queries, documents, cluster_size=50)
    monkeypatch.setattr(spherical_kmeans, "REFINEMENTS", 0)
    divided = cluster(queries, documents, cluster_size=50)
    reached = [kmeans_objective(queries, documents, found.labels) for found in (divided, refined, exhaustive)]
    assert reached[1] > reached[0] + 0.7 * (reached[2] - reached[0])
    assert reached[2] > reached[0]


def test_refinement_stands_still_at_the_planted_clusters_and_finds_neighbours_in_inverted_lists(monkeypatch):
    monkeypatch.setattr(spherical_kmeans, "EXHAUSTIVE", 8)
    queries, documents, truth = planted(100, 4)
    pairs, everyone = PairVectors(queries, documents), np.arange(400)
    centroids = unit(np.stack([pairs[np.flatnonzero(truth == k)].sum(axis=0) for k in range(100)]))
    labels, _ = refine(pairs, everyone, truth, centroids)
    np.testing.assert_array_equal(labels, truth)
    wrong = truth.copy()
    near = (centroids @ centroids.T - 2 * np.eye(100)).argmax(axis=1)
    wrong[::40] = near[truth[::40]]  # ten pairs in the cluster next to theirs
    labels, _ = refine(pairs, everyone, wrong, centroids)
    assert (labels != truth).sum() <= 2


def test_vectors_that_are_all_equal_come_to_an_end(monkeypatch):
    monkeypatch.setattr(spherical_kmeans, "FLAT", 4)
    same = np.ones((300, 3), dtype=np.float32)
    found = cluster(same, same, cluster_size=2)
    assert found.sizes.sum() == 300
    assert found.sizes.min() >= 1


def test_as_many_clusters_as_pairs():
    queries, documents = random_pairs(6)
    assert sorted(cluster(queries, documents, cluster_size=1).labels) == list(range(6))


@pytest.mark.parametrize("flat", [4, 64])
def test_vectors_are_read_in_chunks(monkeypatch, flat):
    """No more than a chunk of 32 rows is asked for at once, and the answer is that of one chunk."""

    class Watched:
        def __init__(self, vectors):
            self.vectors, self.shape, self.most = vectors, vectors.shape, 0

        def __getitem__(self, rows):
            self.most = max(self.most, len(rows))
            return self.vectors[rows]

    monkeypatch.setattr(spherical_kmeans, "FLAT", flat)
    queries, documents = random_pairs(500)
    options = {"cluster_size": 25, "points_per_centroid": 12}
    expected = cluster(queries, documents, **options)
    for module in (pair_vectors, spherical_kmeans):
        monkeypatch.setattr(module, "CHUNK", 32)
    watched = Watched(queries), Watched(documents)
    found = cluster(*watched, ["one"] * 500, **options)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert {side.most for side in watched} == {32}


def test_from_the_files_of_the_surrogate(tmp_path):
    class Letters:
        def encode(self, sentences):
            return [[text.count("a") + 0.1, text.count("b") + 0.1] for text in sentences]

    queries, documents = ["a", "b", "a a", "b"], ["a a a", "b b", "a", "b b"]
    vectors = embed_texts([*queries, *documents], Letters(), tmp_path, identity="letters", show_progress=False)
    found = cluster(vectors.view(queries), vectors.view(documents), ["one"] * 4, cluster_size=2, restarts=10)
    assert same_grouping(found.labels, [0, 1, 0, 1])


def test_inputs_that_do_not_fit_are_refused():
    queries, documents = random_pairs(6)
    with pytest.raises(ValueError, match=r"received \(6, 8\) and \(5, 8\)"):
        cluster(queries, documents[:5])
    with pytest.raises(ValueError, match=r"received \(6, 8\) and \(6, 7\)"):
        cluster(queries, documents[:, :7])
    with pytest.raises(ValueError, match=r"received \(8,\) and \(8,\)"):
        cluster(queries[0], documents[0])
    with pytest.raises(ValueError, match="received 5 domains for 6 pairs"):
        cluster(queries, documents, ["one"] * 5)
    with pytest.raises(TrainingDataError, match="no pair to cluster"):
        cluster(queries[:0], documents[:0])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "dbscan"}, "method is 'dbscan', expected 'kmeans' or 'domain'"),
        ({"cluster_size": 0}, "cluster_size is 0, expected at least 1"),
        ({"restarts": -1}, "restarts is -1"),
        ({"seed": 2**31}, "seed is 2147483648, expected at most 2147483647"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        ClusteringConfig(**setting)


@pytest.mark.parametrize("seed", range(20))
def test_clusters_are_apportioned_exactly_and_to_everyone(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 1 + 10 ** rng.integers(1, 4), size=rng.integers(1, 9))
    count = int(rng.integers(len(sizes), sizes.sum() + 1))
    given = apportion(count, sizes)
    assert given.sum() == count
    assert (given >= 1).all()
    assert (given <= sizes).all()


def test_saved_and_loaded(tmp_path):
    queries, documents = random_pairs(40)
    before = cluster(queries, documents, ["é", "b"] * 20, cluster_size=7)
    after = Clustering.load(before.save(tmp_path / "new" / "clusters.safetensors"))
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_array_equal(after.centroids, before.centroids)
    assert after.cluster_domains == before.cluster_domains
    assert after.labels.dtype == np.int64


@pytest.mark.parametrize("damage", ["cut", "bit", "other", "version", "label"])
def test_damaged_files_are_refused(tmp_path, damage):
    queries, documents = random_pairs(10)
    file = cluster(queries, documents, cluster_size=5).save(tmp_path / "clusters.safetensors")
    content = bytearray(file.read_bytes())
    message = "is damaged"
    if damage == "cut":
        content = content[:-5]
    elif damage == "bit":
        content[-9] ^= 1
        message = "checksum"
    elif damage == "other":
        content = save({"x": np.zeros(1)})
    else:
        header = {"format_version": 2 if damage == "version" else 1, "cluster_domains": ["one"], "sha256": ""}
        tensors = {"labels": np.array([0, 1]), "centroids": np.zeros((1, 4), np.float32)}
        content = save(tensors, metadata={METADATA_KEY: json.dumps(header)})
        message = "has format 2" if damage == "version" else "labels are 0 to 1, expected 0 to 0"
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        Clustering.load(file)
    with pytest.raises(FileNotFoundError):
        Clustering.load(tmp_path / "nowhere")
