"""Peak memory of embedding a stream of short documents as `cde embed` does: many against few.

The documents are distinct spans of two to four words. Each corpus is embedded by a process of its own, whose largest
resident memory counts; a run that was interrupted goes on where it was, and the largest over its processes counts.
One run of each, no repetitions: memory hardly varies.
"""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.performance.embed_stream import read_peaks
from benchmarks.performance.rivals import load_encoder
from benchmarks.performance.texts import all_documents, short_documents, token_ids

READS = ("memory_documents",)
ROOT = Path(__file__).parent.parent.parent
MODULE = "benchmarks.performance.embed_stream"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Embed both corpora, and compare the peaks."""
    encoder = load_encoder(options.checkpoint)
    texts, source = all_documents(options.eval_folder)
    few, many = options.memory_documents
    folder = options.work_folder / f"memory-{encoder.identity.sha256[:16]}"
    sample = list(short_documents(texts, min(few, 10_000)))
    lengths = [len(ids) for ids in token_ids(encoder, sample)]
    peaks = {}
    for count in (few, many):
        corpus = folder / f"{count}.jsonl.gz"
        if not corpus.is_file():
            write_corpus(corpus, short_documents(texts, count))
        peaks[count] = embed(corpus, options.checkpoint)
    quotient = peaks[many] / peaks[few]
    shutil.rmtree(folder)  # of the vectors only their memory was wanted
    return {
        "ratios": {"stream": {"median": quotient, "least": quotient, "largest": quotient, "repetitions": 1}},
        "peak_megabytes": {str(count): round(peak, 1) for count, peak in peaks.items()},
        "about": {"document_tokens_mean": round(sum(lengths) / len(lengths), 1), "texts_from": source},
    }


def write_corpus(file: Path, texts: Iterable[str]) -> None:
    """Write documents as compressed JSONL; all or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}")
    with gzip.open(unfinished, "wt", compresslevel=1) as stream:
        for number, text in enumerate(texts):
            stream.write(json.dumps({"id": str(number), "text": text}) + "\n")
    unfinished.replace(file)


def embed(corpus: Path, checkpoint: str | None) -> float:
    """Embed a corpus in a new process, going on where an earlier one stopped; return the most megabytes any had."""
    peaks, output = corpus.with_suffix(".peaks.json"), corpus.with_suffix(".vectors")
    command = [sys.executable, "-m", MODULE, str(corpus), str(output), str(peaks)]
    subprocess.run([*command, *(["--checkpoint", checkpoint] if checkpoint else [])], cwd=ROOT, check=True)
    return max(read_peaks(peaks).values())
