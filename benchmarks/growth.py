"""Measure what becomes of a corpus's questions when text of other corpora joins it, several times its own size.

    python -m benchmarks.growth CHECKPOINT SETS [--foreign SETS] [--factors 1 5 20]

Each set's documents stay; documents of all other sets, in one random order, join them until their characters are FACTOR
times the set's own, or no more are left, which the table says. Its own questions are asked before and after:

- ``own``: the context of the set alone, frozen, as an index has it that grew after its context was fitted;
- ``refitted``: a context fitted on all documents;
- ``null``: no context. Two parts each (hybrid), and one vector each (one). Documents as they are, ``context_for`` their
  queries alone (queries), are plain without one.
- ``routed``: the set under its own context, what joined under others, a query under the nearest three
  (`cde_retriever.encoder.routes`): the documents of each set that joined under one of these (theirs), or all that
  joined under one (together). Two parts.
- plain vectors, BM25 and 0.3 BM25 + 0.7 plain, which is what a corpus grows with elsewhere.

Plain vectors are kept in the cache folder of `benchmarks.quality`. Writes docs/figures/growth.json and .md; what the
file holds of the same model already is not measured again.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.head_ranking import PlainTexts, fit_on_kept, rank_plain, rank_with_head
from benchmarks.kept_bench import kept_parser, open_bench, write_measurements
from benchmarks.mixtures import rank_mixture
from benchmarks.quality import Bench
from benchmarks.routing import Routed
from cde_retriever.checkpoint.reading import QUERIES
from cde_retriever.context.context import Context
from cde_retriever.context.head_settings import FITTED_SIZE
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.replacing import write_atomically
from cde_retriever.search.best_first import best_first
from cde_retriever.search.bm25 import score_bm25
from cde_train.data.retrieval_sets import RetrievalSet, find_retrieval_sets
from cde_train.evaluation.ranking import DEPTH, Ranking, measure

Row = dict[str, Any]

FORMS = {"hybrid": "both", "one": "one", "queries": QUERIES}
"""Forms of vectors, by the first word of a row, as `rank_with_head` takes them."""
SEED = 0
ASKED = 3
"""Contexts that a query is asked under, where documents have several."""
ROWS = {
    "plain": "plain",
    "bm25": "BM25",
    "convex_30": "0.3 BM25 + 0.7 plain",
    "hybrid own": "two parts, own context frozen",
    "hybrid refitted": "two parts, refitted",
    "hybrid null": "two parts, null context",
    "routed theirs": "two parts, routed, a context a corpus",
    "routed together": "two parts, routed, own context and one for all that joined",
    "one own": "one vector, own context frozen",
    "one refitted": "one vector, refitted",
    "one null": "one vector, null context",
    "queries own": "documents as they are, own context frozen",
    "queries refitted": "documents as they are, refitted",
}


class Growth:
    """A model, judged sets, and the sets whose documents join them.

    Args:
        bench: Reads sets and keeps their plain vectors.
        judged: Folders of the sets that are asked.
        foreign: Folders of further sets.
    """

    def __init__(self, bench: Bench, judged: Sequence[Path], foreign: Sequence[Path]) -> None:
        self.bench = bench
        self.judged = list(judged)
        self.all = sorted({*judged, *foreign}, key=lambda folder: folder.name)
        self._plain = {folder: bench.plain(folder) for folder in self.all}

    def rows(self, folder: Path, factors: Sequence[float], known: Sequence[Row] = ()) -> Iterator[Row]:
        """Yield the measurements of one set, before it grows (factor 0) and after; none that are known."""
        data, _ = self.bench.data(folder)
        own = self._plain[folder]
        frozen = cache(lambda size: fit_on_kept(self.bench.encoder, own, size=size))
        order = self._others(folder)
        rows = [row for row in known if row["set"] == data.name]
        for factor in sorted({0, *factors}):
            there = {row["row"] for row in rows if row["factor"] == factor}
            missing = [name for name in ROWS if name not in there]
            if not missing:
                continue
            texts, came_from, reached = self._grown(own, order, factor)
            names = (*data.document_ids, *(f"joined {n}" for n in range(len(came_from))))
            grown = replace(data, document_ids=names, documents=tuple(texts.documents))
            ways = self._ways(texts, came_from, frozen)
            for name in missing:
                same = (row for row in rows if (row["row"], row["documents"]) == (name, len(names)))
                found = next(same, None)  # if all there is had joined before
                if found is None:
                    found = {"row": name, "documents": len(names), **summary(grown, ways[name](), len(own.documents))}
                rows.append({**found, "set": data.name, "factor": factor, "reached": round(reached, 1)})
                yield rows[-1]

    def _others(self, folder: Path) -> list[tuple[Path, int]]:
        own = set(self.bench.data(folder)[0].documents)
        places = [
            (other, number)
            for other in self.all
            if other != folder
            for number, text in enumerate(self.bench.data(other)[0].documents)
            if text not in own
        ]
        return [places[number] for number in np.random.default_rng(SEED).permutation(len(places))]

    def _grown(
        self, own: PlainTexts, order: Sequence[tuple[Path, int]], factor: float
    ) -> tuple[PlainTexts, list[str], float]:
        """Return the set with what joins it, which sets that is of, and how many times its own text it is."""
        size = sum(map(len, own.documents))
        documents, vectors, joined = list(own.documents), [own.document_vectors], 0
        came_from = []
        for folder, number in order:
            if joined >= factor * size:
                break
            came_from.append(folder.name)
            documents.append(self.bench.data(folder)[0].documents[number])
            vectors.append(self._plain[folder].document_vectors[number : number + 1])
            joined += len(documents[-1])
        grown = own._replace(documents=documents, document_vectors=np.concatenate(vectors))
        return grown, came_from, joined / size

    def _ways(
        self, texts: PlainTexts, came_from: Sequence[str], frozen: Callable[[int], Context]
    ) -> dict[str, Callable[[], Ranking]]:
        """Return what ranks the documents of a set that has grown, by the names of `ROWS`; its own come first."""
        words = cache(lambda: list(score_bm25(texts.documents, texts.queries)))
        ways: dict[str, Callable[[], Ranking]] = {
            "plain": lambda: rank_plain(texts),
            "bm25": lambda: [best_first(scores, DEPTH) for scores in words()],
            "convex_30": lambda: rank_mixture("convex_30", words(), texts.query_vectors, texts.document_vectors),
        }
        encoder = self.bench.encoder
        refitted = cache(lambda size: fit_on_kept(encoder, texts, size=size))
        for label, form in FORMS.items():
            size = FITTED_SIZE if form == QUERIES else encoder.config.context_size
            contexts: dict[str, Callable[[], Context]] = {
                "own": partial(frozen, size),
                "refitted": partial(refitted, size),
                "null": encoder.null_context,
            }
            for name, context in contexts.items():
                ways[f"{label} {name}"] = partial(_ranked, encoder, texts, context, form)
        kinds = ["own"] * (len(texts.documents) - len(came_from))
        for name, joined in (("theirs", list(came_from)), ("together", ["joined"] * len(came_from))):
            ways[f"routed {name}"] = partial(self._routed, texts, [*kinds, *joined])
        return ways

    def _routed(self, texts: PlainTexts, kinds: Sequence[str]) -> Ranking:
        return Routed(self.bench.encoder, texts, kinds).ranking(ASKED)


def _ranked(encoder: ContextualEncoder, texts: PlainTexts, context: Callable[[], Context], form: str) -> Ranking:
    return rank_with_head(encoder, texts, context(), form)


def summary(data: RetrievalSet, ranking: Ranking, own: int) -> dict[str, float]:
    """Return the quality of a ranking, and the share of the first `own` documents among its ten best."""
    ours = [float(np.mean(found[:10] < own)) for found in ranking]
    return {
        "ndcg_at_10": round(measure(data, ranking).means()["ndcg_at_10"], 6),
        "own_in_top_10": round(float(np.mean(ours)), 6),
    }


def write_page(file: Path) -> Path:
    """Write the page of a file of measurements, and return where."""
    rows = json.loads(file.read_text())["results"]
    page = file.with_suffix(".md")
    write_atomically(page, "\n".join(page_lines(rows)).encode() + b"\n")
    return page


def page_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the page: means over sets, over those that were routed, then each set."""
    sets = sorted({row["set"] for row in rows})
    routed = [name for name in sets if set(ROWS) <= _complete([row for row in rows if row["set"] == name])]
    yield "# Growth: a corpus's questions when other corpora join it"
    yield ""
    yield "nDCG@10 in percent, change against the set alone, share of the set's own documents among the ten best."
    yield f"Means over {len(sets)} sets. Made by `python -m benchmarks.growth`; how: its first lines."
    sections = [("All sets", sets), *((name, [name]) for name in sets)]
    if routed and routed != sets:
        sections.insert(1, (f"The {len(routed)} sets that were routed too", routed))
    for title, chosen in sections:
        yield from _table(title, [row for row in rows if row["set"] in chosen])


def _factors(rows: Sequence[Row]) -> list[float]:
    """Return how many times their own text all sets were measured with."""
    each = [{row["factor"] for row in rows if row["set"] == name} for name in {row["set"] for row in rows}]
    return sorted(set.intersection(*each))


def _complete(rows: Sequence[Row]) -> set[str]:
    """Return the rows that all sets have at all sizes that they share."""
    cells = [(name, factor) for name in {row["set"] for row in rows} for factor in _factors(rows)]
    there = {(row["row"], row["set"], row["factor"]) for row in rows}
    return {row for row in ROWS if all((row, *cell) in there for cell in cells)}


def _table(title: str, rows: Sequence[Row]) -> Iterator[str]:
    factors, complete = _factors(rows), _complete(rows)
    yield from ["", f"## {title}", ""]
    reached = {factor: _mean(rows, "reached", row="plain", factor=factor) for factor in factors[1:]}
    heads = [f"{factor:g} times ({times:.1f} reached)" for factor, times in reached.items()]
    yield "| | alone | " + " | ".join(heads) + " |"
    yield "|---|" + "--:|" * len(factors)
    for row, label in ((row, label) for row, label in ROWS.items() if row in complete):
        alone = _mean(rows, "ndcg_at_10", row=row, factor=0)
        cells = [f"{100 * alone:.1f}"]
        for factor in factors[1:]:
            grown, own = (_mean(rows, name, row=row, factor=factor) for name in ("ndcg_at_10", "own_in_top_10"))
            cells.append(f"{100 * grown:.1f} ({100 * (grown / alone - 1):+.1f} %, {100 * own:.0f} %)")
        yield f"| {label} | " + " | ".join(cells) + " |"


def _mean(rows: Sequence[Row], name: str, **chosen: Any) -> float:
    return float(np.mean([row[name] for row in rows if all(row[key] == value for key, value in chosen.items())]))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = kept_parser("growth", __doc__)
    parser.add_argument(
        "--foreign", type=Path, nargs="*", default=[], help="further sets whose documents join; need another --output"
    )
    parser.add_argument("--factors", type=float, nargs="+", default=[1, 5, 20], help="times the set's own text")
    return parser.parse_args(arguments)


def _known(output: Path, model: str) -> list[Row]:
    """Return the measurements of a model that a file holds already."""
    stated: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"model": None}
    return list(stated["results"]) if stated["model"] == model else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every set, writing after each row, and write the page."""
    options = parse(arguments)
    bench, judged = open_bench(options)
    growth = Growth(bench, judged, [found for folder in options.foreign for found in find_retrieval_sets(folder)])
    results = _known(options.output, bench.encoder.identity.sha256)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for folder in judged:
        for row in growth.rows(folder, options.factors, list(results)):
            results.append(row)
            write_measurements(options.output, bench.encoder, results=results)
        print(folder.name, flush=True)
    print(write_page(options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
