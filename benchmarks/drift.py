"""Measure whether drift is noticed, and what it costs to do nothing.

    python -m benchmarks.drift CHECKPOINT SETS [--sizes 64 256] [--draws 4] [--losses claude_docs cranfield ...]

**Noticed.** Of each judged set a context is drawn; then, many times, `NEW` documents join: all of the same set, or 30 %
of them of another one. Stated is how often `Drift.detected` says so: false alarms, and for each pair of sets
detections.

**Cost.** Of each pair of the sets of ``--losses`` the first has its context and the second joins it as a whole. All
questions are asked under the frozen context and under one fitted on all documents; a set's mean nDCG@10 counts by its
share of the documents, as if questions were about all alike. The loss is the difference, as nDCG@10 x 100, and
`LOSS_OF_FOREIGN` its slope over the share of the index that is foreign as estimated (`Drift`). "Left out" predicts the
pairs of a set by the slope of those that it is no part of.

Plain vectors are kept in the cache folder of `benchmarks.quality`. Writes docs/drift.json and docs/drift.md.
"""

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.head_ranking import PlainTexts, Vectors, fit_on_kept, rank_with_head
from benchmarks.kept_bench import kept_parser, open_bench, write_lines, write_measurements
from benchmarks.merged_sets import merge
from benchmarks.quality import Bench
from cde_retriever.context.drift import Added, Drift, Reference
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.neighbours import Neighbours
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.words.reading import WordReader, reader
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.evaluation.ranking import Ranking, measure

NEW = 200
FOREIGN = 0.3
TIMES = 100
MOST = 400
"""Documents of another set that are drawn from."""
PARTS = {"both": "two parts", "one": "one vector"}
LOSSES = ("claude_docs", "cranfield", "med", "stackfaq", "xquad_en")


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
        self._some = {
            name: self._rng.permutation(len(texts.documents))[:MOST].tolist() for name, texts in plain.items()
        }

    def rows(self, name: str, size: int) -> Iterator[dict[str, Any]]:
        """Yield how often drift from a set's context, drawn once, is detected; nothing for a set that is too small."""
        texts = self._plain[name]
        if len(texts.documents) < size + MOST // 4:
            return
        encoder = self._encoder.fork()
        encoder.set_context(fit_on_kept(self._encoder, texts, seed=int(self._rng.integers(2**31)), size=size))
        reference = encoder.drift_reference()
        reference._reader = _KeptReader("english")
        own = self._places(encoder, reference, name)
        for other in self._plain:
            foreign = own if other == name else self._places(encoder, reference, other)
            count = 0 if other == name else round(FOREIGN * NEW)
            found = [self._detected(own, foreign, count, size) for _ in range(TIMES)]
            yield {"set": name, "joined": other, "size": size, "detected": float(np.mean(found))}

    def _places(self, encoder: ContextualEncoder, reference: Reference, name: str) -> list[Added]:
        """Return the places of some documents, those of the context left out."""
        texts, rows = self._plain[name], self._some[name]
        dense = dense_parts(encoder, texts.document_vectors[rows])
        found = [reference.judge([texts.documents[row]], dense[i : i + 1]) for i, row in enumerate(rows)]
        return [added for added in found if added.judged]

    def _detected(self, own: list[Added], foreign: list[Added], count: int, size: int) -> bool:
        joined = [own[i] for i in self._rng.integers(len(own), size=NEW - count)]
        joined += [foreign[i] for i in self._rng.integers(len(foreign), size=count)]
        return Drift.of(sum(joined, Added()), 0, size).detected


def dense_parts(encoder: ContextualEncoder, plain: Vectors) -> Vectors:
    """Return the dense parts of documents that are not in the context, given their plain vectors, both (n, d)."""
    head, vectors = HeadSettings.from_dict(encoder.config.corpus_head or {}), encoder.context.vectors
    neighbours = Neighbours(vectors, sharpness=head.sharpness, amount=head.amount, typical_spread=head.typical_spread)
    return neighbours.move(plain, np.full(len(plain), -1))


def losses(bench: Bench, folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield what doing nothing costs, for each pair of sets and each form."""
    for first, second in itertools.combinations(folders, 2):
        data, texts, kinds = merge(bench, [first, second])
        plain = {folder: bench.plain(folder) for folder in (first, second)}
        contexts = {folder: fit_on_kept(bench.encoder, plain[folder]) for folder in plain}
        both = fit_on_kept(bench.encoder, texts)
        for parts in PARTS:
            refitted = _by_set(data, kinds, rank_with_head(bench.encoder, texts, both, parts))
            for own, joined in ((first, second), (second, first)):
                frozen = _by_set(data, kinds, rank_with_head(bench.encoder, texts, contexts[own], parts))
                encoder = bench.encoder.fork()
                encoder.set_context(contexts[own])
                moved = dense_parts(encoder, plain[joined].document_vectors)
                added = encoder.drift_reference().judge(plain[joined].documents, moved)
                drift = Drift.of(added, len(plain[own].documents), contexts[own].size)
                share = drift.foreign * drift.added / (drift.added + drift.documents_seen)
                where = {"set": own.name, "joined": joined.name, "parts": parts}
                yield {**where, "share": round(share, 4), "loss": round(refitted - frozen, 6)}


def _by_set(data: RetrievalSet, kinds: list[str], ranking: Ranking) -> float:
    """Return nDCG@10, each set's mean counted by its share of the documents."""
    found = measure(data, ranking).ndcg_at_10
    of = np.array([name.partition("/")[0] for name in data.query_ids])
    return float(sum(kinds.count(name) / len(kinds) * found[of == name].mean() for name in set(kinds)))


def slope(rows: Sequence[dict[str, Any]]) -> float:
    """Return the loss at a share of 1, by least squares through the origin; nothing of no share."""
    shares, lost = (np.array([row[name] for row in rows]) for name in ("share", "loss"))
    return float(shares @ lost / max(shares @ shares, 1e-12))


def page_lines(detections: Sequence[dict[str, Any]], lost: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# Drift: whether it is noticed, and what it costs to do nothing"
    yield ""
    yield "Made by `python -m benchmarks.drift`; how: its first lines."
    yield from ["", f"## Noticed, {NEW} documents joining", ""]
    yield "| J | false alarms | worst set | detected at 30 % foreign | pairs detected in 95 % | worst pair |"
    yield "|---|--:|--:|--:|--:|---|"
    for size in sorted({row["size"] for row in detections}):
        here = [row for row in detections if row["size"] == size]
        alarms, pairs = (_means(row for row in here if (row["set"] == row["joined"]) is same) for same in (True, False))
        worst, lowest = max(alarms.values()), min(pairs, key=lambda pair: pairs[pair])
        cells = [
            np.mean([*alarms.values()]),
            worst,
            np.mean([*pairs.values()]),
            np.mean([v >= 0.95 for v in pairs.values()]),
        ]
        yield (
            f"| {size} | "
            + " | ".join(f"{100 * cell:.1f} %" for cell in cells)
            + (f" | {lowest[0]}, {lowest[1]}: {100 * pairs[lowest]:.0f} % |")
        )
    yield from ["", "## Cost of doing nothing, nDCG@10 x 100", ""]
    yield "| own | joined | foreign share, estimated | loss, two parts | left out | loss, one vector | left out |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for row in (row for row in lost if row["parts"] == "both"):
        cells = [f"{row['share']:.2f}"]
        for parts in PARTS:
            form = [other for other in lost if other["parts"] == parts]
            this = next(other for other in form if (other["set"], other["joined"]) == (row["set"], row["joined"]))
            others = [other for other in form if row["set"] not in (other["set"], other["joined"])]
            cells += [f"{100 * this['loss']:+.2f}", f"{100 * slope(others) * this['share']:+.2f}"]
        yield f"| {row['set']} | {row['joined']} | " + " | ".join(cells) + " |"
    yield ""
    for parts, label in PARTS.items():
        form = [row for row in lost if row["parts"] == parts]
        mean = 100 * np.mean([row["loss"] for row in form])
        yield f"{label.capitalize()}: slope {100 * slope(form):+.2f}, mean loss {mean:+.2f}."


def _means(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["set"], row["joined"]), []).append(row["detected"])
    return {pair: float(np.mean(values)) for pair, values in found.items()}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = kept_parser("drift", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="context documents")
    parser.add_argument("--draws", type=int, default=4, help="contexts drawn of a set")
    parser.add_argument("--losses", nargs="*", default=LOSSES, help="names of the sets that join each other")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    options = parse(arguments)
    bench, folders = open_bench(options)
    encoder = bench.encoder
    lost = list(losses(bench, [folder for folder in folders if folder.name in options.losses]))
    detection = Detection(encoder, {folder.name: bench.plain(folder) for folder in folders})
    runs = itertools.product(options.sizes, folders, range(options.draws))
    detections = [row for size, folder, _ in runs for row in detection.rows(folder.name, size)]
    write_measurements(options.output, encoder, losses=lost, detections=detections)
    print(write_lines(options.output, page_lines(detections, lost)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
