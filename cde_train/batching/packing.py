"""Pack clusters into batches of one exact size and domain, fixed by (seed, epoch) (paper, section 3.2).

In each domain, every epoch:

1. the pairs that fill no batch (fewer than one batch a domain) are left out, others in every epoch, until all had their
   turn;
2. a cluster gives as many whole batches as it has, its pairs put in by difficulty (hard ones together), or at random;
3. what remains of the clusters is strung together along a tour and cut: small clusters merge with their neighbours.

The batches of all domains are then shuffled. Time is O(N log N) in pairs and, for the tour, O(k ** 1.5) in clusters
(`cde_train.batching.tour`), once for all epochs.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cde_retriever.files.replacing import replacing
from cde_train.batching.clustering import Clustering
from cde_train.batching.difficulty import pair_difficulty
from cde_train.batching.pair_vectors import views
from cde_train.batching.tour import greedy_tour
from cde_train.data.pairs import TrainingPair
from cde_train.errors import ArtifactError, TrainingDataError
from cde_train.settings import AtLeast2, Seed, Settings
from cde_train.vectors.text_vectors import TextVectors

Floats = NDArray[np.float32]
Numbers = NDArray[np.floating]
Indices = NDArray[np.int64]

NAMED = 5
"""Domains that a message names."""


@dataclass(frozen=True)
class PackingConfig(Settings):
    """How clusters become batches.

    Attributes:
        batch_size: Pairs a batch, over all devices.
        order: Which clusters are neighbours: ``"greedy"``, along a tour from each centroid to the nearest one not yet
            visited, the same in every epoch; ``"random"``, drawn anew in each.
        seed: Seed of everything random.
    """

    batch_size: AtLeast2 = 128
    order: Literal["random", "greedy"] = "greedy"
    seed: Seed = 0


@dataclass(frozen=True)
class PackingReport:
    """What becomes of the pairs.

    Attributes:
        pairs: Pairs given.
        clusters: Clusters they are in.
        batches: Batches an epoch.
        left_over: Pairs left out of an epoch because they fill no batch; others in every epoch.
        left_out: Domains with fewer pairs than a batch, which are never used, to their numbers of pairs.
    """

    pairs: int
    clusters: int
    batches: int
    left_over: int
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Domain:
    """Pairs of one domain, grouped by cluster, at random inside; and the place of each cluster in the tour."""

    number: int
    pairs: Indices
    places: Indices


class Packer:
    """Makes the batches of any epoch.

    Args:
        clustering: Which pair is in which cluster, and where clusters and domains lie.
        config: Size, order and seed.
        difficulty: How hard each pair is, (N,), larger is harder; without it large clusters are split at random, anew
            in every epoch. `cde_train.batching.difficulty` gives one.

    Raises:
        TrainingDataError: if no domain has as many pairs as a batch.
    """

    def __init__(self, clustering: Clustering, config: PackingConfig, difficulty: Numbers | None = None) -> None:
        self.config = config
        self.labels = clustering.labels
        self.difficulty = difficulty
        self._domains, left_out = self._gather(clustering)
        sizes = [len(domain.pairs) for domain in self._domains]
        if not sizes:
            _refuse(left_out, config.batch_size)
        self.report = PackingReport(
            pairs=len(self.labels),
            clusters=len(np.unique(self.labels)),
            batches=sum(size // config.batch_size for size in sizes),
            left_over=sum(size % config.batch_size for size in sizes),
            left_out=left_out,
        )

    def _gather(self, clustering: Clustering) -> tuple[list[_Domain], dict[str, int]]:
        names, of_cluster = np.unique(np.asarray(clustering.cluster_domains), return_inverse=True)
        counts = np.bincount(of_cluster[self.labels], minlength=len(names))
        shuffled = np.random.default_rng(self.config.seed).permutation(len(self.labels))
        shuffled = shuffled[np.argsort(self.labels[shuffled], kind="stable")]
        by_domain = shuffled[np.argsort(of_cluster[self.labels[shuffled]], kind="stable")]
        domains, left_out = [], {}
        for number, pairs in enumerate(np.split(by_domain, np.cumsum(counts)[:-1])):
            if len(pairs) >= self.config.batch_size:
                domains.append(_Domain(number, pairs, self._places(clustering.centroids, pairs)))
            elif len(pairs):
                left_out[str(names[number])] = len(pairs)
        return domains, left_out

    def _places(self, centroids: Floats, pairs: Indices) -> Indices:
        """Return the place in the tour of each cluster of one domain, clusters in ascending order."""
        clusters = np.unique(self.labels[pairs])
        if self.config.order == "random":
            return np.arange(len(clusters))
        places = np.empty(len(clusters), np.int64)
        places[greedy_tour(np.asarray(centroids)[clusters])] = np.arange(len(clusters))
        return places

    def epoch(self, epoch: int) -> Indices:
        """Return the batches of an epoch, (m, batch_size): rows of pair numbers, in the order to train on them."""
        batches = np.concatenate([self._pack(domain, epoch) for domain in self._domains])
        rng = np.random.default_rng([self.config.seed, epoch])
        return rng.permuted(rng.permutation(batches), axis=1)

    def run(self, *, steps: int = 0, epochs: int = 0) -> Indices:
        """Return the batches of a whole run, epoch after epoch: row s is the batch of step s.

        A run that goes on at step s takes the rows from s.

        Args:
            steps: Number of batches; the last epoch may be cut short.
            epochs: Number of epochs, where `steps` is 0.
        """
        wanted = steps or epochs * self.report.batches
        needed = -(-wanted // self.report.batches)
        return np.concatenate([self.epoch(number) for number in range(needed)])[:wanted]

    def _pack(self, domain: _Domain, epoch: int) -> Indices:
        size = self.config.batch_size
        rng = np.random.default_rng([self.config.seed, epoch, domain.number])
        pairs = _without_left_over(domain.pairs, size, epoch)
        places = domain.places if self.config.order == "greedy" else rng.permutation(domain.places)
        clusters = np.searchsorted(np.unique(self.labels[domain.pairs]), self.labels[pairs])
        keys: list[Numbers] = [rng.random(len(pairs))]
        if self.difficulty is not None:
            keys.append(-self.difficulty[pairs])
        order = np.lexsort((*keys, places[clusters]))
        pairs, places = pairs[order], places[clusters][order]
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        sizes = np.diff(starts, append=len(pairs))
        position = np.arange(len(pairs)) - np.repeat(starts, sizes)
        whole = position < np.repeat(sizes // size * size, sizes)
        return np.concatenate([pairs[whole], pairs[~whole]]).reshape(-1, size)


def rank_share(batches: Indices, rank: int, world_size: int) -> Indices:
    """Return one device's part of a batch or of rows of batches: disjoint, of one size, together the whole.

    Parts are contiguous, so that parts gathered in the order of ranks give the batch.
    """
    size, rest = divmod(batches.shape[-1], world_size)
    if rest:
        raise ValueError(
            f"a batch of {batches.shape[-1]} pairs cannot be shared equally among {world_size} devices; "
            f"set batch_size to a multiple of {world_size}"
        )
    return batches[..., rank * size : (rank + 1) * size]


def save_batches(path: str | os.PathLike[str], batches: Indices) -> None:
    """Write batches as one ``.npy`` file, whole or not at all."""
    with replacing(Path(path)) as stream:
        np.save(stream, np.asarray(batches, np.int64), allow_pickle=False)


def load_batches(path: str | os.PathLike[str], *, pairs: int) -> Indices:
    """Read batches of so many pairs.

    Raises:
        ArtifactError: if the file is damaged or belongs to other pairs.
    """
    try:
        batches = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); pack again") from error
    if not isinstance(batches, np.ndarray) or batches.dtype != np.int64 or batches.ndim != 2 or not batches.size:
        raise ArtifactError(f"{path} holds no batches (int64 numbers in two dimensions); pack again")
    if batches.min() < 0 or batches.max() >= pairs:
        raise ArtifactError(
            f"{path} names pairs from {batches.min()} to {batches.max()}, but there are {pairs} pairs; "
            "it belongs to other data: pack again"
        )
    return batches


def _without_left_over(pairs: Indices, size: int, epoch: int) -> Indices:
    """Leave out the pairs that fill no batch: a window that moves on by its own length every epoch, round and round.

    It cuts into few clusters, because pairs lie by cluster.
    """
    left_over = len(pairs) % size
    return np.roll(pairs, -left_over * epoch)[left_over:]


def _refuse(left_out: dict[str, int], batch_size: int) -> None:
    if not left_out:
        raise TrainingDataError("there are no pairs to pack; give at least a batch of them")
    raise TrainingDataError(
        f"no domain has the {batch_size} pairs of one batch (pairs by domain: {name_largest(left_out)}); "
        f"lower batch_size to at most {max(left_out.values())}, or give more pairs"
    )


def name_largest(pairs: dict[str, int]) -> str:
    """Return the domains with the most pairs, at most five, as ``name: pairs``, and how many others there are."""
    largest = sorted(pairs, key=lambda name: (-pairs[name], name))
    named, others = largest[:NAMED], len(largest) - NAMED
    return ", ".join(f"{name}: {pairs[name]}" for name in named) + (f" and {others} more" if others > 0 else "")


def packer(
    pairs: Sequence[TrainingPair], vectors: TextVectors, clustering: Clustering, config: PackingConfig
) -> Packer:
    """Return what packs the clusters, large ones split by difficulty.

    Raises:
        ArtifactError: if the clusters are of other pairs.
        TrainingDataError: if no domain has as many pairs as a batch.
    """
    if len(clustering.labels) != len(pairs):
        raise ArtifactError(
            f"the clusters are of {len(clustering.labels)} pairs, but there are {len(pairs)}; they belong to other "
            "data: cluster again"
        )
    difficulty = pair_difficulty(*views(pairs, vectors), clustering.labels)
    return Packer(clustering, config, difficulty.astype(np.float32))
