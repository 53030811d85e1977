"""Many callers at once, each asking one query at a time, against the same queries one after the other.

Once with queries of 16 tokens, once with queries of 8 to 24, mixed, which pad one another in a batch. The threads are
there before the clock starts. Every vector is compared with that of the same query asked alone; a caller that got
another's vector, or one that its company changed, shows as a difference.
"""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.performance.rivals import SERVING_BACKENDS, load_encoder
from benchmarks.performance.texts import queries_of, real_documents, texts_of_length
from benchmarks.performance.timing import interleave, medians, ratio
from cde_retriever.encoder.encoder import ContextualEncoder

READS = ("context_size", "callers", "concurrent_queries", "repetitions")
LARGEST_DIFFERENCE = 1e-5
LENGTHS = (8, 12, 16, 20, 24)

Vectors = NDArray[np.float32]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time both ways of asking in turns, on each backend, and compare the vectors."""
    corpus, source = real_documents(options.eval_folder, max(4 * options.concurrent_queries, options.context_size))
    ratios, rates, seconds, differences = {}, {}, {}, {}
    for backend in SERVING_BACKENDS:
        encoder = load_encoder(options.checkpoint, backend)
        encoder.fit_context(corpus[: options.context_size], context_size=options.context_size)
        for name, queries in {
            backend: queries_of(encoder, corpus, options.concurrent_queries),
            f"{backend}_mixed": mixed_queries(encoder, corpus, options.concurrent_queries),
        }.items():
            with ThreadPoolExecutor(options.callers) as pool:
                alone, together = ask(encoder, queries), ask(encoder, queries, pool)
                timings = interleave({"alone": alone, "together": together}, options.repetitions, f"Callers, {name}")
                differences[name] = largest_difference(alone(), [together() for _ in range(3)])
            ratios[name] = judged(ratio(timings, "alone", "together"), differences[name])
            rates[name] = {way: len(queries) / value for way, value in medians(timings).items()}
            seconds[name] = timings
    return {
        "ratios": ratios,
        "queries_per_second": rates,
        "seconds": seconds,
        "about": {
            "callers": options.callers,
            "context_documents": options.context_size,
            "mixed_lengths": list(LENGTHS),
            "texts_from": source,
            "largest_difference_to_asking_alone": differences,
        },
    }


def mixed_queries(encoder: ContextualEncoder, documents: Sequence[str], count: int) -> list[str]:
    """Return queries of several lengths, one after the other of each."""
    each = -(-count // len(LENGTHS))
    columns = [texts_of_length(encoder, documents, tokens, each) for tokens in LENGTHS]
    return [text for row in zip(*columns, strict=True) for text in row][:count]


def ask(
    encoder: ContextualEncoder, queries: Sequence[str], pool: ThreadPoolExecutor | None = None
) -> Callable[[], Vectors]:
    """Return what asks queries one at a time, in this thread or in those of a pool; rows in the order of queries."""
    spread = map if pool is None else pool.map
    return lambda: np.concatenate(list(spread(lambda text: encoder.encode_queries([text]), queries)))


def largest_difference(alone: Vectors, runs: Sequence[Vectors]) -> float:
    """Return how far any run's vectors are from those of the same queries asked alone."""
    return max(float(np.abs(alone - together).max()) for together in runs)


def judged(found: dict[str, Any], difference: float) -> dict[str, Any]:
    """Note a fault beside a ratio if the vectors are not those of asking alone."""
    if difference < LARGEST_DIFFERENCE:
        return found
    return found | {"fault": f"vectors differ by {difference:.1g}"}
