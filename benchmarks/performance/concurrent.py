"""Many callers at once, each asking one query at a time, against the same queries one after the other.

The queries are of 8 to 24 tokens, mixed, 16 in the mean. The threads are there before the clock starts. Every vector is
compared with that of the same query asked alone; a caller that got another's vector, or one that its company changed,
shows as a difference.
"""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.performance.rivals import BACKENDS, load_encoder
from benchmarks.performance.texts import real_documents, texts_of_length, token_ids
from benchmarks.performance.timing import interleave, medians, ratio
from cde_retriever.encoder import ContextualEncoder

READS = ("context_size", "callers", "concurrent_queries", "repetitions")
LARGEST_DIFFERENCE = 1e-5
LENGTHS = (8, 12, 16, 20, 24)

Vectors = NDArray[np.float32]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time both ways of asking in turns, on each backend, and compare the vectors."""
    corpus, source = real_documents(options.eval_folder, max(options.concurrent_queries, options.context_size))
    ratios, rates, seconds, differences = {}, {}, {}, {}
    queries: list[str] = []
    for name in BACKENDS:
        encoder = load_encoder(options.checkpoint, name)
        encoder.fit_context(corpus[: options.context_size], context_size=options.context_size)
        queries = queries or mixed_queries(encoder, corpus, options.concurrent_queries)
        with ThreadPoolExecutor(options.callers) as pool:
            alone, together = ask(encoder, queries), ask(encoder, queries, pool)
            timings = interleave(
                {"alone": alone, "together": together}, options.repetitions, f"{options.callers} callers, {name}"
            )
            differences[name] = largest_difference(alone(), [together() for _ in range(3)])
        ratios[name] = judged(ratio(timings, "alone", "together"), differences[name])
        rates[name] = {way: len(queries) / value for way, value in medians(timings).items()}
        seconds[name] = timings
    lengths = [len(ids) for ids in token_ids(encoder, queries, "query")]
    return {
        "ratios": ratios,
        "queries_per_second": rates,
        "seconds": seconds,
        "about": {
            "callers": options.callers,
            "queries": len(queries),
            "query_tokens_mean": round(sum(lengths) / len(lengths), 1),
            "query_tokens_most": max(lengths),
            "context_documents": options.context_size,
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
