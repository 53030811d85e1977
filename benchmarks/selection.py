"""Compare ways to choose a context's documents, at equal size.

    python -m benchmarks.selection CHECKPOINT SETS [--sizes 16 64 128 512] [--seeds 0 1 2 3]

Each judged set under contexts that each selection (`cde_retriever.context.selection`) gives, two parts and one vector,
over several seeds; the sets of which the largest context holds a half at most are a table of their own. Besides, the
sets of `MERGED` together as one corpus, whose kinds are the sets: what stratified selection needs; all their questions
are asked. ± is the standard deviation of the mean over sets from seed to seed.

Plain vectors are kept in the cache folder of `benchmarks.quality`. Writes docs/figures/selection.json and .md.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.head_ranking import PlainTexts, fit_on_kept, rank_with_head
from benchmarks.kept_bench import kept_parser, open_bench, write_lines, write_measurements
from benchmarks.merged_sets import merge
from cde_retriever.context.selection import SELECTIONS
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.evaluation.ranking import measure

MERGED = ("claude_docs", "cranfield", "med", "stackfaq", "xquad_en")
PARTS = {"both": "two parts", "one": "one vector"}


def rows(
    encoder: ContextualEncoder,
    data: RetrievalSet,
    texts: PlainTexts,
    kinds: list[str] | None,
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Yield the measurements of one set."""
    for selection in SELECTIONS:
        if selection == "stratified" and kinds is None:
            continue
        own = kinds if selection == "stratified" else None
        for size in options.sizes:
            for seed in options.seeds:
                context = fit_on_kept(encoder, texts, seed=seed, size=size, selection=selection, kinds=own)
                for parts in PARTS:
                    found = measure(data, rank_with_head(encoder, texts, context, parts)).means()["ndcg_at_10"]
                    where = {"set": data.name, "documents": len(data.documents)}
                    where |= {"selection": selection, "size": size, "seed": seed, "parts": parts}
                    yield {**where, "ndcg_at_10": round(found, 6)}


def page_lines(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the page."""
    sets = sorted({row["set"] for row in results} - {"merged"})
    yield "# Choosing the documents of a context"
    yield ""
    yield "nDCG@10 x 100, mean and standard deviation over seeds. Made by `python -m benchmarks.selection`; how: its"
    yield "first lines."
    most = 2 * max(row["size"] for row in results)
    large = sorted({row["set"] for row in results if row["documents"] >= most} - {"merged"})
    titles = [
        (f"Mean of {len(sets)} sets", sets),
        (f"Mean of the {len(large)} sets of {most:,} documents or more", large),
    ]
    for title, chosen in [*titles, ("Merged sets", ["merged"])]:
        found = [row for row in results if row["set"] in chosen]
        for parts, label in PARTS.items():
            yield from _table(f"{title}, {label}", [row for row in found if row["parts"] == parts])


def _table(title: str, found: Sequence[dict[str, Any]]) -> Iterator[str]:
    sizes = sorted({row["size"] for row in found})
    yield from ["", f"## {title}", "", "| J | " + " | ".join(map(str, sizes)) + " |", "|---|" + "--:|" * len(sizes)]
    for selection in SELECTIONS:
        cells = []
        for size in sizes:
            by_seed: dict[int, list[float]] = {}
            for row in found:
                if row["selection"] == selection and row["size"] == size:
                    by_seed.setdefault(row["seed"], []).append(100 * row["ndcg_at_10"])
            means = [np.mean(values) for values in by_seed.values()]
            cells.append(f"{np.mean(means):.2f} ± {np.std(means, ddof=min(1, len(means) - 1)):.2f}" if means else "")
        if any(cells):
            yield f"| {selection} | " + " | ".join(cells) + " |"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = kept_parser("selection", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 64, 128, 512], help="context documents")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="seeds of the selection")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every set, writing after each, and write the page."""
    options = parse(arguments)
    bench, folders = open_bench(options)
    encoder = bench.encoder
    results: list[dict[str, Any]] = []
    merged = [folder for folder in folders if folder.name in MERGED]
    work = [(bench.data(folder)[0], bench.plain(folder), None) for folder in folders]
    for data, texts, kinds in [*work, merge(bench, merged)]:
        results += rows(encoder, data, texts, kinds, options)
        write_measurements(options.output, encoder, results=results)
        print(data.name, flush=True)
    print(write_lines(options.output, page_lines(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
