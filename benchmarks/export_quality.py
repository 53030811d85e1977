"""What 8-bit weights cost in retrieval quality: an export of a checkpoint against what PyTorch gave.

    python -m benchmarks.export_quality ../shared/eval --dtype int8 --output docs/figures/int8_quality.json
    python -m benchmarks.export_quality ../shared/eval --backend openvino
        --output docs/figures/int8_quality_openvino.json

Every set of the folder is embedded whole under its own context (the checkpoint's context size, seed 0), documents and
queries in the export's precision, and compared with the figures of the same checkpoint and seed in ``--reference``
(docs/figures/quality.json, PyTorch in bfloat16). Sets that are done stay done when the command is interrupted. A
Markdown table is written beside the JSON.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept_vectors import SEED, kept_vectors
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.replacing import write_atomically
from cde_train.data.retrieval_sets import RetrievalSet, find_retrieval_sets, read_retrieval_set
from cde_train.evaluation.ranking import measure, rank

RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
TARGET = 0.3
"""Most points of nDCG@10 x 100 that the mean may lose (issue 5)."""


def reference_figures(file: Path, sha256: str) -> dict[str, float]:
    """Return nDCG@10 of each set under its own context with seed 0.

    Raises:
        ValueError: if the file has none of this checkpoint.
    """
    rows = json.loads(file.read_text())["results"]
    found = {
        row["set"]: row["ndcg_at_10"]
        for row in rows
        if (row["mode"], row["seed"], row["model"]) == ("corpus", SEED, sha256) and row.get("size") is None
    }
    if not found:
        raise ValueError(f"{file} has no figures of checkpoint {sha256[:12]} under its own context with seed {SEED}")
    return found


def evaluate(encoder: ContextualEncoder, data: RetrievalSet, dtype: str, cache: Path) -> dict[str, float]:
    """Return nDCG@10, recall@100 and MRR@10 of a set under its own context."""
    documents, queries = kept_vectors(encoder, data, dtype, cache)
    return measure(data, rank(queries, documents)).means()


def table(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        f"# {result['dtype']} on {RUNTIMES[result['backend']]} against {result['reference']['dtype']}",
        "",
        f"nDCG@10 x 100 of `{result['checkpoint']}` ({result['sha256'][:12]}) under each corpus's own context, seed "
        f"{SEED}: {RUNTIMES[result['backend']]} {result['version']} with {result['dtype']} weights, documents and "
        f"queries, against PyTorch in {result['reference']['dtype']}. Written by "
        "`python -m benchmarks.export_quality`, do not edit.",
        "",
        f"| set | {result['reference']['dtype']} | {result['dtype']} | difference |",
        "|---|--:|--:|--:|",
    ]
    rows = [*result["sets"].items(), ("mean", result["mean"])]
    for name, row in rows:
        before, after = 100 * row["reference"], 100 * row["ndcg_at_10"]
        lines.append(f"| {name} | {before:.2f} | {after:.2f} | {after - before:+.2f} |")
    loss = 100 * (result["mean"]["reference"] - result["mean"]["ndcg_at_10"])
    met = "met" if loss <= TARGET else "not met"
    lines += ["", f"Target: the mean loses at most {TARGET}. It loses {loss:.2f}: {met}.", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing; write figures and page once every set is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export_quality", description=__doc__.splitlines()[0])
    parser.add_argument("eval_folder", type=Path)
    parser.add_argument("--checkpoint", help="folder or Hub id; default: the bundled one")
    parser.add_argument("--backend", default="onnx", choices=RUNTIMES)
    parser.add_argument("--dtype", default="int8", choices=("float32", "int8"))
    parser.add_argument("--reference", type=Path, default=Path("docs/figures/quality.json"))
    parser.add_argument("--output", type=Path, default=Path("docs/figures/int8_quality.json"))
    parser.add_argument("--cache", type=Path, default=Path("runs/onnx_cache"))
    options = parser.parse_args(arguments)
    encoder = ContextualEncoder.from_pretrained(options.checkpoint, backend=options.backend, dtype=options.dtype)
    sha256 = encoder.identity.sha256
    reference = reference_figures(options.reference, sha256)
    sets: dict[str, dict[str, float]] = {}
    for path in find_retrieval_sets(options.eval_folder):
        if path.name not in reference:
            continue
        figures = evaluate(encoder, read_retrieval_set(path), options.dtype, options.cache)
        sets[path.name] = {**figures, "reference": reference[path.name]}
        row = sets[path.name]
        print(f"{path.name}: {100 * (row['ndcg_at_10'] - row['reference']):+.2f}", file=sys.stderr, flush=True)
    mean = {name: float(np.mean([row[name] for row in sets.values()])) for name in ("ndcg_at_10", "reference")}
    result: dict[str, Any] = {
        "checkpoint": encoder.config.name,
        "sha256": sha256,
        "dtype": options.dtype,
        "reference": {"file": str(options.reference), "dtype": "bfloat16"},
        "backend": options.backend,
        "version": version(PACKAGES[options.backend]),
        "mean": mean,
        "sets": sets,
    }
    write_atomically(options.output, json.dumps(result, indent=1).encode() + b"\n")
    write_atomically(options.output.with_suffix(".md"), table(result).encode())
    print(json.dumps(mean))
    return 0


if __name__ == "__main__":
    sys.exit(main())
