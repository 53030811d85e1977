"""Where the time of embedding documents goes, on PyTorch: operators, and what is outside the model.

Operators by PyTorch's profiler, by the processor time they take themselves. What is outside the model is measured
without the profiler, which slows what it watches: the clock of the whole call less that of the model's forward passes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.performance.rivals import load_encoder, set_fitted_context
from benchmarks.performance.texts import real_documents
from cde_retriever.backends.pytorch import TorchBackend

READS = ("context_size", "batch_size", "repetitions")
DOCUMENTS = 256
OPERATORS = 5


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Embed documents plainly watched, then under the profiler."""
    documents, source = real_documents(options.eval_folder, max(DOCUMENTS, options.context_size))
    encoder = load_encoder(options.checkpoint)
    set_fitted_context(encoder, documents, options.context_size)
    texts = documents[: min(DOCUMENTS, 8 * options.batch_size)]

    def embed() -> object:
        return encoder.encode_documents(texts, batch_size=options.batch_size)

    embed()
    assert isinstance(encoder.backend, TorchBackend)
    rounds = [time_parts(embed, encoder.backend.running.second_stage) for _ in range(options.repetitions)]
    tokenising, tokenizer = [], encoder.text_tokenizer(encoder.config.max_length)
    for _ in range(options.repetitions):
        start = time.perf_counter()
        tokenizer.tokenize(texts, "document")
        tokenising.append(time.perf_counter() - start)
    return {
        "operators": slowest_operators(embed),
        "share_outside_the_model": statistics.median(1 - model / whole for whole, model in rounds),
        "share_of_tokenising": statistics.median(tokenising) / statistics.median(whole for whole, _ in rounds),
        "seconds": statistics.median(whole for whole, _ in rounds),
        "about": {"documents": len(texts), "batch_size": options.batch_size, "texts_from": source},
    }


def time_parts(embed: Callable[[], object], model: nn.Module) -> tuple[float, float]:
    """Return the seconds of a call, and those that a module's forward passes took of it."""
    inside, began = 0.0, 0.0

    def enter(*_: object) -> None:
        nonlocal began
        began = time.perf_counter()

    def leave(*_: object) -> None:
        nonlocal inside
        inside += time.perf_counter() - began

    hooks = [model.register_forward_pre_hook(enter), model.register_forward_hook(leave)]
    start = time.perf_counter()
    embed()
    whole = time.perf_counter() - start
    for hook in hooks:
        hook.remove()
    return whole, inside


def slowest_operators(run: Callable[[], object]) -> list[dict[str, Any]]:
    """Return the operators that take most processor time themselves: name, calls, share of all operators' time."""
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        run()
    found = watched.key_averages()
    whole = sum(event.self_cpu_time_total for event in found)
    slowest = sorted(found, key=lambda event: -event.self_cpu_time_total)[:OPERATORS]
    return [
        {"operator": event.key, "calls": event.count, "share": event.self_cpu_time_total / whole} for event in slowest
    ]
