"""Time and memory of `cluster_pairs` against the number of pairs.

    python -m benchmarks.clustering_scale --sizes 10000 100000 1000000 --output docs/figures/clustering_scale.json
    python -m benchmarks.clustering_scale --sizes 10000 --folder /tmp --threads 1

Made pairs of one domain: N / 200 topics of unequal size, without sharp borders, in 384 dimensions of falling variance
around a common mean, a query near its document; about as close to one another as package descriptions are under
MiniLM-L6. They are written to memory-mapped float32 files chunk by chunk (3 KB a pair) and clustered from there, each
size in a process of its own. The exponent is fitted to CPU time (log-log, least squares), because other processes
disturb wall time. Memory: the peak of all resident pages, and of anonymous ones alone, which leaves out pages of the
mapped files, which the system takes back when it needs them; beside them what was there before (Python, NumPy, Faiss).
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.hardness import paired_objective
from cde_retriever.files.replacing import write_atomically
from cde_train.batching.clustering import cluster_pairs
from cde_train.batching.spherical_kmeans import ClusteringConfig

WIDTH = 384
BLOCK = 16384
SIDES = ("documents", "queries")


@dataclass(frozen=True)
class Measurement:
    """One size.

    Attributes:
        pairs: Pairs clustered.
        clusters: Clusters made.
        largest: Pairs in the largest of them.
        cpu_seconds: Processor time of all threads.
        wall_seconds: Time by the clock.
        peak_mb: Most resident memory, mapped files included, in units of 10^6 bytes.
        peak_anonymous_mb: The same without mapped files.
        before_mb: Resident memory before clustering.
        score_inside: Mean score of a pair's document and a query of its cluster.
        score_random: The same for clusters drawn at random.
    """

    pairs: int
    clusters: int
    largest: int
    cpu_seconds: float
    wall_seconds: float
    peak_mb: float
    peak_anonymous_mb: float
    before_mb: float
    score_inside: float
    score_random: float


def write_vectors(folder: Path, count: int, seed: int = 0) -> None:
    """Write `count` documents and queries, unit rows."""
    rng = np.random.default_rng(seed)
    spread = (1 / np.sqrt(1 + np.arange(WIDTH))).astype(np.float32)
    topics = count // 200 + 1
    centres = rng.standard_normal(WIDTH, dtype=np.float32) * spread * np.float32(0.55)
    centres = centres + rng.standard_normal((topics, WIDTH), dtype=np.float32) * spread * np.float32(0.45)
    shares = rng.lognormal(size=topics)
    with (folder / SIDES[0]).open("wb") as documents, (folder / SIDES[1]).open("wb") as queries:
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            topic = rng.choice(topics, size=size, p=shares / shares.sum())
            document = centres[topic] + rng.standard_normal((size, WIDTH), dtype=np.float32) * spread
            query = document + rng.standard_normal((size, WIDTH), dtype=np.float32) * spread * np.float32(1.3)
            for stream, rows in ((documents, document), (queries, query)):
                stream.write((rows / np.linalg.norm(rows, axis=1, keepdims=True)).tobytes())


def read_status(field: str) -> float:
    """Return a line of this process's memory status in MB, or NaN where the system has none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{field}:")), float("nan"))


class AnonymousPeak(threading.Thread):
    """Look at the anonymous memory twenty times a second and keep the most."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.done = read_status("RssAnon"), threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        while not self.done.wait(0.05):
            self.most = max(self.most, read_status("RssAnon"))


def measure(folder: Path, count: int, cluster_size: int, threads: int) -> Measurement:
    """Cluster the vectors of a folder."""
    import faiss

    faiss.omp_set_num_threads(threads)
    documents, queries = (np.memmap(folder / side, dtype=np.float32, mode="r", shape=(count, WIDTH)) for side in SIDES)
    before, watch = read_status("VmRSS"), AnonymousPeak()
    watch.start()
    cpu, wall = time.process_time(), time.perf_counter()
    clustering = cluster_pairs(queries, documents, ["one"] * count, ClusteringConfig(cluster_size=cluster_size))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    watch.done.set()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    random: NDArray[np.int64] = np.random.default_rng(0).permutation(clustering.labels)
    return Measurement(
        pairs=count,
        clusters=len(clustering.centroids),
        largest=int(clustering.sizes.max()),
        cpu_seconds=round(cpu, 2),
        wall_seconds=round(wall, 2),
        peak_mb=round(peak, 1),
        peak_anonymous_mb=round(watch.most, 1),
        before_mb=round(before, 1),
        score_inside=round(paired_objective(queries, documents, clustering.labels), 4),
        score_random=round(paired_objective(queries, documents, random), 4),
    )


def exponent(measurements: Sequence[Measurement]) -> float | None:
    """Return the slope of log CPU time over log pairs; None for fewer than two sizes."""
    if len(measurements) < 2:
        return None
    sizes, times = np.log([m.pairs for m in measurements]), np.log([m.cpu_seconds for m in measurements])
    return round(float(np.polyfit(sizes, times, 1)[0]), 3)


def main(arguments: list[str] | None = None) -> int:
    """Measure each size and write the figures after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--cluster-size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="where the vectors are written; default a temporary folder")
    parser.add_argument("--output", type=Path, help="file for the figures; default only stdout")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)  # read by the processes
    found: list[Measurement] = []
    for count in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                pool.submit(write_vectors, Path(folder), count).result()
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                job = pool.submit(measure, Path(folder), count, options.cluster_size, options.threads)
                found.append(job.result())
        print(json.dumps(asdict(found[-1])), flush=True)
        if options.output:
            write_atomically(options.output, (json.dumps(_report(found, options), indent=2) + "\n").encode())
    print(json.dumps({"exponent_of_cpu_time": exponent(found)}))
    return 0


def _report(found: list[Measurement], options: argparse.Namespace) -> dict[str, Any]:
    import faiss

    return {
        "exponent_of_cpu_time": exponent(found),
        "exponent_of_the_last_two_sizes": exponent(found[-2:]),
        "width": WIDTH,
        "cluster_size": options.cluster_size,
        "threads": options.threads,
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "faiss": faiss.__version__},
        "measurements": [asdict(m) for m in found],
    }


if __name__ == "__main__":
    sys.exit(main())
