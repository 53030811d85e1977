"""Speed of a checkpoint against sentence-transformers with the same backbone, as ratios in one run.

    python -m benchmarks.speed --output docs/performance.json
    python -m benchmarks.speed --checkpoint FOLDER --dtype bfloat16 --repetitions 9

Both sides hold the same weights, cut texts at the same length, run in one process with the same threads, and take turns
(A, B, A, B ...), so a busy machine slows both. A ratio is the median over repetitions of the ratio within one
repetition. Measured: a query at a time; documents in batches; setting a context; and, for comparison, a query under the
``joint`` layout. Beside the JSON a Markdown table is written. Takes minutes on two cores.
"""

import argparse
import ast
import json
import os
import platform
import random
import statistics
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from benchmarks.speed_table import table
from cde_retriever.context import write_atomically
from cde_retriever.encoder import ContextualEncoder
from cde_retriever.tokenization import TextTokenizer
from cde_train.evaluation import find_retrieval_sets, read_retrieval_set
from cde_train.initialization import start_from
from cde_train.train_config import StartConfig

QUERY_TOKENS = 16
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 3e-3}
OURS, REFERENCE, PLAIN, JOINT = "contextual", "sentence_transformers", "first_stage", "joint"

Timings = dict[str, list[float]]
"""What was timed to its seconds, one number a repetition."""


def interleave(subjects: dict[str, Callable[[], object]], repetitions: int, label: str) -> Timings:
    """Time things in turns, after one round of warm-up."""
    timings: Timings = {name: [] for name in subjects}
    for repetition in tqdm(range(repetitions + 1), desc=label, unit="round"):
        for name, run in subjects.items():
            start = time.perf_counter()
            run()
            if repetition > 0:
                timings[name].append(time.perf_counter() - start)
    return timings


def ratio(timings: Timings, ours: str, reference: str) -> dict[str, float]:
    """Return the median, least and largest ratio of two subjects within one repetition."""
    ratios = [a / b for a, b in zip(timings[ours], timings[reference], strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "largest": max(ratios)}


def write_plain_backbone(encoder: ContextualEncoder, folder: Path) -> None:
    """Write the encoder's first stage as a `transformers` folder."""
    encoder.model.first_stage.backbone.save_pretrained(folder)
    pad = encoder.tokenizer.id_to_token(int(encoder.config.first_stage.get("pad_token_id") or 0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=encoder.tokenizer, pad_token=pad)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)


def sentence_transformer(folder: Path, encoder: ContextualEncoder, dtype: str) -> Any:
    """Build a sentence-transformers model from a plain backbone: mean pooling, unit length."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(
        str(folder), model_kwargs={"dtype": getattr(torch, dtype)}, max_seq_length=encoder.config.max_length
    )
    pooling = Pooling(int(encoder.config.first_stage["hidden_size"]), "mean")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device=str(encoder.device)).eval()


def check_equal(encoder: ContextualEncoder, reference: Any, texts: Sequence[str], dtype: str) -> float:
    """Return the largest difference between both sides' plain vectors.

    Raises:
        RuntimeError: if it is larger than rounding explains; the comparison would mean nothing.
    """
    difference = float(np.abs(encoder.encode_first_stage(texts) - reference.encode(list(texts))).max())
    if difference > TOLERANCE[dtype]:
        raise RuntimeError(f"both sides' plain vectors differ by {difference:.2g}, more than {TOLERANCE[dtype]}")
    return difference


def real_documents(folder: Path, count: int, seed: int = 0) -> tuple[list[str], str]:
    """Draw documents of the retrieval sets in a folder, or else of the standard library's docstrings."""
    if folder.is_dir():
        texts = [text for path in find_retrieval_sets(folder) for text in read_retrieval_set(path).documents if text]
        source = f"{folder.name}: documents of {len(find_retrieval_sets(folder))} retrieval sets"
    else:
        texts, source = sorted(set(docstrings())), "docstrings of the Python standard library"
    return random.Random(seed).sample(texts, min(count, len(texts))), source


def docstrings() -> list[str]:
    """Return the docstrings of the standard library, read without importing it."""
    found = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found.append(ast.get_docstring(node) or "")
    return [text for text in found if text.strip()]


def token_ids(encoder: ContextualEncoder, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids the encoder reads, special tokens included, without padding."""
    config = encoder.config
    tokenizer = TextTokenizer(encoder.tokenizer, prompts=config.prompts, max_length=config.max_length, pad_token_id=0)
    return tokenizer.tokenize(texts, "document").ids


def queries_of(encoder: ContextualEncoder, documents: Sequence[str], count: int) -> list[str]:
    """Cut queries of about sixteen tokens, special tokens included, from the beginnings of documents."""
    rows = [ids for ids in token_ids(encoder, documents) if len(ids) >= QUERY_TOKENS]
    return [encoder.tokenizer.decode(ids[1 : QUERY_TOKENS - 1]) for ids in rows[:count]]


@dataclass
class Sides:
    """What is compared, and on which texts.

    Attributes:
        encoder: The checkpoint, under a context.
        reference: sentence-transformers with the checkpoint's plain backbone.
        joint: The same backbone under the ``joint`` layout, untrained, under the same context documents.
        corpus: As many documents as the context holds.
        documents: Documents to embed.
        queries: Queries to embed, about sixteen tokens each.
    """

    encoder: ContextualEncoder
    reference: Any
    joint: ContextualEncoder
    corpus: list[str]
    documents: list[str]
    queries: list[str]

    def embed_plainly(self, texts: Sequence[str], batch_size: int = 32) -> object:
        """Embed with the reference."""
        return self.reference.encode(list(texts), batch_size=batch_size, show_progress_bar=False)


def build(options: argparse.Namespace, folder: Path) -> tuple[Sides, str]:
    """Build both sides from the same weights; return them and where the documents come from."""
    encoder = ContextualEncoder.from_pretrained(options.checkpoint, dtype=options.dtype, device=options.device)
    write_plain_backbone(encoder, folder)
    joint = start_from(folder, StartConfig("joint", context_attention="joint", max_length=encoder.config.max_length))
    joint.model.to(device=encoder.device, dtype=getattr(torch, options.dtype))
    corpus, source = real_documents(options.eval_folder, options.context_size)
    reference = sentence_transformer(folder, encoder, options.dtype)
    queries = queries_of(encoder, corpus, options.queries)
    sides = Sides(encoder, reference, joint, corpus, corpus[: options.documents], queries)
    for contextual in (encoder, joint):
        contextual.fit_context(corpus, context_size=options.context_size)
    return sides, source


def time_queries(sides: Sides, repetitions: int) -> Timings:
    """Time queries one at a time; seconds a query. The slow joint layout gets a quarter of them."""
    fewer = sides.queries[: max(1, len(sides.queries) // 4)]
    timings = interleave(
        {
            OURS: lambda: [sides.encoder.encode_queries([text]) for text in sides.queries],
            REFERENCE: lambda: [sides.embed_plainly([text]) for text in sides.queries],
            PLAIN: lambda: [sides.encoder.encode_first_stage([text]) for text in sides.queries],
            JOINT: lambda: [sides.joint.encode_queries([text]) for text in fewer],
        },
        repetitions,
        "Queries",
    )
    counts = {name: len(fewer if name == JOINT else sides.queries) for name in timings}
    return {name: [value / counts[name] for value in seconds] for name, seconds in timings.items()}


def time_documents(sides: Sides, repetitions: int, batch_size: int) -> Timings:
    """Time all documents in batches; seconds a pass."""
    return interleave(
        {
            OURS: lambda: sides.encoder.encode_documents(sides.documents, batch_size=batch_size),
            REFERENCE: lambda: sides.embed_plainly(sides.documents, batch_size),
            PLAIN: lambda: sides.encoder.encode_first_stage(sides.documents, batch_size=batch_size),
        },
        repetitions,
        "Documents",
    )


def time_context(sides: Sides, repetitions: int, batch_size: int) -> Timings:
    """Time setting a fitted context, and embedding as many documents plainly; seconds."""
    context = sides.encoder.context
    return interleave(
        {
            "set_context": lambda: sides.encoder.set_context(context),
            "embed_plainly": lambda: sides.embed_plainly(sides.corpus, batch_size),
        },
        repetitions,
        "Context",
    )


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Build both sides, check that they are equal, and time them."""
    sides, source = build(options, folder)
    texts = [*sides.documents[:32], *sides.queries]
    difference = check_equal(sides.encoder, sides.reference, texts, options.dtype)
    query = time_queries(sides, options.repetitions)
    batch = time_documents(sides, options.repetitions, options.batch_size)
    setting = time_context(sides, options.repetitions, options.batch_size)
    encoder = sides.encoder
    return {
        "checkpoint": {"name": encoder.config.name, "sha256": encoder.identity.sha256, "dtype": options.dtype},
        "settings": {**settings(sides, options), "documents_from": source, "largest_difference": difference},
        "query_milliseconds": {name: 1000 * statistics.median(s) for name, s in query.items()},
        "documents_per_second": {name: len(sides.documents) / statistics.median(s) for name, s in batch.items()},
        "context_seconds": {name: statistics.median(s) for name, s in setting.items()},
        "ratios": {
            "query": ratio(query, OURS, REFERENCE),
            "documents": ratio(batch, OURS, REFERENCE),
            "query_to_own_first_stage": ratio(query, OURS, PLAIN),
            "documents_to_own_first_stage": ratio(batch, OURS, PLAIN),
            "joint_query": ratio(query, JOINT, REFERENCE),
            "set_context_to_embedding_it": ratio(setting, "set_context", "embed_plainly"),
        },
        "seconds": {"query": query, "documents": batch, "context": setting},
        "environment": environment(encoder),
    }


def settings(sides: Sides, options: argparse.Namespace) -> dict[str, Any]:
    """Return what was timed, lengths in tokens."""
    lengths = [len(ids) for ids in token_ids(sides.encoder, sides.documents)]
    return {
        "context_documents": sides.encoder.context.size,
        "documents": len(sides.documents),
        "document_tokens_mean": statistics.mean(lengths),
        "document_tokens_median": statistics.median(lengths),
        "batch_size": options.batch_size,
        "queries": len(sides.queries),
        "query_tokens_mean": statistics.mean(map(len, token_ids(sides.encoder, sides.queries))),
        "repetitions": options.repetitions,
    }


def environment(encoder: ContextualEncoder) -> dict[str, Any]:
    """Return the machine, its threads and the versions that decide figures."""
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if encoder.device.type == "cuda" else encoder.device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_at_end": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "tokenizers", "sentence-transformers")},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the figures and their table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", help="folder or Hub id; default: the bundled one")
    parser.add_argument("--output", type=Path, default=Path("docs/performance.json"))
    parser.add_argument("--eval-folder", type=Path, default=Path("../shared/eval"), help="where documents come from")
    parser.add_argument("--dtype", default="float32", choices=TOLERANCE)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: as torch decides")
    parser.add_argument("--context-size", type=int, default=512)
    parser.add_argument("--documents", type=int, default=256, help="at most the context size")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message=".*tokens and were cut")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(result, indent=1).encode() + b"\n")
    options.output.chmod(0o644)
    options.output.with_suffix(".md").write_text(table(result))
    print(json.dumps(result["ratios"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
