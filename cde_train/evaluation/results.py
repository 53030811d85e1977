"""Hold what a comparison measured: each ranking, differences with their intervals, and the tables of both."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.search.mixture import WORD_SHARE
from cde_train.evaluation.baselines import ADAPTATIONS
from cde_train.evaluation.statistics import bootstrap

PLAIN_MODES = ("plain", *ADAPTATIONS)
CONTEXT_MODES = ("null", "foreign", "corpus")
OTHER_MODES = ("against", "against_own", "against_hybrid")
MODES = ("bm25", "mixture", *PLAIN_MODES, *CONTEXT_MODES, "hybrid", "start", "start_hybrid", *OTHER_MODES)
LABELS = {
    "bm25": "BM25",
    "mixture": f"BM25 {WORD_SHARE} + plain backbone {1 - WORD_SHARE}",
    "plain": "plain backbone",
    "centring": "+ centring",
    "whitening": "+ PCA whitening",
    "shrunk_whitening": "+ shrunk whitening",
    "soft_whitening": "+ soft whitening",
    "all_but_the_top": "+ all-but-the-top",
    "null": "null context",
    "foreign": "foreign context",
    "corpus": "corpus context",
    "hybrid": "corpus context, vector and words",
    "start": "starting model",
    "start_hybrid": "starting model, vector and words",
    "against": "the other checkpoint, null context",
    "against_own": "the other checkpoint, corpus context",
    "against_hybrid": "the other checkpoint, corpus context, vector and words",
}
MEASURES = {"ndcg_at_10": "nDCG@10", "recall_at_100": "recall@100", "mrr_at_10": "MRR@10"}


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


@dataclass(frozen=True)
class Difference:
    """One mode, the judged one if not said, minus a rival in nDCG@10, -1 to 1, with the ends of its 95 % interval."""

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
    _differences: dict[str, list[Difference]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def sets(self) -> list[str]:
        """Names of the sets, in the order measured."""
        return list(dict.fromkeys(result.set for result in self.results))

    @property
    def modes(self) -> list[str]:
        """Modes measured, in the order of `MODES`."""
        return [mode for mode in MODES if any(result.mode == mode for result in self.results)]

    @property
    def judged(self) -> str:
        """The mode that stands for the checkpoint under the corpus's context: two parts if measured, or one vector."""
        return "hybrid" if "hybrid" in self.modes else "corpus"

    @property
    def start(self) -> str:
        """The mode that stands for the model it started from, likewise."""
        return "start_hybrid" if "start_hybrid" in self.modes else "start"

    @property
    def against(self) -> str:
        """The mode that stands for another checkpoint, likewise; none if none was measured."""
        return next((mode for mode in reversed(OTHER_MODES) if mode in self.modes), "")

    def value(self, name: str, mode: str, measured: str = "ndcg_at_10") -> float | None:
        """Return a measure of a set and mode; None if it was not measured."""
        found = self._of(name, mode)
        return None if found is None else float(getattr(found, measured))

    def _of(self, name: str, mode: str) -> Result | None:
        return next((r for r in self.results if (r.set, r.mode) == (name, mode)), None)

    def _per_query(self, name: str, mode: str) -> NDArray[np.float64]:
        found = self._of(name, mode)
        return np.array([] if found is None else found.ndcg_per_query)

    def differences(self, of: str = "") -> list[Difference]:
        """Return one mode, the judged one if not said, minus every other, over the sets that have both; drawn once."""
        of = of or self.judged
        if of not in self._differences:
            self._differences[of] = self._drawn(of)
        return list(self._differences[of])

    def _drawn(self, of: str) -> list[Difference]:
        found = []
        for rival in self.modes:
            names = [n for n in self.sets if rival != of and self._of(n, rival) and self._of(n, of)]
            if not names:
                continue
            paired = {name: self._per_query(name, of) - self._per_query(name, rival) for name in names}
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
            table[mode] = {**row, "ndcg_low": low, "ndcg_high": high, "sets": len(names)}
        return table

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
            "judged": self.judged,
            "differences": [{**vars(d), "verdict": d.verdict} for d in self.differences()],
        }

    def markdown(self) -> str:
        """Return the tables, in hundredths."""
        lines = ["| set | mode | " + " | ".join(MEASURES.values()) + " |", "|---|---|" + "--:|" * len(MEASURES)]
        for name in self.sets:
            for mode in self.modes:
                if self._of(name, mode):
                    cells = [f"{100 * (self.value(name, mode, m) or 0.0):.2f}" for m in MEASURES]
                    lines.append(f"| {name} | {LABELS[mode]} | " + " | ".join(cells) + " |")
        lines += ["", f"| {LABELS[self.judged]} minus | nDCG@10 | 95 % interval | loses on |", "|---|--:|---|---|"]
        for d in self.differences():
            losses = ", ".join(f"{name} {100 * value:+.1f}" for name, value in d.loses_on.items()) or "no set"
            interval = f"{100 * d.low:+.2f} to {100 * d.high:+.2f}"
            rival = f"{LABELS[d.rival]} ({d.sets} set{'s' * (d.sets > 1)})"
            lines.append(f"| {rival} | {100 * d.mean:+.2f} | {interval} | {losses} |")
        return "\n".join(lines) + "\n"
