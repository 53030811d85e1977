"""Time an index of texts in two parts, from ten thousand to a million short documents, beside SciPy's own product.

    python -m benchmarks.sparse_index --sets ../shared/eval --output docs/figures/sparse_index.json

Documents are spans of 30 to 70 words, their words counted and weighed as the bundled model does; vectors are random,
because only their number of numbers takes time, and left out beyond `DENSE_UP_TO` documents. Of more than `COUNTED`
documents rows are drawn again, which changes nothing for methods that read every entry of a query's places. Queries are
spans of 8 words. Times are CPU seconds of one thread. Some minutes, 2 GB.
"""

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from benchmarks.performance.texts import all_documents
from cde_retriever.context.knowledge import Parts
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.replacing import write_atomically
from cde_retriever.search.index_file import index_to_bytes
from cde_retriever.search.parts_index import PartsIndex
from cde_retriever.words.sparse import Sparse

COUNTED, BATCH = 20_000, 16_384
QUERIES, WIDTH, FOUND = 100, 384, 100
DENSE_UP_TO = 100_000


def spans(texts: Sequence[str], count: int, shortest: int, longest: int) -> list[str]:
    """Draw spans of some words from texts, a text the more often the longer it is."""
    rng = random.Random(0)
    rows = [row for text in texts if len(row := text.split()) >= shortest]
    drawn = rng.choices(rows, weights=[len(row) for row in rows], k=count)
    starts = [rng.randrange(max(1, len(row) - longest + 1)) for row in drawn]
    return [
        " ".join(row[start : start + rng.randint(shortest, longest)]) for row, start in zip(drawn, starts, strict=True)
    ]


def vectors(count: int, seed: int, width: int = WIDTH) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Draw unit vectors."""
    drawn = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True) if width else drawn


def width_of(count: int) -> int:
    """Return how many numbers the vectors of so many documents have."""
    return WIDTH if count <= DENSE_UP_TO else 0


def build(words: Sparse, count: int) -> tuple[PartsIndex, float]:
    """Fill an index in batches; return it and the CPU seconds it took."""
    index, seconds, rng = PartsIndex("benchmark"), 0.0, np.random.default_rng(1)
    for first in range(0, count, BATCH):
        rows = np.arange(first, min(first + BATCH, count))
        chosen = rows if count <= words.rows else rng.integers(words.rows, size=len(rows))
        parts = Parts(vectors(len(rows), first, width_of(count)), words.take(chosen).csr())
        start = time.process_time()
        index.add([str(row) for row in rows], parts)
        seconds += time.process_time() - start
    return index, seconds


def milliseconds(index: PartsIndex, queries: Sequence[Parts], mode: str) -> dict[str, float]:
    """Return median and 95th percentile of a query."""
    times = []
    for query in queries:
        start = time.process_time()
        index.search(query, FOUND, mode=mode)
        times.append(1000 * (time.process_time() - start))
    return {"median": round(float(np.median(times)), 2), "95th": round(float(np.percentile(times, 95)), 2)}


def product_milliseconds(words: Sparse, queries: Sequence[Parts]) -> float:
    """Return the median of a query as SciPy's product of two sparse matrices over the places that occur."""
    places, columns = np.unique(words.indices, return_inverse=True)
    table = csr_array((words.values, columns.astype(np.int32), words.starts), shape=(words.rows, len(places))).T.tocsr()
    times = []
    for query in queries:
        asked, values = Sparse.of_csr(query.sparse).row(0)
        known = np.isin(asked, places)
        row = csr_array((values[known], np.searchsorted(places, asked[known]), [0, known.sum()]), (1, len(places)))
        start = time.process_time()
        row @ table
        times.append(1000 * (time.process_time() - start))
    return round(float(np.median(times)), 2)


def measure(words: Sparse, queries: Sequence[Parts], count: int) -> dict[str, Any]:
    """Measure one number of documents."""
    index, seconds = build(words, count)
    queries = [Parts(query.dense[:, : width_of(count)], query.sparse) for query in queries]
    modes = ("sparse", "dense", "hybrid") if width_of(count) else ("sparse",)
    _, segments = index.content()
    sparse = sum(array.nbytes for segment in segments for array in segment[1:])
    row: dict[str, Any] = {
        "documents": count,
        "places_a_document": round(sum(len(segment.values) for segment in segments) / count, 1),
        "segments": len(segments),
        "build_cpu_seconds": round(seconds, 2),
        "sparse_gb": round(sparse / 1e9, 3),
        "dense_gb": round(sum(segment.dense.nbytes for segment in segments) / 1e9, 3),
        **{f"{mode}_ms": milliseconds(index, queries, mode) for mode in modes},
    }
    if count <= words.rows:
        row["product_ms"] = product_milliseconds(words.take(np.arange(count)), queries)
        row["file_gb"] = round(len(index_to_bytes(index)) / 1e9, 3)
    start = time.process_time()
    for number in range(100):
        index.add([f"new {number}"], Parts(vectors(1, number, width_of(count)), words.take(np.array([number])).csr()))
    row["insert_ms"] = round(10 * (time.process_time() - start), 2)
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparse_index", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sets", type=Path, default=Path("none"), help="folder of retrieval sets (default: docstrings)"
    )
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    texts, source = all_documents(options.sets)
    encoder = ContextualEncoder.from_pretrained()
    short = spans(texts, COUNTED, 30, 70)
    encoder.fit_context(short[:512])
    words = Sparse.of_csr(encoder.encode_documents(short, parts="sparse"))
    asked = encoder.encode_queries(spans(texts, QUERIES, 8, 8), parts="sparse")
    queries = [Parts(vectors(1, number), asked[[number]]) for number in range(QUERIES)]
    with threadpool_limits(1):
        rows = []
        for count in sorted(options.documents):
            rows.append(measure(words, queries, count))
            print(json.dumps(rows[-1]), flush=True)
    result = {
        "rows": rows,
        "texts": source,
        "places_a_query": round(asked.nnz / QUERIES, 1),
        "machine": {"processor": platform.processor() or platform.machine(), "python": platform.python_version()},
    }
    text = json.dumps(result, indent=2) + "\n"
    if options.output:
        write_atomically(options.output, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
