"""Measure several contexts in one index, a query under the nearest, against one context and against each set alone.

    python -m benchmarks.routing CHECKPOINT SETS

The sets become one corpus, all questions are asked of it, and nDCG@10 is that of each set's own questions. Rows: each
set searched alone under its own context; one context of the whole corpus; null context; the context of each set,
frozen; routed (`cde_retriever.encoder.routes`) with a context a set, and with a context a cluster, as many as sets: the
nearest asked, and the one that holds most of the answers, which nobody knows. Two parts but for one row, which is in
one vector; scores of several contexts are compared as they are. With ``--cost N`` also the median CPU time of N
queries, in turns, of `CDERoutedIndex` under several contexts and of one index, over `DOCUMENTS_TIMED` documents a set;
without it what was measured is kept.

Plain vectors are kept in the cache folder of `benchmarks.quality`. Writes docs/figures/routing.json and .md.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core import Document
from llama_index.core.node_parser import SentenceSplitter
from numpy.typing import NDArray

from benchmarks.head_ranking import QUERIES_AT_ONCE, PlainTexts, fit_on_kept, kept_head, rank_with_head
from benchmarks.kept_bench import kept_parser, open_bench, write_lines, write_measurements
from benchmarks.merged_sets import merge
from benchmarks.quality import Bench
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.routes import Routes, sort
from cde_retriever.llama_index import CDEEmbedding, CDERoutedIndex, CDEVectorStoreIndex
from cde_retriever.search.best_first import best_first
from cde_retriever.search.hybrid import score
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.evaluation.ranking import DEPTH, Ranking, measure

ASKED = (1, 2, 3, 5)
DOCUMENTS_TIMED = 200
"""Documents of each set in the indexes whose queries are timed."""


class Routed:
    """A corpus whose kinds have a context each.

    Args:
        encoder: A model with a corpus head.
        texts: The corpus and its queries.
        kinds: The kind of each document.
    """

    def __init__(self, encoder: ContextualEncoder, texts: PlainTexts, kinds: Sequence[str]) -> None:
        rows = {kind: np.flatnonzero(np.array(kinds) == kind) for kind in dict.fromkeys(kinds)}
        self._texts, self._rows = texts, rows
        contexts = {}
        self._scores = np.zeros((len(texts.queries), len(texts.documents)), np.float32)
        for kind, own in rows.items():
            part = PlainTexts(
                [texts.documents[row] for row in own], texts.queries, texts.document_vectors[own], texts.query_vectors
            )
            contexts[kind] = fit_on_kept(encoder, part)
            head = kept_head(encoder, part, contexts[kind])
            documents = head.documents(part.document_vectors, part.documents, "both")
            for first in range(0, len(texts.queries), QUERIES_AT_ONCE):
                last = first + QUERIES_AT_ONCE
                queries = head.queries(texts.query_vectors[first:last], texts.queries[first:last], "both")
                self._scores[first:last, own] = score(queries, documents)
        self._kinds = kinds
        self._near = Routes(contexts).nearest(texts.query_vectors, len(rows))

    def ranking(self, contexts: int, only: Sequence[str] | None = None) -> Ranking:
        """Return the ranking of each query under its nearest contexts, or under one given a query."""
        found = []
        for number, near in enumerate(self._near):
            asked = near[:contexts] if only is None else [only[number]]
            rows = np.sort(np.concatenate([self._rows[kind] for kind in asked]))
            found.append(rows[best_first(self._scores[number, rows], DEPTH)])
        return found

    def holding_answers(self, data: RetrievalSet) -> list[str]:
        """Return for each query the kind of most of its relevant documents."""
        kinds = dict(zip(data.document_ids, self._kinds, strict=True))
        answers = [Counter(kinds[name] for name in data.relevant[query]) for query in data.query_ids]
        return [counted.most_common(1)[0][0] for counted in answers]


def rows(bench: Bench, folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the measurements."""
    encoder = bench.encoder
    data, texts, kinds = merge(bench, folders)
    of = np.array([name.partition("/")[0] for name in data.query_ids])

    def row(name: str, ranking: Ranking) -> dict[str, Any]:
        found: NDArray[np.float64] = measure(data, ranking).ndcg_at_10
        return {"row": name, **{folder.name: round(float(found[of == folder.name].mean()), 6) for folder in folders}}

    by_set = Routed(encoder, texts, kinds)
    yield row("each set alone", by_set.ranking(1, only=of.tolist()))
    whole = fit_on_kept(encoder, texts)
    yield row("one context of all", rank_with_head(encoder, texts, whole, "both"))
    yield row("one context of all, one vector", rank_with_head(encoder, texts, whole, "one"))
    yield row("null context", rank_with_head(encoder, texts, encoder.null_context(), "both"))
    for folder in folders:
        own = fit_on_kept(encoder, bench.plain(folder))
        yield row(f"context of {folder.name}", rank_with_head(encoder, texts, own, "both"))
    by_cluster = Routed(encoder, texts, sort(texts.document_vectors, len(folders), seed=0))
    for label, routed in (("a context a set", by_set), ("a context a cluster", by_cluster)):
        for contexts in ASKED:
            yield row(f"routed, {label}, {contexts} asked", routed.ranking(contexts))
    right = by_cluster.ranking(1, only=by_cluster.holding_answers(data))
    yield row("routed, a context a cluster, that of the answers asked", right)


def query_cost(checkpoint: str, bench: Bench, folders: Sequence[Path], count: int) -> dict[str, float]:
    """Return the median CPU seconds of a query, of one index and of several contexts, asked in turns."""
    documents = [
        Document(text=text, metadata={"set": folder.name}, excluded_embed_metadata_keys=["set"])
        for folder in folders
        for text in bench.data(folder)[0].documents[:DOCUMENTS_TIMED]
    ]
    whole = [SentenceSplitter(chunk_size=10**6, chunk_overlap=0)]
    one = CDEVectorStoreIndex.from_documents(documents, embed_model=CDEEmbedding(checkpoint), transformations=whole)
    routed = CDERoutedIndex.from_documents(
        documents, kind_field="set", embed_model=CDEEmbedding(checkpoint), transformations=whole
    )
    ways = {"one index": one.as_retriever(similarity_top_k=10)}
    ways |= {f"{n} contexts": routed.as_retriever(contexts=n, similarity_top_k=10) for n in ASKED}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    queries = [query for folder in folders for query in bench.data(folder)[0].queries]
    for query in [queries[i] for i in np.random.default_rng(0).permutation(len(queries))[:count]]:
        for name, retriever in ways.items():
            began = time.process_time()
            retriever.retrieve(query)
            seconds[name].append(time.process_time() - began)
    return {name: float(np.median(taken)) for name, taken in seconds.items()}


def page_lines(results: Sequence[dict[str, Any]], cost: dict[str, float]) -> Iterator[str]:
    """Yield the lines of the page."""
    sets = [name for name in results[0] if name != "row"]
    alone = {name: results[0][name] for name in sets}
    yield "# Several contexts in one index"
    yield ""
    yield "nDCG@10 x 100 of each set's questions, mean, and change against each set alone. Made by"
    yield "`python -m benchmarks.routing`; how: its first lines."
    yield from ["", "| | " + " | ".join(sets) + " | mean | change |", "|---|" + "--:|" * (len(sets) + 2)]
    for row in results:
        mean = float(np.mean([row[name] for name in sets]))
        change = mean / float(np.mean([*alone.values()])) - 1
        cells = [f"{100 * row[name]:.1f}" for name in sets]
        yield f"| {row['row']} | " + " | ".join(cells) + f" | {100 * mean:.2f} | {100 * change:+.1f} % |"
    if cost:
        yield from ["", "| a query | ms | beside one index |", "|---|--:|--:|"]
        for name, seconds in cost.items():
            yield f"| {name} | {1000 * seconds:.1f} | {seconds / cost['one index']:.2f} |"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = kept_parser("routing", __doc__)
    parser.add_argument(
        "--only", nargs="+", metavar="SET", help="names of the sets to take of them, two at least; default: all"
    )
    parser.add_argument("--cost", type=int, default=0, metavar="N", help="time N queries too (default: none)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    options = parse(arguments)
    bench, folders = open_bench(options, options.only)
    results = list(rows(bench, folders))
    if options.cost:
        cost = query_cost(options.checkpoint, bench, folders, options.cost)
    else:
        cost = json.loads(options.output.read_text())["cost"] if options.output.exists() else {}
    write_measurements(options.output, bench.encoder, results=results, cost=cost)
    print(write_lines(options.output, page_lines(results, cost)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
