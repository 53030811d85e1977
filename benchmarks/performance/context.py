"""Setting a context: fitting one to as many documents as it holds, and setting one that was fitted.

Both against plainly embedding as many documents with sentence-transformers. What a layout does to fit differs: the
bundled checkpoint counts words; `cached`, here untrained, embeds the documents and makes keys and values of them.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.performance.rivals import (
    SERVING_BACKENDS,
    load_encoder,
    sentence_transformer,
    untrained_layout,
    write_plain_backbone,
)
from benchmarks.performance.texts import real_documents
from benchmarks.performance.timing import Timings, interleave, medians, ratio
from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder

READS = ("context_size", "batch_size", "repetitions")
REFERENCE = "sentence_transformers"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build both sides and time them in turns."""
    corpus, source = real_documents(options.eval_folder, options.context_size)
    encoders = {name: load_encoder(options.checkpoint, name) for name in SERVING_BACKENDS}
    with tempfile.TemporaryDirectory() as folder:
        write_plain_backbone(load_encoder(options.checkpoint), Path(folder))
        encoders["cached"] = untrained_layout(Path(folder), encoders["torch"], "cached")
        reference = sentence_transformer(Path(folder), encoders["torch"])
        subjects: dict[str, Callable[[], object]] = {}
        for name, encoder in encoders.items():
            subjects[f"fit_{name}"] = fitting(encoder, corpus, options)
            subjects[f"set_{name}"] = setting(encoder, subjects[f"fit_{name}"]())
        subjects[REFERENCE] = lambda: reference.encode(corpus, batch_size=options.batch_size, show_progress_bar=False)
        timings: Timings = interleave(subjects, options.repetitions, "Context")
    return {
        "ratios": {name: ratio(timings, name, REFERENCE) for name in subjects if name != REFERENCE},
        "milliseconds": {name: 1000 * value for name, value in medians(timings).items()},
        "seconds": timings,
        "about": {"context_documents": len(corpus), "texts_from": source},
    }


def fitting(encoder: ContextualEncoder, corpus: list[str], options: argparse.Namespace) -> Callable[[], object]:
    """Return what fits a context to all documents of a corpus, each time in an encoder that keeps no vectors yet."""
    size, batch = options.context_size, options.batch_size
    return lambda: encoder.fork().fit_context(corpus, context_size=size, batch_size=batch)


def setting(encoder: ContextualEncoder, context: object) -> Callable[[], object]:
    """Return what sets a fitted context."""
    assert isinstance(context, Context)
    return lambda: encoder.set_context(context)
