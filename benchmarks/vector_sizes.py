"""What vectors of other sizes are worth: fewer numbers and more, and fewer bits a number, in a FAISS index.

    python -m benchmarks.vector_sizes ../shared/eval --output docs/figures/vector_sizes.json

Every set of the folder under its own context (seed 0). Documents and queries of a model with a corpus head are made of
the plain vectors that `benchmarks.quality` keeps: `truncate_dim` keeps the first numbers, `vector_size` makes vectors
of other numbers (`HeadSettings.sized`), and both fit queries within them. `--parts` 4 is a context of a fourth of the
corpus; searched is all of it, by float32. Vectors of a model without a head are made by its 8-bit ONNX export, and
their first numbers are kept. 8 bits:
`faiss.IndexScalarQuantizer`, trained on the corpus, float queries. 1 bit: `faiss.IndexBinaryFlat` over the signs;
rescored: its first 400 by the float query and the documents' signs (`sentence_transformers.util.quantization`). The
rest searches all float32 vectors. Two parts: a dense one and exact words with their grams, six bytes each. A Markdown
table is written beside the JSON.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray
from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

from benchmarks.head_ranking import KeptReader, PlainTexts, fit_on_kept, one_vectors, rank_with_head
from benchmarks.kept_vectors import SEED, kept_vectors
from benchmarks.quality import Bench
from cde_retriever.context.head_settings import HeadSettings
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


class Row(NamedTuple):
    """What is measured: numbers of a vector, how they came to be, in which index, under which part of the corpus."""

    numbers: str
    form: str
    search: str
    part: int = 1


def rows_of_vectors(
    data: RetrievalSet, numbers: int, form: str, documents: Vectors, queries: Vectors
) -> Iterator[tuple[Row, float, float]]:
    """Yield row, bytes a text and nDCG@10 of one size of the vectors."""
    for name, (size, search) in SEARCHES.items():
        yield Row(str(numbers), form, name), numbers * size, ndcg(data, search(queries, documents))


def rows_with_head(
    encoder: ContextualEncoder, texts: PlainTexts, data: RetrievalSet, sizes: Sequence[int], parts: Sequence[int]
) -> Iterator[tuple[Row, float, float]]:
    """Yield the same for a model with a corpus head, at each size, and in two parts."""
    width, head = encoder.dense_dimension, HeadSettings.from_dict(encoder.config.corpus_head or {})
    for part in parts:
        size = min(encoder.config.context_size, math.ceil(len(texts.documents) / part))
        context = fit_on_kept(encoder, texts, size=size)
        for numbers in sizes:
            forms = {"vector_size": head.sized(numbers, width)} if numbers != width else {}
            forms |= {"truncate_dim": head} if numbers <= width else {}
            for form, settings in forms.items():
                documents, queries = one_vectors(encoder, texts, context, numbers, settings)
                if part == 1:
                    yield from rows_of_vectors(data, numbers, form, documents, queries)
                else:
                    row = Row(str(numbers), form, "float32", part)
                    yield row, 4 * numbers, ndcg(data, rank(queries, documents))
        ranking = rank_with_head(encoder, texts, context, "both")
        row = Row(f"{width} + words", "", "two parts", part)
        yield row, 4 * width + 6 * places_of(texts), ndcg(data, ranking)


def places_of(texts: PlainTexts) -> float:
    """Return how many words and grams a document has, in the mean."""
    counts = KeptReader("english").read(texts.documents, "document")
    return sum(len(part.indices) for part in counts) / len(texts.documents)


def rows_of_export(
    encoder: ContextualEncoder, data: RetrievalSet, sizes: Sequence[int], cache: Path
) -> Iterator[tuple[Row, float, float]]:
    """Yield the same for an export of a model without a corpus head."""
    documents, queries = kept_vectors(encoder, data, "int8", cache)
    for numbers in sizes:
        short = [shorten(vectors, numbers, encoder.config.sketch_width) for vectors in (documents, queries)]
        yield from rows_of_vectors(data, numbers, "truncate_dim", *short)


def ndcg(data: RetrievalSet, ranking: Ranking) -> float:
    """Return nDCG@10 of a ranking."""
    return measure(data, ranking).means()["ndcg_at_10"]


def table(result: dict[str, Any]) -> str:
    """Return the page."""
    names = result["names"]
    lines = [
        "# Vectors of other sizes",
        "",
        f"nDCG@10 x 100 of `{result['checkpoint']}` ({result['sha256'][:12]}) under each corpus's own context, seed "
        f"{SEED}, {result['weights']} weights, by size of the vectors. 1 bit, rescored: the nearest 400 by signs, "
        "ranked again by the float query. Written by `python -m benchmarks.vector_sizes`, do not edit.",
        "",
        f"| context holds | numbers | by | in the index | bytes a text | mean | {' | '.join(names)} |",
        f"|---|--:|---|---|--:|--:|{'--:|' * len(names)}",
    ]
    for row in result["rows"]:
        values = [100 * row["ndcg_at_10"][name] for name in names]
        figures = " | ".join(f"{value:.1f}" for value in values)
        size = np.mean(list(row["bytes"].values()))
        held = "all" if row["part"] == 1 else f"1/{row['part']}"
        cells = [held, row["numbers"], row["form"], row["search"], f"{size:.0f}", f"**{np.mean(values):.2f}**"]
        lines.append(f"| {' | '.join(cells)} | {figures} |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every size on every set; write figures and page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vector_sizes", description=__doc__.splitlines()[0])
    parser.add_argument("eval_folder", type=Path)
    parser.add_argument("--checkpoint", help="folder or Hub id; default: the bundled one")
    parser.add_argument("--numbers", type=int, nargs="+", default=[384, 768, 256, 192, 128, 96, 64])
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 4, 16], help="the context holds 1/N of a corpus")
    parser.add_argument("--output", type=Path, default=Path("docs/figures/vector_sizes.json"))
    parser.add_argument("--cache", type=Path, default=Path("runs/quality_cache"), help="folder of kept vectors")
    options = parser.parse_args(arguments)
    encoder, weights = ContextualEncoder.from_pretrained(options.checkpoint, dtype="bfloat16"), "bfloat16"
    has_head = encoder.config.corpus_head is not None
    if not has_head:
        encoder, weights = ContextualEncoder.from_pretrained(options.checkpoint, backend="onnx", dtype="int8"), "8-bit"
    folders = find_retrieval_sets(options.eval_folder)
    rows: dict[Row, dict[str, Any]] = {}
    for folder in folders:
        data = read_retrieval_set(folder)
        if has_head:
            texts = Bench(encoder, [folder], cache=options.cache, dtype=weights).plain(folder)
            found = rows_with_head(encoder, texts, data, options.numbers, options.parts)
        else:
            found = rows_of_export(encoder, data, options.numbers, options.cache)
        for measured, size, value in found:
            row = rows.setdefault(measured, measured._asdict() | {"bytes": {}, "ndcg_at_10": {}})
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
