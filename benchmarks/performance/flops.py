"""FLOP of a forward pass beside its time, as a share of the fastest float32 matmul of this machine in the same run.

Counted by PyTorch (`FlopCounterMode`) over the whole call, padding included; ONNX Runtime does the same products, so
its time is put beside the same count. The time is that of the whole call, tokenising and all.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.performance.machine import peak_flops
from benchmarks.performance.rivals import load_encoder, set_fitted_context
from benchmarks.performance.texts import queries_of, real_documents
from benchmarks.performance.timing import interleave, medians
from cde_retriever.encoder.encoder import ContextualEncoder

READS = ("context_size", "batch_size", "repetitions")
BACKENDS = ("torch", "onnx")
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""PyTorch's counter knows the attention kernels of GPUs only."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Count, time in turns, and measure the machine's peak before and after."""
    documents, source = real_documents(options.eval_folder, max(options.context_size, options.batch_size))
    encoders = {name: load_encoder(options.checkpoint, name) for name in BACKENDS}
    for encoder in encoders.values():
        set_fitted_context(encoder, documents, options.context_size)
    batch = documents[: options.batch_size]
    query = queries_of(encoders["torch"], documents, 1)
    peak = peak_flops()
    subjects: dict[str, Callable[[], object]] = {}
    for name, encoder in encoders.items():
        subjects[f"documents, {name}"] = lambda e=encoder: e.encode_documents(batch, batch_size=len(batch))
        subjects[f"query, {name}"] = lambda e=encoder: e.encode_queries(query)
    seconds = medians(interleave(subjects, options.repetitions, "FLOP"))
    peak = max(peak, peak_flops())
    count = {
        "documents": count_flops(encoders["torch"], subjects["documents, torch"]),
        "query": count_flops(encoders["torch"], subjects["query, torch"]),
    }
    rows = {}
    for name, taken in seconds.items():
        work = count[name.partition(",")[0]]
        rows[name] = {"flop": work, "seconds": taken, "flops": work / taken, "share_of_peak": work / taken / peak}
    return {
        "rows": rows,
        "peak_flops": peak,
        "about": {"documents_a_batch": len(batch), "context_documents": options.context_size, "texts_from": source},
    }


def count_flops(encoder: ContextualEncoder, run: Callable[[], object]) -> int:
    """Return the FLOP of the matrix products and attention in a call of an encoder, which runs more slowly afterwards.

    PyTorch's counter does not know packed layers, so the encoder is made to do without.
    """
    _ = encoder.open_model()
    counter = FlopCounterMode(display=False, custom_mapping={CPU_ATTENTION: attention_flop})
    with counter:
        run()
    return counter.get_total_flops()


def attention_flop(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    """Return the FLOP of attention, from the shapes of its inputs."""
    return int(sdpa_flop_count(query, key, value))
