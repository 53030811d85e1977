"""What smaller vectors cost in retrieval quality: fewer numbers, and fewer bits a number, in a FAISS index.

    python -m benchmarks.vector_sizes ../shared/eval --output docs/vector_sizes.json

Every set of the folder under its own context (seed 0), documents and queries by the 8-bit ONNX export. `truncate_dim`
keeps the first numbers. 8 bits: `faiss.IndexScalarQuantizer`, trained on the corpus, float queries. 1 bit:
`faiss.IndexBinaryFlat` over the signs; rescored: its first 400 by the float query and the documents' signs
(`sentence_transformers.util.quantization`). The rest searches all float32 vectors. A Markdown table is written beside
the JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

from benchmarks.kept_vectors import SEED, kept_vectors
from cde_retriever.encoder.dimensions import shorten
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.replacing import write_atomically
from cde_train.data.retrieval_sets import find_retrieval_sets, read_retrieval_set
from cde_train.evaluation.ranking import Ranking, measure, rank

DEPTH, RESCORED = 100, 4

Vectors = NDArray[np.float32]


def eight_bits(queries: Vectors, documents: Vectors) -> Ranking:
    """Rank by a FAISS index of 8 bits a number."""
    index = faiss.IndexScalarQuantizer(documents.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    index.train(documents)
    index.add(documents)
    return list(index.search(queries, min(DEPTH, len(documents)))[1])


def one_bit(queries: Vectors, documents: Vectors) -> Ranking:
    """Rank by the number of equal signs."""
    index = faiss.IndexBinaryFlat(documents.shape[1])
    index.add(quantize_embeddings(documents, "ubinary"))
    return list(index.search(quantize_embeddings(queries, "ubinary"), min(DEPTH, len(documents)))[1])


def one_bit_rescored(queries: Vectors, documents: Vectors) -> Ranking:
    """Rank the nearest by signs again, by the float query."""
    found, _ = semantic_search_faiss(
        queries,
        quantize_embeddings(documents, "ubinary"),
        corpus_precision="ubinary",
        top_k=min(DEPTH, len(documents)),
        rescore_multiplier=RESCORED,
    )
    return [np.array([hit["corpus_id"] for hit in hits]) for hits in found]


SEARCHES: dict[str, tuple[float, Callable[[Vectors, Vectors], Ranking]]] = {
    "float32": (4, rank),
    "8 bits": (1, eight_bits),
    "1 bit, rescored": (1 / 8, one_bit_rescored),
    "1 bit": (1 / 8, one_bit),
}
"""Name to bytes a number and search."""


def table(result: dict[str, Any]) -> str:
    """Return the page."""
    names = [name for name in result["sets"][0] if name not in ("numbers", "search", "bytes")]
    lines = [
        "# Smaller vectors",
        "",
        f"nDCG@10 x 100 of `{result['checkpoint']}` ({result['sha256'][:12]}) under each corpus's own context, seed "
        f"{SEED}, 8-bit weights, by size of the vectors. 1 bit, rescored: the nearest 400 by signs, ranked again by "
        "the float query. Written by `python -m benchmarks.vector_sizes`, do not edit.",
        "",
        f"| numbers | in the index | bytes a text | mean | {' | '.join(names)} |",
        f"|--:|---|--:|--:|{'--:|' * len(names)}",
    ]
    for row in result["sets"]:
        values = [100 * row[name] for name in names]
        figures = " | ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {row['numbers']} | {row['search']} | {row['bytes']} | **{np.mean(values):.2f}** | {figures} |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every size on every set; write figures and page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vector_sizes", description=__doc__.splitlines()[0])
    parser.add_argument("eval_folder", type=Path)
    parser.add_argument("--checkpoint", help="folder or Hub id; default: the bundled one")
    parser.add_argument("--numbers", type=int, nargs="+", default=[1024, 768, 512, 384], help="values of truncate_dim")
    parser.add_argument("--output", type=Path, default=Path("docs/vector_sizes.json"))
    parser.add_argument("--cache", type=Path, default=Path("runs/onnx_cache"))
    options = parser.parse_args(arguments)
    encoder = ContextualEncoder.from_pretrained(options.checkpoint, backend="onnx", dtype="int8")
    rows: dict[tuple[int, str], dict[str, Any]] = {
        (numbers, name): {"numbers": numbers, "search": name, "bytes": int(numbers * size)}
        for numbers in options.numbers
        for name, (size, _) in SEARCHES.items()
    }
    for path in find_retrieval_sets(options.eval_folder):
        data = read_retrieval_set(path)
        documents, queries = kept_vectors(encoder, data, "int8", options.cache)
        for numbers in options.numbers:
            short = [shorten(vectors, numbers, encoder.config.sketch_width) for vectors in (queries, documents)]
            for name, (_, search) in SEARCHES.items():
                rows[numbers, name][path.name] = measure(data, search(*short)).means()["ndcg_at_10"]
        print(f"{path.name} done", file=sys.stderr, flush=True)
    result = {"checkpoint": encoder.config.name, "sha256": encoder.identity.sha256, "sets": list(rows.values())}
    write_atomically(options.output, json.dumps(result, indent=1).encode() + b"\n")
    write_atomically(options.output.with_suffix(".md"), table(result).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
