"""Write docs/comparison.md, one table of what can be had, from the figures of the other benchmarks.

python -m benchmarks.comparison
"""

import json
from pathlib import Path
from typing import Any

from cde_retriever.checkpoint.folder import BUNDLED, DEFAULT_CHECKPOINT, hash_checkpoint
from cde_retriever.checkpoint.reading import QUERIES, Reading, identify_model
from cde_retriever.files.replacing import write_atomically

DOCS = Path(__file__).parent.parent / "docs"
OURS = hash_checkpoint(DEFAULT_CHECKPOINT)
VERSION_3 = BUNDLED / "cde-minilm-l6-v3"  # with documents as they are the same as version 4
QUERIES_ALONE = identify_model(VERSION_3, Reading(context_for=QUERIES))
PLAIN = "c5de6816362e"  # all-MiniLM-L6-v2, its first stage
ROWS = (
    ("BM25", "bm25", "", "words", "inverted index", "counts words as they come"),
    ("all-MiniLM-L6-v2, as it is", "plain", PLAIN, "384 numbers", "any", "nothing"),
    ("the same, softly whitened", "soft_whitening", PLAIN, "384 numbers", "any", "mean and spread of the vectors"),
    ("BM25 + MiniLM by ranks", "rrf", PLAIN, "both of these", "two, fused", "counts words"),
    ("0.4 BM25 + 0.6 MiniLM", "convex_40", PLAIN, "both of these", "two, scores of all texts", "counts words"),
    ("ours, documents as they are", "corpus", QUERIES_ALONE, "384 numbers", "any", "a sample of 8,192 documents"),
    ("ours, one vector, another corpus's context", "foreign", OURS, "768 numbers", "any", "the wrong sample"),
    ("ours, one vector", "corpus", OURS, "768 numbers", "any", "a sample of 8,192 documents"),
    ("ours, two parts, no context", "hybrid_null", OURS, "384 numbers + words", "dense + sparse", "nothing"),
    ("ours, two parts", "hybrid", OURS, "384 numbers + words", "dense + sparse", "a sample of 8,192 documents"),
)
"""Name, mode and model in the figures of quality; what is stored of a text, where, what is known of the corpus."""
SPEEDS = (
    ("one query", "queries", "PyTorch", "torch", "its time"),
    ("one query", "queries", "ONNX Runtime", "onnx", "its time"),
    ("one query", "queries", "OpenVINO, 8 bits", "openvino_int8", "its time"),
    ("documents", "documents", "PyTorch", "torch", "its throughput"),
    ("documents", "documents", "ONNX Runtime", "onnx", "its throughput"),
    ("documents", "documents", "OpenVINO, 8 bits", "openvino_int8", "its throughput"),
    ("start and first query", "startup", "PyTorch", "torch", "its time"),
    ("start and first query", "startup", "ONNX Runtime, 8 bits", "onnx_int8", "its time"),
)


def page() -> str:
    """Return the page."""
    files = [DOCS / "figures" / f"{name}.json" for name in ("quality", "quality_queries")]
    results = [row for file in files for row in json.loads(file.read_text())["results"]]
    sections = json.loads((DOCS / "figures" / "performance-v4.json").read_text())["sections"]
    quality = "\n".join(_quality_row(results, *row) for row in ROWS)
    speed = "\n".join(_speed_row(sections, *row) for row in SPEEDS)
    return f"""# Compared

What you could do instead, and what each is worth. Written by `python -m benchmarks.comparison` from `quality.json`,
`quality_queries.json` and `performance-v4.json` of `docs/figures/`, do not edit.

## Ranking

Mean nDCG@10 in percent over ten judged corpora, all their queries. Our head was chosen on these, so look
at [the 52 others](hybrid.md#what-it-is-worth) too, and at [where ours loses](limits.md). Sets, intervals and seeds:
[quality](figures/quality.md).

| | nDCG@10 | stored of a text | store | known of the corpus |
|---|--:|---|---|---|
{quality}

Such a sample holds each of the ten whole; beyond 16,000 documents [one vector is worth less](contexts.md).
"Documents as they are": [queries alone know the corpus](migration.md#leave-the-index-as-it-is). Encoders of others
under the same head, and what a Hub id needs: [your own model](encoders.md).

## Speed

One vector of the bundled model under a context of 512 documents against sentence-transformers, same backbone, no
context; two cores, no GPU; of times less is better, of throughput more. All ratios, the machine and versions:
[speed and memory](figures/performance-v4.md); [version 3](figures/performance-v3.md) in hybrid search too,
[version 2](figures/performance-v2.md).

| | on | ratio to sentence-transformers | least to largest | of |
|---|---|--:|---|---|
{speed}
"""


def _quality_row(results: list[dict[str, Any]], name: str, mode: str, model: str, *others: str) -> str:
    found = {
        row["set"]: row["ndcg_at_10"]
        for row in results
        if row["mode"] == mode and row["model"].startswith(model) and row["seed"] in (None, 0)
    }
    if len(found) != 10:
        raise ValueError(f"quality.json has {mode} of {model or 'any model'} for {len(found)} sets, expected 10")
    return f"| {name} | {100 * sum(found.values()) / 10:.1f} | {' | '.join(others)} |"


def _speed_row(sections: dict[str, Any], work: str, section: str, backend: str, key: str, unit: str) -> str:
    ratio = sections[section]["result"]["ratios"][key]
    return f"| {work} | {backend} | {ratio['median']:.2f} | {ratio['least']:.2f} to {ratio['largest']:.2f} | {unit} |"


if __name__ == "__main__":
    write_atomically(DOCS / "comparison.md", page().encode())
