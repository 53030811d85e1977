"""Documents of real lengths in batches: each backend against sentence-transformers and fastembed.

The plain vectors of all sides are compared first. fastembed takes documents in the order they come; it is timed in
batches of our size, and in its own default of 256. It runs in this process, with as many threads as we have.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.performance.rivals import (
    BACKENDS,
    check_equal,
    export_plain_backbone,
    fastembed_model,
    load_encoder,
    sentence_transformer,
    write_plain_backbone,
)
from benchmarks.performance.texts import real_documents, token_ids
from benchmarks.performance.timing import interleave, medians, ratio
from cde_retriever.encoder import ContextualEncoder

READS = ("context_size", "documents", "batch_size", "repetitions")
REFERENCE, FASTEMBED = "sentence_transformers", "fastembed"
FASTEMBED_BATCH = 256


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build all sides from the same weights, compare their plain vectors, and time them in turns."""
    texts, source = real_documents(options.eval_folder, max(options.documents, options.context_size))
    documents, size = texts[: options.documents], options.batch_size
    encoders = {name: load_encoder(options.checkpoint, name) for name in BACKENDS}
    with tempfile.TemporaryDirectory() as folder:
        reference, rival = build_rivals(load_encoder(options.checkpoint), Path(folder))
        rivals = {REFERENCE: reference.encode, FASTEMBED: lambda found: embed_fast(rival, found, size)}
        difference = check_equal(encoders["torch"], documents[:64], rivals)
        for encoder in encoders.values():
            encoder.fit_context(texts[: options.context_size], context_size=options.context_size)
        subjects = {name: embedding(encoder, documents, size) for name, encoder in encoders.items()} | {
            REFERENCE: lambda: reference.encode(documents, batch_size=size, show_progress_bar=False),
            FASTEMBED: lambda: embed_fast(rival, documents, size),
            "fastembed_default": lambda: embed_fast(rival, documents, FASTEMBED_BATCH),
        }
        timings = interleave(subjects, options.repetitions, "Documents")
    lengths = [len(ids) for ids in token_ids(encoders["torch"], documents)]
    return {
        # Of throughputs, which is theirs over ours of times.
        "ratios": {
            **{name: ratio(timings, REFERENCE, name) for name in BACKENDS},
            "onnx_to_fastembed": ratio(timings, FASTEMBED, "onnx"),
            "onnx_to_fastembed_default": ratio(timings, "fastembed_default", "onnx"),
        },
        "documents_per_second": {name: len(documents) / value for name, value in medians(timings).items()},
        "seconds": timings,
        "about": {
            "documents": len(documents),
            "document_tokens_mean": round(statistics.mean(lengths), 1),
            "document_tokens_median": statistics.median(lengths),
            "tokens_most": encoders["torch"].config.max_length,
            "batch_size": size,
            "context_documents": encoders["torch"].context.size,
            "texts_from": source,
            "largest_difference_of_plain_vectors": difference,
        },
    }


def build_rivals(encoder: ContextualEncoder, folder: Path) -> tuple[Any, Any]:
    """Return sentence-transformers and fastembed with the plain backbone of an encoder that is not measured."""
    write_plain_backbone(encoder, folder)
    export_plain_backbone(folder)
    return sentence_transformer(folder, encoder), fastembed_model(folder, encoder, torch.get_num_threads())


def embed_fast(model: Any, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
    """Embed with fastembed, in this process."""
    return np.stack(list(model.embed(list(texts), batch_size=batch_size)))


def embedding(encoder: ContextualEncoder, documents: Sequence[str], batch_size: int) -> Any:
    """Return what embeds documents in batches."""
    return lambda: encoder.encode_documents(documents, batch_size=batch_size)
