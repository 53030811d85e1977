"""One query at a time: each backend against sentence-transformers, and the `joint` layout against ours.

The queries hold sixteen tokens. `joint` and `cached` are the same backbone under those layouts, untrained, with the
same context documents; `joint`, which is slow, gets a quarter of the queries.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.performance.rivals import (
    BACKENDS,
    check_equal,
    load_encoder,
    sentence_transformer,
    untrained_layout,
    write_plain_backbone,
)
from benchmarks.performance.texts import queries_of, real_documents, token_ids
from benchmarks.performance.timing import interleave, medians, per_text, ratio
from cde_retriever.encoder.encoder import ContextualEncoder

READS = ("context_size", "queries", "repetitions")
REFERENCE, REFERENCE_BF16 = "sentence_transformers", "sentence_transformers_bf16"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build all sides from the same weights and time them in turns."""
    corpus, source = real_documents(options.eval_folder, options.context_size)
    with tempfile.TemporaryDirectory() as folder:
        encoders, references, difference = build(options, Path(folder), corpus)
        for encoder in encoders.values():
            encoder.fit_context(corpus, context_size=options.context_size)
        ours = encoders["torch"]
        queries = queries_of(ours, corpus, options.queries)
        fewer = queries[: max(1, len(queries) // 4)]
        texts = {name: fewer if name.startswith("joint") else queries for name in (*encoders, *references)}
        subjects = {name: one_by_one(encoder.encode_queries, texts[name]) for name, encoder in encoders.items()}
        subjects |= {name: one_by_one(reference.encode, queries) for name, reference in references.items()}
        counts = {name: len(found) for name, found in texts.items()}
        timings = per_text(interleave(subjects, options.repetitions, "Queries"), counts)
    lengths = [len(ids) for ids in token_ids(ours, queries, "query")]
    return {
        "ratios": {
            **{name: ratio(timings, name, REFERENCE) for name in (*BACKENDS, "cached")},
            "torch_bf16": ratio(timings, "torch_bf16", REFERENCE_BF16),
            "joint": ratio(timings, "joint", "torch"),
            "joint_onnx": ratio(timings, "joint_onnx", "onnx"),
        },
        "milliseconds_a_query": {name: 1000 * value for name, value in medians(timings).items()},
        "seconds": timings,
        "about": {
            "context_documents": ours.context.size,
            "queries": len(queries),
            "query_tokens_mean": sum(lengths) / len(lengths),
            "texts_from": source,
            "largest_difference_of_plain_vectors": difference,
        },
    }


def build(
    options: argparse.Namespace, folder: Path, texts: Sequence[str]
) -> tuple[dict[str, ContextualEncoder], dict[str, Any], dict[str, float]]:
    """Return our encoders and sentence-transformers by name, and how far its plain vectors are from ours."""
    encoders = {name: load_encoder(options.checkpoint, name) for name in BACKENDS}
    plain = folder / "plain"
    write_plain_backbone(load_encoder(options.checkpoint), plain)
    for layout in ("cached", "joint"):
        encoders[layout] = untrained_layout(plain, encoders["torch"], layout)
    encoders["joint_onnx"] = load_encoder(plain / "joint", "onnx")
    dtypes = {REFERENCE: torch.float32, REFERENCE_BF16: torch.bfloat16}
    references = {name: sentence_transformer(plain, encoders["torch"], dtype) for name, dtype in dtypes.items()}
    difference = check_equal(encoders["torch"], texts[:32], {REFERENCE: references[REFERENCE].encode})
    return encoders, references, difference


def one_by_one(embed: Callable[[list[str]], object], texts: Sequence[str]) -> Callable[[], object]:
    """Return what embeds queries one at a time."""
    return lambda: [embed([text]) for text in texts]
