"""How cost grows: of a batch of queries with their length, of a context with its size, of a corpus with its size.

For each the exponent b of time = a size^b, by least squares on the logarithms of the medians. Below some size the fixed
cost of a call dominates, so an exponent over all sizes is less than that of large ones.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.performance.context import fitting, setting
from benchmarks.performance.rivals import (
    load_encoder,
    sentence_transformer,
    set_fitted_context,
    untrained_layout,
    write_plain_backbone,
)
from benchmarks.performance.texts import real_documents, texts_of_length, token_ids
from benchmarks.performance.timing import fit_exponent, interleave, medians
from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder

READS = ("context_size", "batch_size", "scaling_repetitions", "token_sizes", "context_sizes", "corpus_sizes")
BACKENDS = ("torch", "onnx")
REFERENCE = "sentence_transformers"
LEAST_DOCUMENTS = 1024
"""Enough to cut the longest queries from."""

Subjects = dict[tuple[str, float], Callable[[], object]]
"""Name of a line and size to what is timed."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time every line at every size, in turns."""
    most = max(*options.corpus_sizes, *options.context_sizes, options.context_size, LEAST_DOCUMENTS)
    documents, source = real_documents(options.eval_folder, most)
    encoders = {name: load_encoder(options.checkpoint, name) for name in BACKENDS}
    with tempfile.TemporaryDirectory() as folder:
        write_plain_backbone(load_encoder(options.checkpoint), Path(folder))
        reference = sentence_transformer(Path(folder), encoders["torch"])
        cached = untrained_layout(Path(folder), encoders["torch"], "cached")
    for encoder in encoders.values():
        set_fitted_context(encoder, documents, options.context_size)
    panels = {
        "tokens": lengths(encoders, reference, documents, options),
        "corpus": corpora(encoders, reference, documents, options),
        "context": contexts({"torch": encoders["torch"], "cached": cached}, documents, options),
    }
    return {
        **{name: lines(subjects, options.scaling_repetitions, f"Scaling: {name}") for name, subjects in panels.items()},
        "about": {
            "queries_a_batch": options.batch_size,
            "context_documents": encoders["onnx"].context.size,
            "texts_from": source,
        },
    }


def lengths(
    encoders: Mapping[str, ContextualEncoder], reference: Any, documents: Sequence[str], options: argparse.Namespace
) -> Subjects:
    """Return batches of queries of each length, as many tokens as they are found to hold."""
    found: Subjects = {}
    size = options.batch_size
    for tokens in options.token_sizes:
        texts = texts_of_length(encoders["torch"], documents, tokens, size)
        rows = token_ids(encoders["torch"], texts)
        mean = round(sum(map(len, rows)) / len(rows), 1)
        for name, encoder in encoders.items():
            found[name, mean] = lambda encoder=encoder, texts=texts: encoder.encode_queries(texts, batch_size=size)
        found[REFERENCE, mean] = lambda texts=texts: reference.encode(texts, batch_size=size, show_progress_bar=False)
    return found


def corpora(
    encoders: Mapping[str, ContextualEncoder], reference: Any, documents: Sequence[str], options: argparse.Namespace
) -> Subjects:
    """Return corpora of each size to embed."""
    found: Subjects = {}
    size = options.batch_size
    for count in options.corpus_sizes:
        texts = list(documents[:count])
        for name, encoder in encoders.items():
            found[name, count] = lambda encoder=encoder, texts=texts: encoder.encode_documents(texts, batch_size=size)
        found[REFERENCE, count] = lambda texts=texts: reference.encode(texts, batch_size=size, show_progress_bar=False)
    return found


def contexts(
    encoders: Mapping[str, ContextualEncoder], documents: Sequence[str], options: argparse.Namespace
) -> Subjects:
    """Return contexts of each size to fit, to set, and to embed queries under."""
    found: Subjects = {}
    queries = texts_of_length(encoders["torch"], documents, 16, options.batch_size)
    for name, encoder in encoders.items():
        for count in options.context_sizes:
            corpus, sized = list(documents[:count]), argparse.Namespace(**{**vars(options), "context_size": count})
            fit = fitting(encoder, corpus, sized)
            context = fit()
            found[f"fit, {name}", count] = fit
            found[f"set, {name}", count] = setting(encoder, context)
            found[f"queries, {name}", count] = under(encoder, context, queries)
    return found


def under(encoder: ContextualEncoder, context: object, queries: Sequence[str]) -> Callable[[], object]:
    """Return what embeds queries under a context, in an encoder of its own over the same weights."""
    assert isinstance(context, Context)
    twin = encoder.fork()
    twin.set_context(context)
    return lambda: twin.encode_queries(queries)


def lines(subjects: Subjects, repetitions: int, label: str) -> dict[str, Any]:
    """Time subjects in turns; return sizes, median seconds and exponent of each line."""
    timings = interleave({f"{name} @ {size}": run for (name, size), run in subjects.items()}, repetitions, label)
    middle = medians(timings)
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for name, _ in subjects):
        sizes = [size for line, size in subjects if line == name]
        seconds = [middle[f"{name} @ {size}"] for size in sizes]
        found[name] = {"sizes": sizes, "seconds": seconds, "exponent": fit_exponent(sizes, seconds)}
    return found
