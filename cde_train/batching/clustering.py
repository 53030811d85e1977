"""Cluster pairs that are hard for one another: the first half of contextual batching (paper, section 3).

Pairs i and j of a batch are hard for one another if ``f(d_i) . g(q_j) + f(d_j) . g(q_i)`` is large. The paper turns
this into k-means on two vectors a pair, the concatenations of f(d), g(q) and of g(q), f(d). Here as there both are
clustered, spherically, within each domain; in addition the two of one pair stay in one cluster. A centroid then has two
equal halves m of width d, and the problem is exactly a spherical k-means of the N sums ``f(d) + g(q)``, which Faiss
solves. What that buys:

- swapping a pair's query and document changes nothing;
- no centroid is the mirror image of another. Left free, the two vectors of up to 14 % of pairs part when clusters are
  small (4,000 package descriptions, MiniLM-L6, mean size 32), and pairs are a little less hard for one another;
- a fifth of the time.

Time is about linear in the number of pairs (`cde_train.batching.spherical_kmeans` says how). Vectors are read in chunks
from where they lie (`TextVectors.view`): memory is one training sample and one chunk, and about 50 bytes a pair.
`docs/figures/clustering_scale.json` has figures.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from cde_retriever.files.records import RecordFormat
from cde_retriever.files.replacing import write_atomically
from cde_retriever.files.tensors import read_tensors
from cde_retriever.progress import counter
from cde_train.batching.pair_vectors import PairVectors, Rows
from cde_train.batching.spherical_kmeans import ClusteringConfig, SphericalKMeans
from cde_train.errors import ArtifactError

FORMAT = RecordFormat(1, ArtifactError, "restore it, or cluster again")
METADATA_KEY = "cde_clustering"


@dataclass(frozen=True, eq=False)
class Clustering:
    """Which cluster each pair is in.

    Attributes:
        labels: Cluster of each pair, (N,) int64.
        centroids: Unit vectors, document half first, (k, 2d) float32; no cluster is empty.
        cluster_domains: Domain of each cluster, k names; clusters of one domain are neighbours.
    """

    labels: NDArray[np.int64]
    centroids: NDArray[np.float32]
    cluster_domains: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        count = len(self.cluster_domains)
        if self.labels.ndim != 1 or self.centroids.ndim != 2 or len(self.centroids) != count:
            raise ValueError(
                f"expected labels (N,), centroids (k, 2d) and k domains, received {self.labels.shape}, "
                f"{self.centroids.shape} and {count}"
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < count:
            raise ValueError(f"labels are {self.labels.min()} to {self.labels.max()}, expected 0 to {count - 1}")

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of pairs in each cluster, (k,)."""
        return np.bincount(self.labels, minlength=len(self.cluster_domains)).astype(np.int64)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file, all or nothing."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        labels, centroids = np.ascontiguousarray(self.labels), np.ascontiguousarray(self.centroids)
        header = FORMAT.to_text({"cluster_domains": self.cluster_domains, "sha256": _digest(labels, centroids)})
        write_atomically(path, save({"labels": labels, "centroids": centroids}, metadata={METADATA_KEY: header}))
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Clustering":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ArtifactError: if it is damaged, of another version, or not a clustering.
        """
        with FORMAT.reading(path):
            tensors, metadata = read_tensors(Path(path).read_bytes())
            header = FORMAT.parse(metadata[METADATA_KEY], path)
            clustering = cls(tensors["labels"], tensors["centroids"], tuple(header["cluster_domains"]))
            intact = header["sha256"] == _digest(clustering.labels, clustering.centroids)
        if not intact:
            raise ArtifactError(f"{path} does not match its checksum; restore it or cluster again")
        return clustering


def _digest(labels: NDArray[np.int64], centroids: NDArray[np.float32]) -> str:
    return hashlib.sha256(labels.tobytes() + centroids.tobytes()).hexdigest()


def cluster_pairs(
    queries: Rows,
    documents: Rows,
    domains: Sequence[str],
    config: ClusteringConfig | None = None,
    *,
    show_progress: bool = True,
) -> Clustering:
    """Cluster pairs within their domains.

    Equal input, configuration and number of threads give equal labels.

    Args:
        queries: Unit vectors of the queries by the surrogate, (N, d).
        documents: Unit vectors of their documents, (N, d).
        domains: Domain of each pair.
        config: How; None for the paper's values.
        show_progress: Show a progress bar on stderr.

    Raises:
        TrainingDataError: if there is no pair.
        ValueError: if the shapes do not fit.
    """
    config = config or ClusteringConfig()
    pairs = PairVectors(queries, documents)
    if len(domains) != len(pairs):
        raise ValueError(f"received {len(domains)} domains for {len(pairs)} pairs, expected one each")
    kmeans = SphericalKMeans(config)
    labels = np.empty(len(pairs), dtype=np.int64)
    centroids: list[NDArray[np.float32]] = []
    cluster_domains: list[str] = []
    names, index = np.unique(np.asarray(domains, dtype=np.str_), return_inverse=True)
    with counter(total=len(pairs), label="Clustering", unit="pair", show=show_progress) as bar:
        for i, name in enumerate(names):
            members = np.flatnonzero(index == i)
            count = 1 if config.method == "domain" else -(-len(members) // config.cluster_size)
            found, means = kmeans(pairs, members, count)
            labels[members] = found + len(cluster_domains)
            centroids.append(np.tile(means / np.float32(np.sqrt(2)), 2))
            cluster_domains += [str(name)] * len(means)
            bar.update(len(members))
    return Clustering(labels, np.concatenate(centroids), tuple(cluster_domains))
