"""Mine hard negatives: documents near a query that do not answer it.

Documents are ranked under the surrogate's vectors, within the query's domain, by comparing every query with every
document. No negative is a positive of the same query anywhere in the data, nor the query's own text. Every pair gets
exactly as many as asked for, because a batch needs one number: where ranks and margins leave too few, the rest are
drawn at random from the domain's documents that keep the margins; a pair for which even these do not suffice keeps what
it had, and is counted.

Time is linear in the number of pairs: a domain of more than `search_size` of them is searched in random parts.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cde_retriever.progress import progress
from cde_retriever.search.best_first import best_first
from cde_train.data.pairs import TrainingPair
from cde_train.errors import TrainingDataError
from cde_train.settings import AtLeast0, AtLeast1, AtLeast2, Cosine, Seed, Settings
from cde_train.vectors.text_vectors import TextLookup

SCORE_BYTES = 1 << 28
"""Memory for scores of queries against all documents of a part."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MiningConfig(Settings):
    """Which documents are hard negatives.

    Attributes:
        count: Negatives of each pair; its own ones come first and count.
        range_min: Nearest documents to skip, after the margins.
        range_max: Nearest documents to look at.
        absolute_margin: How much less similar than the query's positive a negative must be, as a difference of
            cosines; None for no such bound. With several positives, less than the least similar of them.
        relative_margin: The same as a share of the positive's cosine (NV-Retriever, arXiv 2407.15831: 0.05).
        strategy: ``"top"``, the nearest of those left; ``"random"``, any of them.
        search_size: Pairs whose documents are searched together; a larger domain is cut at random.
        seed: Seed of everything random.
    """

    count: AtLeast1 = 1
    range_min: AtLeast0 = 0
    range_max: int = 100
    absolute_margin: Cosine | None = None
    relative_margin: Cosine | None = 0.05
    strategy: Literal["top", "random"] = "top"
    search_size: AtLeast2 = 100_000
    seed: Seed = 0

    def contradictions(self) -> Iterator[str]:
        """Yield which settings do not go together."""
        if self.range_max - self.range_min < self.count:
            yield (
                f"range_max is {self.range_max}, which leaves too few for {self.count} negatives after the first "
                f"{self.range_min}; set it to at least {self.range_min + self.count}"
            )

    def highest(self, positive: float) -> float:
        """Return the highest score a negative may have beside a positive's."""
        bounds = [np.inf]
        if self.absolute_margin is not None:
            bounds.append(positive - self.absolute_margin)
        if self.relative_margin is not None:
            bounds.append(positive - abs(positive) * self.relative_margin)
        return min(bounds)


@dataclass(frozen=True)
class MiningReport:
    """What mining gave.

    Attributes:
        pairs: Pairs given.
        already_had: Of these, had enough negatives of their own.
        fully_mined: Got all they lacked from the ranks asked for.
        topped_up_at_random: Got some at random.
        too_few: Have too few; left as they were.
    """

    pairs: int
    already_had: int = 0
    fully_mined: int = 0
    topped_up_at_random: int = 0
    too_few: int = 0


@dataclass(frozen=True)
class Mined:
    """Pairs with negatives, in the order given, and what became of them."""

    pairs: list[TrainingPair]
    report: MiningReport


def mine(pairs: Sequence[TrainingPair], config: MiningConfig, *, queries: TextLookup, documents: TextLookup) -> Mined:
    """Return the pairs with hard negatives.

    Args:
        pairs: The pairs; a document of any of them may become a negative of another of its domain.
        config: Which documents, and how many.
        queries: Unit vectors of the queries; may be the same object as `documents`.
        documents: Unit vectors of the documents.

    Raises:
        TrainingDataError: if there are no pairs.
    """
    if not pairs:
        raise TrainingDataError("there are no pairs to mine hard negatives for; give at least two of one domain")
    positives: dict[str, set[str]] = defaultdict(set)
    domains: dict[str, list[int]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        positives[pair.query].add(pair.document)
        domains[pair.domain].append(i)
    result = list(pairs)
    outcomes: dict[str, int] = defaultdict(int)
    for number, domain in enumerate(progress(sorted(domains), label="Mining", unit="domain")):
        rng = np.random.default_rng([config.seed, number])
        for part in _parts(pairs, domains[domain], config.search_size, rng):
            for members, sources in _search(pairs, part, config, queries, documents, rng):
                for i in members:
                    negatives, outcome = _choose(pairs[i], sources, positives[pairs[i].query], config.count)
                    result[i] = replace(pairs[i], negatives=negatives)
                    outcomes[outcome] += 1
    return Mined(result, MiningReport(pairs=len(pairs), **outcomes))


def _parts(
    pairs: Sequence[TrainingPair], members: list[int], size: int, rng: np.random.Generator
) -> Iterator[dict[str, list[int]]]:
    """Cut a domain into random parts of about `size` pairs at most, each as query to its pairs."""
    of_query: dict[str, list[int]] = defaultdict(list)
    for i in members:
        of_query[pairs[i].query].append(i)
    count = -(-len(members) // size)
    if count == 1:
        yield of_query
        return
    queries = list(of_query)
    for part in np.array_split(rng.permutation(len(queries)), count):
        yield {queries[i]: of_query[queries[i]] for i in part}


def _search(
    pairs: Sequence[TrainingPair],
    part: dict[str, list[int]],
    config: MiningConfig,
    queries: TextLookup,
    documents: TextLookup,
    rng: np.random.Generator,
) -> Iterator[tuple[list[int], tuple[list[str], list[str]]]]:
    """Yield, for each query, its pairs, its negatives by rank, and others at random that keep the margins."""
    texts = list(dict.fromkeys(pairs[i].document for members in part.values() for i in members))
    row_of = {text: row for row, text in enumerate(texts)}
    corpus = documents.take(texts)
    asked, chunk = list(part), max(1, SCORE_BYTES // (4 * len(texts)))
    for start in range(0, len(asked), chunk):
        some = asked[start : start + chunk]
        for query, scores in zip(some, queries.take(some) @ corpus.T, strict=True):
            own = [row_of[pairs[i].document] for i in part[query]]
            near = scores <= config.highest(float(scores[own].min()))
            scores[own] = -np.inf
            near[own] = False
            ranked = best_first(scores, config.range_max)
            ranked = ranked[near[ranked]][config.range_min :]
            if config.strategy == "random":
                ranked = rng.permutation(ranked)
            drawn = rng.choice(len(texts), min(len(texts), 64 + 8 * config.count), replace=False)
            yield part[query], ([texts[i] for i in ranked], [texts[i] for i in drawn[near[drawn]]])


def _choose(
    pair: TrainingPair, sources: Sequence[Iterable[str]], positives: set[str], count: int
) -> tuple[tuple[str, ...], str]:
    """Return a pair's negatives and which of the report's outcomes that is."""
    if len(pair.negatives) >= count:
        return pair.negatives, "already_had"
    chosen = dict.fromkeys(pair.negatives)
    barred = positives | {pair.query}
    for source, outcome in zip(sources, ("fully_mined", "topped_up_at_random"), strict=True):
        for text in source:
            if text not in barred:
                chosen.setdefault(text)
            if len(chosen) == count:
                return tuple(chosen), outcome
    return pair.negatives, "too_few"
