"""Documents of real lengths in batches: each backend against sentence-transformers and fastembed.

Each repetition takes the next part of the documents, so that ten thousand are embedded once by every side and there are
still ratios enough for a median. The plain vectors of all sides are compared first. fastembed takes documents in the
order they come; it is timed in batches of our size, and in its own default of 256. It runs in this process, with as
many threads as we have.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
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
    set_fitted_context,
    write_plain_backbone,
)
from benchmarks.performance.texts import real_documents, token_ids
from benchmarks.performance.timing import interleave, ratio
from cde_retriever.encoder.encoder import ContextualEncoder

READS = ("context_size", "documents", "batch_size", "repetitions")
REFERENCE, REFERENCE_BF16, FASTEMBED = "sentence_transformers", "sentence_transformers_bf16", "fastembed"
FASTEMBED_BATCH = 256


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build all sides from the same weights, compare their plain vectors, and time them in turns."""
    texts, source = real_documents(options.eval_folder, max(options.documents, options.context_size))
    documents, size = texts[: options.documents], options.batch_size
    encoders = {name: load_encoder(options.checkpoint, name) for name in BACKENDS}
    with tempfile.TemporaryDirectory() as folder:
        reference, in_bf16, rival = build_rivals(load_encoder(options.checkpoint), Path(folder))
        rivals = {REFERENCE: reference.encode, FASTEMBED: lambda found: embed_fast(rival, found, size)}
        difference = check_equal(encoders["torch"], documents[:64], rivals)
        for encoder in encoders.values():
            set_fitted_context(encoder, texts, options.context_size)
        sides = {name: embedding(encoder, size) for name, encoder in encoders.items()} | {
            REFERENCE: lambda found: reference.encode(found, batch_size=size),
            REFERENCE_BF16: lambda found: in_bf16.encode(found, batch_size=size),
            FASTEMBED: lambda found: embed_fast(rival, found, size),
            "fastembed_default": lambda found: embed_fast(rival, found, FASTEMBED_BATCH),
        }
        parts = split(documents, options.repetitions)
        subjects = {name: part_by_part(embed, parts) for name, embed in sides.items()}
        timings = interleave(subjects, options.repetitions, "Documents")
    lengths = [len(ids) for ids in token_ids(encoders["torch"], documents)]
    return {
        # Of throughputs, which is theirs over ours of times.
        "ratios": {
            **{name: ratio(timings, REFERENCE, name) for name in BACKENDS},
            "torch_bf16": ratio(timings, REFERENCE_BF16, "torch_bf16"),
            "onnx_to_fastembed": ratio(timings, FASTEMBED, "onnx"),
            "onnx_to_fastembed_default": ratio(timings, "fastembed_default", "onnx"),
        },
        "documents_per_second": {name: len(documents) / sum(seconds) for name, seconds in timings.items()},
        "seconds": timings,
        "about": {
            "documents": len(documents),
            "parts": len(parts),
            "document_tokens_mean": round(statistics.mean(lengths), 1),
            "document_tokens_median": statistics.median(lengths),
            "tokens_most": encoders["torch"].config.max_length,
            "batch_size": size,
            "context_documents": encoders["torch"].context.size,
            "texts_from": source,
            "largest_difference_of_plain_vectors": difference,
        },
    }


def build_rivals(encoder: ContextualEncoder, folder: Path) -> tuple[Any, Any, Any]:
    """Return sentence-transformers, the same in bf16, and fastembed, on the backbone of an encoder not measured."""
    write_plain_backbone(encoder, folder)
    export_plain_backbone(folder)
    plain, low = (sentence_transformer(folder, encoder, dtype) for dtype in (torch.float32, torch.bfloat16))
    return plain, low, fastembed_model(folder, encoder, torch.get_num_threads())


def embed_fast(model: Any, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
    """Embed with fastembed, in this process."""
    return np.stack(list(model.embed(list(texts), batch_size=batch_size)))


def embedding(encoder: ContextualEncoder, batch_size: int) -> Callable[[Sequence[str]], object]:
    """Return what embeds documents in batches."""
    return lambda documents: encoder.encode_documents(documents, batch_size=batch_size)


def split(documents: Sequence[str], parts: int) -> list[list[str]]:
    """Return the documents in parts of about the same size.

    Raises:
        ValueError: if there are fewer documents than parts.
    """
    if len(documents) < parts:
        raise ValueError(f"{len(documents)} documents cannot be split into {parts} parts; ask for fewer repetitions")
    bounds = [len(documents) * part // parts for part in range(parts + 1)]
    return [list(documents[start:end]) for start, end in itertools.pairwise(bounds)]


def part_by_part(embed: Callable[[Sequence[str]], object], parts: Sequence[Sequence[str]]) -> Callable[[], object]:
    """Return what embeds the next part at each call, and after the last the first again."""
    turns = itertools.cycle(parts)
    return lambda: embed(next(turns))
