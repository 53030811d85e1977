"""What the tour through cluster centroids and packing along it cost, from a thousand to a hundred thousand clusters.

    python -m benchmarks.packing_scale --output docs/figures/packing_scale.json

Centroids of 768 numbers lie near a surface of 24 dimensions, in lumps, as those of texts do. Beside the tour stands the
exact greedy one where its matrix of distances fits (O(k ** 2), as in the reference), and a random order. Times are CPU
seconds on one thread. A packed epoch has eight pairs a cluster in batches of 128, so clusters are merged. Some minutes.
"""

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.hardness import tour_length
from cde_retriever.files.replacing import write_atomically
from cde_train.batching.packing import Packer, PackingConfig
from cde_train.batching.tour import EXACT_LIMIT, greedy_tour

WIDTH, SURFACE, LUMP = 768, 24, 100
EXACT_UP_TO = 10_000
PAIRS, BATCH = 8, 128


@dataclass(frozen=True)
class Clusters:
    """A clustering of one domain, as packing sees it."""

    labels: NDArray[np.int64]
    centroids: NDArray[np.float32]
    cluster_domains: tuple[str, ...]


def centroids(count: int) -> NDArray[np.float32]:
    """Draw unit vectors near a surface of few dimensions, about a hundred to a lump."""
    rng = np.random.default_rng(count)
    lumps = rng.normal(size=(max(2, count // LUMP), SURFACE))
    places = lumps[rng.integers(len(lumps), size=count)] + 0.5 * rng.normal(size=(count, SURFACE))
    points = places.astype(np.float32) @ rng.normal(size=(SURFACE, WIDTH)).astype(np.float32)
    points += 0.3 * rng.standard_normal(size=points.shape, dtype=np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result and the CPU seconds it took."""
    start = time.process_time()
    result = call()
    return result, round(time.process_time() - start, 3)


def measure(count: int) -> dict[str, Any]:
    """Measure one number of clusters."""
    points = centroids(count)
    order, seconds = timed(lambda: greedy_tour(points))
    row: dict[str, Any] = {
        "clusters": count,
        "tour_cpu_seconds": seconds,
        "step_length": round(tour_length(points, order), 4),
        "random_step_length": round(tour_length(points, np.random.default_rng(0).permutation(count)), 4),
    }
    if count <= EXACT_UP_TO:
        exact, row["exact_cpu_seconds"] = timed(lambda: greedy_tour(points, exact_limit=count))
        row["exact_step_length"] = round(tour_length(points, exact), 4)
        searched, row["searched_cpu_seconds"] = timed(lambda: greedy_tour(points, exact_limit=EXACT_LIMIT // 16))
        row["searched_step_length"] = round(tour_length(points, searched), 4)
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(count), PAIRS))
    packer = Packer(Clusters(labels, points, ("one",) * count), PackingConfig(BATCH, order="random"))
    row["epoch_cpu_seconds"] = timed(lambda: packer.epoch(0))[1]
    row["pairs"] = len(labels)
    row["peak_memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return row


def exponent(rows: Sequence[dict[str, Any]], name: str) -> float:
    """Return p of the power law ``seconds = a * clusters ** p`` that fits best."""
    found = [(row["clusters"], row[name]) for row in rows if row.get(name)]
    slope, _ = np.polyfit(*np.log(np.array(found, float)).T, 1)
    return round(float(slope), 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing_scale", description=__doc__.splitlines()[0])
    parser.add_argument("--clusters", type=int, nargs="+", default=[1_000, 10_000, 30_000, 100_000])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    with threadpool_limits(1):
        faiss.omp_set_num_threads(1)
        greedy_tour(centroids(600), exact_limit=100)  # loads what is loaded once
        for count in sorted(options.clusters):
            rows.append(measure(count))
            print(json.dumps(rows[-1]))
    larger = [row for row in rows if row["clusters"] >= EXACT_UP_TO]
    result: dict[str, Any] = {
        "rows": rows,
        "exponents": {
            name: exponent(rows, name)
            for name in ("tour_cpu_seconds", "exact_cpu_seconds", "epoch_cpu_seconds")
            if len(rows) > 1
        },
        "tour_exponent_from_10000": exponent(larger, "tour_cpu_seconds") if len(larger) > 1 else None,
        "width": WIDTH,
        "threads": 1,
        "machine": {"processor": platform.processor() or platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("faiss-cpu", "numpy")},
    }
    text = json.dumps(result, indent=2) + "\n"
    if options.output:
        write_atomically(options.output, text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
