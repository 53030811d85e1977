"""Two-stage gradient caching: peak memory against batch size, and time against the un-cached step.

    python -m benchmarks.gradient_caching BASE --output docs/figures/gradient_caching.json

BASE is a plain encoder; both stages start from it and both are trained. Memory: one process a batch size, the growth of
its peak resident memory over a step, after a warm-up step of one chunk. Time: cached and un-cached step take turns
(A, B, A, B ...) on the same batch; the ratio is the median of the ratios within one turn. The texts are real pairs.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.direct_step import direct_step
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.replacing import write_atomically
from cde_train.data.readers import read_pairs
from cde_train.training.config import StartConfig
from cde_train.training.gradient_caching import Chunking, TwoStageBatch, cached_step
from cde_train.training.start import start_from

TEMPERATURE = 0.02


def make_batch(encoder: ContextualEncoder, pairs: str, size: int, length: int, context: int) -> TwoStageBatch:
    """Return a batch of real pairs, and so many other documents as context."""
    drawn = random.Random(0).sample(read_pairs(pairs), size + context)
    tokenizer = encoder.text_tokenizer(length)
    return TwoStageBatch(
        tokenizer.tokenize([pair.query for pair in drawn[:size]], "query").ids,
        tokenizer.tokenize([pair.document for pair in drawn[:size]], "document").ids,
        tokenizer.tokenize([pair.document for pair in drawn[size:]], "document").ids,
        torch.zeros(size, size, dtype=torch.bool),
    )


def peak_megabytes() -> float:
    """Return the largest resident memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory(options: argparse.Namespace, size: int) -> dict[str, float]:
    """Return the peak of a process that takes steps of one batch size, and its growth over the model's own needs."""
    encoder = start_from(options.base, StartConfig("benchmark"))
    encoder.open_model().requires_grad_(True)
    for parameter in encoder.open_model().parameters():
        parameter.grad = torch.zeros_like(parameter)  # is there in any training
    before = peak_megabytes()
    batch = make_batch(encoder, options.pairs, size, options.length, options.context)
    cached_step(encoder.open_model(), batch, TEMPERATURE, Chunking(encoder.text_tokenizer().pad, options.chunk))
    return {"batch": size, "peak_mb": peak_megabytes(), "step_mb": peak_megabytes() - before}


def measure_time(options: argparse.Namespace) -> dict[str, object]:
    """Return the time of the cached step over that of the un-cached one, fp32 and bf16."""
    encoder = start_from(options.base, StartConfig("benchmark"))
    encoder.open_model().requires_grad_(True)
    batch = make_batch(encoder, options.pairs, options.time_batch, options.length, options.context)
    found: dict[str, object] = {"batch": options.time_batch}
    for name, autocast in (("fp32", None), ("bf16", partial(torch.autocast, "cpu", torch.bfloat16))):
        how = Chunking(encoder.text_tokenizer().pad, options.chunk, *([autocast] if autocast else []))
        ratios, seconds = [], []
        for turn in range(options.repetitions + 1):
            taken = []
            for step in (cached_step, direct_step):
                encoder.open_model().zero_grad(set_to_none=True)
                began = time.perf_counter()
                step(encoder.open_model(), batch, TEMPERATURE, how)
                taken.append(time.perf_counter() - began)
            if turn:  # the first warms up
                ratios.append(taken[0] / taken[1])
                seconds.append(taken)
        found[name] = {"ratio": statistics.median(ratios), "ratios": ratios, "seconds_cached_direct": seconds}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradient_caching", description=__doc__.splitlines()[0])
    parser.add_argument("base")
    parser.add_argument("--pairs", default="../shared/pairs/doc_django.jsonl.gz")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--time-batch", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory_of:
        print(json.dumps(measure_memory(options, options.memory_of)))
        return 0
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = [sys.executable, "-m", "benchmarks.gradient_caching", *given, "--memory-of"]
    memory = [
        json.loads(subprocess.run([*command, str(size)], check=True, capture_output=True, text=True).stdout)
        for size in options.batches
    ]
    settings = {name: value for name, value in vars(options).items() if name not in ("output", "memory_of")}
    found = {"settings": settings, "threads": torch.get_num_threads(), "torch": torch.__version__}
    found |= {"memory": memory, "time": measure_time(options)}
    text = json.dumps(found, indent=1) + "\n"
    print(text)
    if options.output:
        write_atomically(options.output, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
