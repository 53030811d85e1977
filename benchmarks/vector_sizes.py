"""What smaller vectors cost in retrieval quality: fewer numbers, and fewer bits a number, in a FAISS index.

    python -m benchmarks.vector_sizes ../shared/eval --output docs/figures/vector_sizes.json

Every set of the folder under its own context (seed 0). Documents and queries of a model with a corpus head are made of
the plain vectors that `benchmarks.quality` keeps; `truncate_dim` keeps the first numbers, and fits queries within them.
Those of another model are made by its 8-bit ONNX export, and their first numbers are kept. 8 bits:
`faiss.IndexScalarQuantizer`, trained on the corpus, float queries. 1 bit: `faiss.IndexBinaryFlat` over the signs;
rescored: its first 400 by the float query and the documents' signs (`sentence_transformers.util.quantization`). The
rest searches all float32 vectors. Two parts: a dense one and exact words with their grams, six bytes each. A Markdown
table is written beside the JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

from benchmarks.head_ranking import KeptReader, PlainTexts, fit_on_kept, one_vectors, rank_with_head
from benchmarks.kept_vectors import SEED, kept_vectors
from benchmarks.quality import Bench
from cde_retriever.encoder.dimensions import shorten
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.replacing import write_atomically
from cde_train.data.retrieval_sets import RetrievalSet, find_retrieval_sets, read_retrieval_set
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


def rows_of_vectors(
    data: RetrievalSet, numbers: int, documents: Vectors, queries: Vectors
) -> Iterator[tuple[str, str, float, float]]:
    """Yield numbers, search, bytes a text and nDCG@10 of one size of the vectors."""
    for name, (size, search) in SEARCHES.items():
        yield str(numbers), name, numbers * size, ndcg(data, search(queries, documents))


def rows_with_head(
    encoder: ContextualEncoder, texts: PlainTexts, data: RetrievalSet, sizes: Sequence[int]
) -> Iterator[tuple[str, str, float, float]]:
    """Yield the same for a model with a corpus head, at each size, and in two parts."""
    context = fit_on_kept(encoder, texts)
    for numbers in sizes:
        yield from rows_of_vectors(data, numbers, *one_vectors(encoder, texts, context, numbers))
    width = encoder.dense_dimension
    ranking = rank_with_head(encoder, texts, context, "both")
    yield f"{width} + words", "two parts", 4 * width + 6 * places_of(texts), ndcg(data, ranking)


def places_of(texts: PlainTexts) -> float:
    """Return how many words and grams a document has, in the mean."""
    counts = KeptReader("english").read(texts.documents, "document")
    return sum(len(part.indices) for part in counts) / len(texts.documents)


def rows_of_export(
    encoder: ContextualEncoder, data: RetrievalSet, sizes: Sequence[int], cache: Path
) -> Iterator[tuple[str, str, float, float]]:
    """Yield the same for an export of a model without a corpus head."""
    documents, queries = kept_vectors(encoder, data, "int8", cache)
    for numbers in sizes:
        short = [shorten(vectors, numbers, encoder.config.sketch_width) for vectors in (documents, queries)]
        yield from rows_of_vectors(data, numbers, *short)


def ndcg(data: RetrievalSet, ranking: Ranking) -> float:
    """Return nDCG@10 of a ranking."""
    return measure(data, ranking).means()["ndcg_at_10"]


def table(result: dict[str, Any]) -> str:
    """Return the page."""
    names = result["names"]
    lines = [
        "# Smaller vectors",
        "",
        f"nDCG@10 x 100 of `{result['checkpoint']}` ({result['sha256'][:12]}) under each corpus's own context, seed "
        f"{SEED}, {result['weights']} weights, by size of the vectors. 1 bit, rescored: the nearest 400 by signs, "
        "ranked again by the float query. Written by `python -m benchmarks.vector_sizes`, do not edit.",
        "",
        f"| numbers | in the index | bytes a text | mean | {' | '.join(names)} |",
        f"|--:|---|--:|--:|{'--:|' * len(names)}",
    ]
    for row in result["rows"]:
        values = [100 * row["ndcg_at_10"][name] for name in names]
        figures = " | ".join(f"{value:.1f}" for value in values)
        size = np.mean(list(row["bytes"].values()))
        lines.append(f"| {row['numbers']} | {row['search']} | {size:.0f} | **{np.mean(values):.2f}** | {figures} |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every size on every set; write figures and page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vector_sizes", description=__doc__.splitlines()[0])
    parser.add_argument("eval_folder", type=Path)
    parser.add_argument("--checkpoint", help="folder or Hub id; default: the bundled one")
    parser.add_argument("--numbers", type=int, nargs="+", default=[384, 256, 192, 128], help="values of truncate_dim")
    parser.add_argument("--output", type=Path, default=Path("docs/figures/vector_sizes.json"))
    parser.add_argument("--cache", type=Path, default=Path("runs/quality_cache"), help="folder of kept vectors")
    options = parser.parse_args(arguments)
    encoder, weights = ContextualEncoder.from_pretrained(options.checkpoint, dtype="bfloat16"), "bfloat16"
    has_head = encoder.config.corpus_head is not None
    if not has_head:
        encoder, weights = ContextualEncoder.from_pretrained(options.checkpoint, backend="onnx", dtype="int8"), "8-bit"
    folders = find_retrieval_sets(options.eval_folder)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for folder in folders:
        data = read_retrieval_set(folder)
        if has_head:
            texts = Bench(encoder, [folder], cache=options.cache, dtype=weights).plain(folder)
            found = rows_with_head(encoder, texts, data, options.numbers)
        else:
            found = rows_of_export(encoder, data, options.numbers, options.cache)
        for numbers, search, size, value in found:
            new = {"numbers": numbers, "search": search, "bytes": {}, "ndcg_at_10": {}}
            row = rows.setdefault((numbers, search), new)
            row["bytes"][folder.name], row["ndcg_at_10"][folder.name] = size, value
        print(f"{folder.name} done", file=sys.stderr, flush=True)
    result = {
        "checkpoint": encoder.config.name,
        "sha256": encoder.identity.sha256,
        "weights": weights,
        "names": [folder.name for folder in folders],
        "rows": list(rows.values()),
    }
    write_atomically(options.output, json.dumps(result, indent=1).encode() + b"\n")
    write_atomically(options.output.with_suffix(".md"), table(result).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
