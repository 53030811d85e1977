"""Measure whether drift is noticed, and what it costs to do nothing.

    python -m benchmarks.drift CHECKPOINT SETS [--sizes 64 ... 512] [--draws 100] [--losses claude_docs cranfield ...]

**Noticed.** Of each judged set, time and again, a context is drawn, and 50, 200 or 1,000 documents join that are not in
it, each once: all of the same set, or 30 % of them of another one. Stated is how often `Drift.detected` says so: false
alarms, and for each pair of sets detections. Sets that have not as many documents are left out. What was measured of
other sizes is kept.

**Cost.** Of each pair of a group of `LOSSES` the first has its context and the second joins it as a whole. All
questions are asked under the frozen context and under one fitted on all documents; a set's mean nDCG@10 counts by its
share of the documents, as if questions were about all alike. The loss is the difference, as nDCG@10 x 100, and
`LOSS_OF_FOREIGN` its slope over the share of the index that is foreign as estimated (`Drift`); of the forms whose
queries are fitted, `LOSS_WITH_WORDS` (one vector) and `LOSS_WHERE_FITTED` (documents as they are), over that times the
share of the documents that a new context holds. "Left out" predicts the pairs of a set by the slope of those that it is
no part of.

Plain vectors are kept in the cache folder of `benchmarks.quality`. Writes docs/figures/drift.json and .md.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.head_ranking import PlainTexts, Vectors, fit_on_kept, rank_with_head
from benchmarks.kept_bench import kept_parser, open_bench, write_lines, write_measurements
from benchmarks.merged_sets import merge
from benchmarks.quality import Bench
from cde_retriever.context.context import Context
from cde_retriever.context.drift import Added, Drift, Reference
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.neighbours import Neighbours
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import WordReader, reader
from cde_retriever.words.sparse import Sparse
from cde_retriever.words.statistics import WordStatistics
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.evaluation.ranking import Ranking, measure

JOINING = (50, 200, 1000)
FOREIGN = 0.3
FORMS = {"both": "two parts", "one": "one vector", "queries": "documents as they are"}
LOSSES = (
    ("claude_docs", "cranfield", "med", "stackfaq", "xquad_en"),
    ("climate_fever", "cosqa", "financebench", "lisa", "scifact"),
)
"""Sets that join each other: of 232 to 1,400 documents, and of 1,781 to 6,267."""


class _KeptReader(WordReader):
    """Reads a text once, for all contexts that it is compared with."""

    def numbers(self, text: str) -> set[int]:
        return _numbers(self.language, text)


@cache
def _numbers(language: str, text: str) -> set[int]:
    return reader(language).numbers(text)


class Detection:
    """Draws contexts of sets, and documents that join them.

    Args:
        encoder: A model with a corpus head.
        plain: The sets, by name.
    """

    def __init__(self, encoder: ContextualEncoder, plain: dict[str, PlainTexts]) -> None:
        self._encoder, self._plain = encoder, plain
        self._rng = np.random.default_rng(0)
        self._distinct = {name: distinct_rows(texts.documents) for name, texts in plain.items()}

    def rows(self, name: str, size: int) -> Iterator[dict[str, Any]]:
        """Yield whether drift from a context of a set, drawn once, is detected, for each number and set joining."""
        drawn = self._rng.permutation(self._distinct[name])
        outside = drawn[size:]
        counts = [count for count in JOINING if count <= len(outside)]
        if not counts:
            return
        judge = self._judge(name, drawn[:size])
        for count in counts:
            strangers = round(FOREIGN * count)
            own, most = judge(name, outside[:count]), judge(name, outside[: count - strangers])
            for other in self._plain:
                some = self._rng.permutation(self._distinct[other])[:strangers]
                drift = Drift.of(own if other == name else most + judge(other, some), 0, size)
                where = {"set": name, "joined": other, "size": size, "joining": count}
                yield {**where, "detected": float(drift.detected), "enough": drift.enough}

    def _judge(self, name: str, rows: NDArray[np.int64]) -> Callable[[str, NDArray[np.int64]], Added]:
        """Return what judges documents of any set by a context of some documents of one, as `drift_reference` does."""
        texts = [self._plain[name].documents[row] for row in rows]
        counts = Sparse.of_rows([dict.fromkeys(_numbers("english", text), 1.0) for text in texts])
        vectors = self._plain[name].document_vectors[rows]
        neighbours = neighbours_of(self._encoder, vectors)
        moved = neighbours.move(vectors, np.arange(len(rows)))
        reference = Reference([], CorpusWords("english", counts, WordStatistics()), vectors, moved)
        reference._reader = _KeptReader("english")

        def judge(joined: str, some: NDArray[np.int64]) -> Added:
            others = self._plain[joined]
            dense = neighbours.move(others.document_vectors[some], np.full(len(some), -1))
            return reference.judge([others.documents[row] for row in some], dense)

        return judge


def distinct_rows(texts: Sequence[str]) -> list[int]:
    """Return where each distinct text stands first."""
    return list({text: row for row, text in reversed(list(enumerate(texts)))}.values())


def neighbours_of(encoder: ContextualEncoder, vectors: Vectors) -> Neighbours:
    """Return what moves the dense parts of documents under a context of these plain vectors, (J, d)."""
    return Neighbours(vectors, HeadSettings.from_dict(encoder.config.corpus_head or {}))


def losses(bench: Bench, folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield what doing nothing costs, for each pair of sets and each form.

    Args:
        bench: The model and the sets.
        folders: Sets that join each other.
    """
    for first, second in itertools.combinations(folders, 2):
        data, texts, kinds = merge(bench, [first, second])
        contexts = {folder: fit_on_kept(bench.encoder, bench.plain(folder)) for folder in (first, second)}
        both = fit_on_kept(bench.encoder, texts)
        held = min(1.0, bench.encoder.config.context_size / len(texts.documents))
        pairs = ((first, second), (second, first))
        shares = [_foreign_share(bench, contexts[own], own, joined) for own, joined in pairs]
        for form in FORMS:
            refitted = _by_set(data, kinds, rank_with_head(bench.encoder, texts, both, form))
            for (own, joined), share in zip(pairs, shares, strict=True):
                frozen = _by_set(data, kinds, rank_with_head(bench.encoder, texts, contexts[own], form))
                where = {"set": own.name, "joined": joined.name, "form": form, "share": round(share, 4)}
                where |= {"held": 1.0 if form == "both" else round(held, 4)}
                yield {**where, "loss": round(refitted - frozen, 6)}


def _foreign_share(bench: Bench, context: Context, own: Path, joined: Path) -> float:
    """Return which share of a set and one that joins it is foreign to the set's context, as `Drift` estimates it."""
    encoder, others = bench.encoder.fork(), bench.plain(joined)
    encoder.set_context(context)
    moved = neighbours_of(encoder, context.vectors).move(others.document_vectors, np.full(len(others.documents), -1))
    added = encoder.drift_reference().judge(others.documents, moved)
    drift = Drift.of(added, len(bench.plain(own).documents), context.size)
    return drift.foreign * drift.added / (drift.added + drift.documents_seen)


def _by_set(data: RetrievalSet, kinds: list[str], ranking: Ranking) -> float:
    """Return nDCG@10, each set's mean counted by its share of the documents."""
    found = measure(data, ranking).ndcg_at_10
    of = np.array([name.partition("/")[0] for name in data.query_ids])
    return float(sum(kinds.count(name) / len(kinds) * found[of == name].mean() for name in set(kinds)))


def slope(rows: Sequence[dict[str, Any]]) -> float:
    """Return the loss at a share of 1, all held by a new context; by least squares, 0 at none, and of no rows."""
    shares, lost = np.array([row["share"] * row["held"] for row in rows]), np.array([row["loss"] for row in rows])
    return float(shares @ lost / max(shares @ shares, 1e-12))


def page_lines(detections: Sequence[dict[str, Any]], lost: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# Drift: whether it is noticed, and what it costs to do nothing"
    yield ""
    yield "Made by `python -m benchmarks.drift`; how: its first lines."
    yield from ["", "## Noticed", ""]
    told = "false alarms | worst set | 30 % foreign detected | pairs so in 95 % | worst pair"
    yield f"| J | joining | contexts | sets | {told} |"
    yield "|--:|--:|--:|--:|--:|--:|--:|--:|---|"
    for size, joining in sorted({(row["size"], row["joining"]) for row in detections}):
        here = [row for row in detections if (row["size"], row["joining"]) == (size, joining)]
        alarms, pairs = (
            {(row["set"], row["joined"]): row["detected"] for row in here if (row["set"] == row["joined"]) is same}
            for same in (True, False)
        )
        lowest = min(pairs, key=lambda pair: pairs[pair])
        shares = [np.mean([*alarms.values()]), max(alarms.values())]
        shares += [np.mean([*pairs.values()]), np.mean([share >= 0.95 for share in pairs.values()])]
        told = "" if here[0]["enough"] else " (too few to tell)"
        cells = [
            f"{joining:,}{told}",
            str(here[0]["draws"]),
            str(len(alarms)),
            *(f"{100 * share:.1f} %" for share in shares),
        ]
        yield f"| {size} | {' | '.join(cells)} | {lowest[0]}, {lowest[1]}: {100 * pairs[lowest]:.0f} % |"
    yield from ["", "In brackets: `Drift.enough` is false."]
    yield from ["", "## Cost of doing nothing, nDCG@10 x 100", ""]
    heads = " | ".join(f"{form}, loss | left out" for form in FORMS.values())
    yield f"| own | joined | foreign share, estimated | held by a new context | {heads} |"
    yield "|---|---|--:|--:|" + "--:|--:|" * len(FORMS)
    for own, joined in dict.fromkeys((row["set"], row["joined"]) for row in lost):
        cells = []
        for form in FORMS:
            rows = [row for row in lost if row["form"] == form]
            this = next(row for row in rows if (row["set"], row["joined"]) == (own, joined))
            others = [row for row in rows if own not in (row["set"], row["joined"])]
            cells += [f"{100 * this['loss']:+.2f}", f"{100 * slope(others) * this['share'] * this['held']:+.2f}"]
        yield f"| {own} | {joined} | {this['share']:.2f} | {this['held']:.2f} | " + " | ".join(cells) + " |"
    yield ""
    for form, label in FORMS.items():
        rows = [row for row in lost if row["form"] == form]
        mean = 100 * np.mean([row["loss"] for row in rows])
        yield f"{label.capitalize()}: slope {100 * slope(rows):+.2f}, mean loss {mean:+.2f}."


def means(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows that are equal but for what was detected as one, with the share and of how many."""
    found: dict[tuple[tuple[str, Any], ...], list[float]] = {}
    for row in rows:
        found.setdefault(tuple((name, row[name]) for name in row if name != "detected"), []).append(row["detected"])
    return [{**dict(same), "draws": len(values), "detected": float(np.mean(values))} for same, values in found.items()]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = kept_parser("drift", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512], help="context documents")
    parser.add_argument("--draws", type=int, default=100, help="contexts drawn of a set")
    parser.add_argument(
        "--losses",
        nargs="*",
        help="names of sets that join each other (default: two groups); none: keep those measured",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    options = parse(arguments)
    bench, folders = open_bench(options)
    encoder = bench.encoder
    groups = LOSSES if options.losses is None else (options.losses,)
    lost = [row for names in groups for row in losses(bench, [f for f in folders if f.name in names])]
    known = json.loads(options.output.read_text()) if options.output.exists() else {"losses": [], "detections": []}
    lost = known["losses"] if options.losses == [] else lost
    detection = Detection(encoder, {folder.name: bench.plain(folder) for folder in folders})
    runs = itertools.product(options.sizes, folders, range(options.draws))
    detections = [row for row in known["detections"] if row["size"] not in options.sizes]
    detections += means(row for size, folder, _ in runs for row in detection.rows(folder.name, size))
    write_measurements(options.output, encoder, losses=lost, detections=detections)
    print(write_lines(options.output, page_lines(detections, lost)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
