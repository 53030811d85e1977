"""What embedding in bulk costs: rates of both engines, where the time goes, and what follows for more documents.

    python -m benchmarks.bulk ../shared/eval/*/corpus.jsonl.gz --output docs/bulk.json
    python -m benchmarks.bulk corpus.parquet --checkpoint FOLDER --device cuda --batch-size 256 --workers 0

Documents are drawn from the corpora given. Both engines embed the same ones, under the same context, with one thread a
process; the ray engine on a cluster of this machine. A rate is given by the clock and by processor time: a machine that
does other work disturbs the first much more. Reading, hashing, tokenising and writing are timed alone, by processor
time; the model has the rest. Figures go into the JSON file, tables into the Markdown file beside it, between its two
markers. Takes some minutes.
"""

import argparse
import gzip
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch

from benchmarks.bulk_table import put_between_markers, tables
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.bulk.parts import part_files, write_part
from cde_retriever.bulk.run import embed_corpus
from cde_retriever.bulk.settings import BulkSettings
from cde_retriever.bulk.shards import PartReport
from cde_retriever.context.context import Context
from cde_retriever.corpus.rows import Columns, Document, read_documents
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import TruncationWarning
from cde_retriever.files.hashing import hash_file
from cde_retriever.files.replacing import write_atomically


def processor_seconds(run: Callable[[], object], at_least: float = 2.0) -> float:
    """Return the processor time of a call, the mean of as many as take so many seconds."""
    calls, start = 0, time.process_time()
    while calls == 0 or time.process_time() - start < at_least:
        run()
        calls += 1
    return (time.process_time() - start) / calls


def exhaust(items: Iterable[object]) -> None:
    """Take everything from an iterator and keep nothing."""
    for _ in items:
        pass


def write_corpora(folder: Path, documents: Sequence[Document]) -> tuple[Path, Path]:
    """Write documents as compressed JSONL and as Parquet."""
    rows = [document._asdict() for document in documents]
    lines, parquet = folder / "corpus.jsonl.gz", folder / "corpus.parquet"
    lines.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    return lines, parquet


def time_engine(corpus: Path, output: Path, settings: BulkSettings, context: Context) -> dict[str, Any]:
    """Embed a corpus and return the engine's rates.

    The rate by the clock is that between the first part and the last, so that starting a cluster and loading models,
    which a large corpus does once as well, take no part in it.
    """
    reports: list[PartReport] = []
    times: list[float] = []

    def note(report: PartReport) -> None:
        reports.append(report)
        times.append(time.perf_counter())

    start = time.perf_counter()
    done = embed_corpus(corpus, output, settings, context=context, show_progress=True, on_part=note)
    between = sum(report.documents for report in reports[1:])
    return {
        "documents": done.embedded,
        "processes": len({report.process for report in reports}),
        "seconds_to_first_part": times[0] - start,
        "documents_per_second": between / (times[-1] - times[0]),
        "documents_per_core_second": done.embedded / done.core_seconds,
    }


def rows_of(file: Path) -> Iterable[Document]:
    """Return the documents of a file."""
    return read_documents(file.parent, file.name, Columns())


def time_reading(documents: Sequence[Document], folder: Path) -> dict[str, float]:
    """Return processor seconds a document of reading each format and of hashing."""
    lines, parquet = write_corpora(folder, documents)
    count = len(documents)
    return {
        "reading_jsonl_gz": processor_seconds(lambda: exhaust(rows_of(lines))) / count,
        "reading_parquet": processor_seconds(lambda: exhaust(rows_of(parquet))) / count,
        "hashing": processor_seconds(lambda: hash_file(parquet)) / count,
    }


def time_rest(encoder: ContextualEncoder, sample: Sequence[Document], folder: Path) -> dict[str, float]:
    """Return processor seconds a document of tokenising and of writing."""
    texts, ids = [document.text for document in sample], [document.id for document in sample]
    vectors = np.random.default_rng(0).standard_normal((len(sample), encoder.dimension)).astype(np.float32)
    tokenizer = encoder.text_tokenizer(encoder.config.max_length)
    return {
        "tokenising": processor_seconds(lambda: tokenizer.tokenize(texts, "document")) / len(sample),
        "writing": processor_seconds(lambda: write_part(folder / "part.parquet", ids, vectors, {})) / len(sample),
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Draw documents, time the stages alone, and embed with both engines."""
    documents = [document for file in options.corpora for document in rows_of(file)]
    sample = random.Random(0).sample(documents, min(options.documents, len(documents)))
    encoder = ContextualEncoder.from_pretrained(options.checkpoint, device=options.device, dtype=options.dtype)
    stages = time_reading(documents, folder) | time_rest(encoder, sample, folder)
    context = encoder.fit_context([document.text for document in documents], show_progress=True)
    corpus, _ = write_corpora(folder, sample)
    model = ModelSpec(options.checkpoint, device=options.device, dtype=options.dtype)
    settings = BulkSettings(model, batch_size=options.batch_size, shard_size=options.shard_size)
    load = os.getloadavg()[0]
    engines = {"local": time_engine(corpus, folder / "local", settings, context)}
    if options.workers:
        settings = replace(settings, engine="ray", workers=options.workers)
        engines["ray"] = time_engine(corpus, folder / "ray", settings, context)
    # On an accelerator the processor mostly waits, and what costs is the clock.
    rate = engines["local"]["documents_per_core_second" if encoder.device == "cpu" else "documents_per_second"]
    stages["model"] = 1 / rate - stages["tokenising"] - stages["writing"]
    return {
        "checkpoint": {"name": encoder.config.name, "sha256": encoder.identity.sha256, "dtype": options.dtype},
        "settings": describe(encoder, sample, options),
        "engines": engines,
        "documents_per_unit_second": rate,
        "seconds_a_document": stages,
        "bytes_a_document": {
            "text": sum(len(document.text.encode()) for document in sample) / len(sample),
            "part": sum(file.stat().st_size for file in part_files(folder / "local")) / len(sample),
        },
        "environment": environment(encoder) | {"load_average_before": round(load, 2)},
    }


def describe(encoder: ContextualEncoder, sample: Sequence[Document], options: argparse.Namespace) -> dict[str, Any]:
    """Return what was embedded, lengths in tokens as the model reads them."""
    tokens = encoder.text_tokenizer(encoder.config.max_length).tokenize([d.text for d in sample], "document").ids
    return {
        "documents": len(sample),
        "tokens_mean": round(statistics.mean(map(len, tokens)), 1),
        "tokens_most": encoder.config.max_length,
        "context_documents": encoder.context.size,
        "batch_size": options.batch_size,
        "shard_size": options.shard_size,
        "width": encoder.dimension,
    }


def environment(encoder: ContextualEncoder) -> dict[str, Any]:
    """Return the machine and the versions that decide figures."""
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if encoder.device.startswith("cuda") else encoder.device,
        "cores": os.cpu_count(),
        "load_average_after": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "tokenizers", "pyarrow", "ray")},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the figures and their tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bulk", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path, nargs="+", metavar="CORPUS", help=".jsonl, .jsonl.gz or .parquet file")
    parser.add_argument("--output", type=Path, default=Path("docs/bulk.json"))
    parser.add_argument("--checkpoint", help="folder or Hub id; default: the bundled one")
    parser.add_argument("--documents", type=int, default=3072, help="documents to embed")
    parser.add_argument("--workers", type=int, default=2, help="actors of the ray engine; 0 leaves it out")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shard-size", type=int, default=256, help="small, so that the workers' rates are seen")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    os.environ.setdefault("RAY_worker_niceness", "0")  # else its workers give way to other jobs and ours do not
    warnings.simplefilter("ignore", TruncationWarning)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    write_atomically(options.output, json.dumps(result, indent=1).encode() + b"\n")
    put_between_markers(options.output.with_suffix(".md"), tables(result))
    print(json.dumps(result["engines"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
