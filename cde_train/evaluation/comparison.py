"""A checkpoint beside its baselines: `cde-train evaluate`, and the held-out report of `cde-train fit`.

| mode | what ranks |
| --- | --- |
| ``bm25`` | BM25 |
| ``plain`` | the backbone without context: the checkpoint's first stage on both sides, or the encoder given |
| ``centring`` … ``all_but_the_top`` | plain vectors, adapted to the corpus's (`cde_train.evaluation.baselines`) |
| ``null``, ``foreign``, ``corpus`` | the checkpoint under null context, another corpus's, the corpus's own |
| ``start`` | the model training started from, under corpus context |
| ``against`` | another checkpoint, such as one of the same training without context, under null context |

Cost: every text is encoded once for the plain modes and once per context, or under the layout ``late`` once for all
contexts of a model (`ContextualEncoder.encode_under`); the rest is seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.evaluation.baselines import ADAPTATIONS, rank_bm25
from cde_train.evaluation.ranking import Quality, Ranking, measure, rank
from cde_train.evaluation.statistics import bootstrap

PLAIN_MODES = ("plain", *ADAPTATIONS)
CONTEXT_MODES = ("null", "foreign", "corpus")
OTHER_MODES = ("start", "against")
MODES = ("bm25", *PLAIN_MODES, *CONTEXT_MODES, *OTHER_MODES)
LABELS = {
    "bm25": "BM25",
    "plain": "plain backbone",
    "centring": "+ centring",
    "whitening": "+ PCA whitening",
    "shrunk_whitening": "+ shrunk whitening",
    "soft_whitening": "+ soft whitening",
    "all_but_the_top": "+ all-but-the-top",
    "null": "null context",
    "foreign": "foreign context",
    "corpus": "corpus context",
    "start": "starting model",
    "against": "the other checkpoint, null context",
}
MEASURES = {"ndcg_at_10": "nDCG@10", "recall_at_100": "recall@100", "mrr_at_10": "MRR@10"}

Vectors = NDArray[np.float32]


Encode = Callable[[Sequence[str]], Vectors]
Rank = Callable[[], Ranking]
Key = tuple[str, int | None]
"""A mode, and the seed of the context's sample, None where there is none to draw."""


def rank_plain(mode: str, queries: Vectors, documents: Vectors) -> Ranking:
    """Rank plain vectors, (q, d) and (n, d), as they are or adapted to the corpus; one of `PLAIN_MODES`."""
    if mode == "plain":
        return rank(queries, documents)
    adaptation = ADAPTATIONS[mode](documents)
    return rank(adaptation(queries), adaptation(documents))


def rank_in_context(
    encoder: ContextualEncoder,
    data: RetrievalSet,
    source: Sequence[str] | None,
    *,
    seed: int = 0,
    show_progress: bool = False,
) -> Ranking:
    """Rank under the context of a corpus; the encoder keeps that context.

    Args:
        encoder: The checkpoint.
        data: What to rank.
        source: The documents the context is sampled from; None for null context.
        seed: Seed of the sample.
        show_progress: Whether to show progress bars on stderr.
    """
    if source is None:
        encoder.set_context(encoder.null_context())
    else:
        encoder.fit_context(source, seed=seed)
    documents = encoder.encode_documents(data.documents, show_progress=show_progress)
    return rank(encoder.encode_queries(data.queries, show_progress=show_progress), documents)


@dataclass(frozen=True)
class Result:
    """One ranking, measured; measures are from 0 to 1. `seed` is the context's, None where there is none to draw."""

    set: str
    mode: str
    seed: int | None
    documents: int
    queries: int
    ndcg_at_10: float
    recall_at_100: float
    mrr_at_10: float
    ndcg_per_query: tuple[float, ...]


class Kept(Protocol):
    """Results of rankings, by set, mode and seed of the context."""

    def get(self, key: tuple[str, str, int | None], /) -> Result | None:
        """Return what is known of a ranking."""

    def add(self, result: Result, /) -> None:
        """Keep a result."""


@dataclass(frozen=True)
class Difference:
    """Corpus context minus a rival in nDCG@10, -1 to 1, with the ends of the 95 % interval over queries."""

    rival: str
    mean: float
    low: float
    high: float
    sets: int
    loses_on: dict[str, float]

    @property
    def verdict(self) -> str:
        """``"beats"``, ``"loses to"``, or ``"level with"`` where the interval contains 0."""
        return "beats" if self.low > 0 else "loses to" if self.high < 0 else "level with"


@dataclass(frozen=True)
class Comparison:
    """All rankings of one checkpoint and its rivals."""

    model: str
    sha256: str
    max_length: int
    results: tuple[Result, ...]

    @property
    def sets(self) -> list[str]:
        """Names of the sets, in the order measured."""
        return list(dict.fromkeys(result.set for result in self.results))

    @property
    def modes(self) -> list[str]:
        """Modes measured, in the order of `MODES`."""
        return [mode for mode in MODES if any(result.mode == mode for result in self.results)]

    def value(self, name: str, mode: str, measured: str = "ndcg_at_10") -> float | None:
        """Return a measure of a set and mode, the mean over context seeds; None if it was not measured."""
        found = [getattr(r, measured) for r in self._of(name, mode)]
        return float(np.mean(found)) if found else None

    def _of(self, name: str, mode: str) -> list[Result]:
        return [r for r in self.results if (r.set, r.mode) == (name, mode)]

    def _per_query(self, name: str, mode: str) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.mean([r.ndcg_per_query for r in self._of(name, mode)], axis=0)
        return found

    def differences(self) -> list[Difference]:
        """Return corpus context minus every other mode, over the sets that have both."""
        found = []
        for rival in self.modes:
            names = [n for n in self.sets if rival != "corpus" and self._of(n, rival) and self._of(n, "corpus")]
            if not names:
                continue
            paired = {name: self._per_query(name, "corpus") - self._per_query(name, rival) for name in names}
            losses = {name: float(values.mean()) for name, values in paired.items() if values.mean() < 0}
            found.append(Difference(rival, *bootstrap(list(paired.values())), len(names), losses))
        return found

    def means(self) -> dict[str, dict[str, float]]:
        """Return mode to measure to its mean over sets; nDCG@10 also with the ends of its interval over queries."""
        table = {}
        for mode in self.modes:
            names = [name for name in self.sets if self._of(name, mode)]
            row = {m: float(np.mean([self.value(name, mode, m) for name in names])) for m in MEASURES}
            _, low, high = bootstrap([self._per_query(name, mode) for name in names])
            seeds = [np.std([r.ndcg_at_10 for r in self._of(n, mode)], ddof=1) for n in names if self._many(n, mode)]
            table[mode] = {**row, "ndcg_low": low, "ndcg_high": high, "sets": len(names)}
            if seeds:
                table[mode]["ndcg_deviation_over_context_seeds"] = float(np.mean(seeds))
        return table

    def _many(self, name: str, mode: str) -> bool:
        return len(self._of(name, mode)) > 1

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one JSON-able row a result, without its per-query values."""
        for result in self.results:
            yield {"model": self.model, **{k: v for k, v in vars(result).items() if k != "ndcg_per_query"}}

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, JSON-able."""
        return {
            "model": self.model,
            "sha256": self.sha256,
            "max_length": self.max_length,
            "results": [{**vars(r), "ndcg_per_query": list(r.ndcg_per_query)} for r in self.results],
            "means": self.means(),
            "differences": [{**vars(d), "verdict": d.verdict} for d in self.differences()],
        }

    def markdown(self) -> str:
        """Return the tables, in hundredths."""
        head = [MEASURES[m] for m in MEASURES]
        lines = ["| set | mode | " + " | ".join(head) + " |", "|---|---|" + "--:|" * len(head)]
        for name in self.sets:
            for mode in self.modes:
                if self._of(name, mode):
                    cells = [f"{100 * (self.value(name, mode, m) or 0.0):.2f}" for m in MEASURES]
                    lines.append(f"| {name} | {LABELS[mode]} | " + " | ".join(cells) + " |")
        lines += ["", "| corpus context minus | nDCG@10 | 95 % interval | loses on |", "|---|--:|---|---|"]
        for d in self.differences():
            losses = ", ".join(f"{name} {100 * value:+.1f}" for name, value in d.loses_on.items()) or "no set"
            interval = f"{100 * d.low:+.2f} to {100 * d.high:+.2f}"
            lines.append(f"| {LABELS[d.rival]} ({d.sets} sets) | {100 * d.mean:+.2f} | {interval} | {losses} |")
        return "\n".join(lines) + "\n"


def compare(
    encoder: ContextualEncoder,
    sets: Sequence[RetrievalSet],
    *,
    plain: Encode | None = None,
    start: ContextualEncoder | None = None,
    against: ContextualEncoder | None = None,
    foreign: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    kept: Kept | None = None,
    show_progress: bool = False,
) -> Comparison:
    """Measure a checkpoint and its rivals; the encoders given keep whatever context was set on them.

    Args:
        encoder: The checkpoint.
        sets: Judged corpora.
        plain: Texts to vectors without context, for both sides; None for the checkpoint's first stage.
        start: The model training started from.
        against: A checkpoint of the same training without context.
        foreign: Documents of a foreign corpus; None for the next set, if there are several.
        seeds: Seeds of the context's sample; all but the first apply to corpus context only.
        kept: What is measured already, and where new results go (`cde_train.evaluation.kept_results`).
        show_progress: Whether to show progress bars on stderr.

    Raises:
        ValueError: if there are no sets, no seeds, or two sets of one name.
    """
    names = [data.name for data in sets]
    if not names or not seeds or len(set(names)) < len(names):
        raise ValueError(f"expected sets of different names and at least one seed, received {names} and {list(seeds)}")
    encoder, start, against = encoder.fork(), start and start.fork(), against and against.fork()
    embed = plain or (lambda texts: encoder.encode_first_stage(texts, show_progress=show_progress))
    results = []
    for i, data in enumerate(sets):
        other = foreign if foreign is not None else sets[(i + 1) % len(sets)].documents if len(sets) > 1 else None
        contexts: dict[Key, Sequence[str] | None] = {("null", None): None}
        if other is not None:
            contexts["foreign", seeds[0]] = other
        contexts |= {("corpus", seed): data.documents for seed in seeds}
        others: dict[Key, Rank] = {}
        if start is not None:
            others["start", seeds[0]] = partial(
                rank_in_context, start, data, data.documents, seed=seeds[0], show_progress=show_progress
            )
        if against is not None:
            others["against", None] = partial(rank_in_context, against, data, None, show_progress=show_progress)
        plain_modes = _without_context(data, embed)
        keys = [*plain_modes, *contexts, *others]
        known = {key: result for key in keys if kept and (result := kept.get((data.name, *key)))}
        missing = {key: source for key, source in contexts.items() if key not in known}
        rankings = plain_modes | _in_contexts(encoder, data, missing, show_progress) | others
        for key in keys:
            result = known.get(key) or _result(data, *key, measure(data, rankings[key]()))
            results.append(result)
            if kept and key not in known:
                kept.add(result)
    return Comparison(encoder.config.name, encoder.identity.sha256, encoder.config.max_length, tuple(results))


def _without_context(data: RetrievalSet, embed: Encode) -> dict[Key, Rank]:
    """Return BM25 and the plain modes, which share one encoding of the texts, made when it is first needed."""

    @cache
    def vectors() -> tuple[Vectors, Vectors]:
        return embed(data.queries), embed(data.documents)

    def plain(mode: str) -> Rank:
        return lambda: rank_plain(mode, *vectors())

    bm25: dict[Key, Rank] = {("bm25", None): lambda: rank_bm25(data.documents, data.queries)}
    return bm25 | {(mode, None): plain(mode) for mode in PLAIN_MODES}


def _in_contexts(
    encoder: ContextualEncoder, data: RetrievalSet, contexts: Mapping[Key, Sequence[str] | None], show_progress: bool
) -> dict[Key, Rank]:
    """Return rankings under contexts of some documents, None for null; the texts are encoded when first needed."""

    @cache
    def vectors() -> dict[Key, tuple[Vectors, Vectors]]:
        fitted = [
            encoder.null_context() if source is None else encoder.fit_context(source, seed=seed or 0)
            for (_, seed), source in contexts.items()
        ]
        queries = encoder.encode_under(data.queries, "query", fitted, show_progress=show_progress)
        documents = encoder.encode_under(data.documents, "document", fitted, show_progress=show_progress)
        return dict(zip(contexts, zip(queries, documents, strict=True), strict=True))

    def ranked(key: Key) -> Rank:
        return lambda: rank(*vectors()[key])

    return {key: ranked(key) for key in contexts}


def _result(data: RetrievalSet, mode: str, seed: int | None, quality: Quality) -> Result:
    per_query = tuple(quality.ndcg_at_10.tolist())
    return Result(
        data.name, mode, seed, len(data.documents), len(data.queries), **quality.means(), ndcg_per_query=per_query
    )
