"""Hard negatives: documents near a query that are not its answer, found by sentence-transformers' miner.

Documents are ranked under the surrogate's vectors, or those of the checkpoint in training, within the query's domain.
No negative is a positive of the same query anywhere in the data, nor the query's own text. Every pair gets exactly as
many as asked for, because a batch needs one number: where ranks and margins leave too few, the rest are drawn at random
from the domain's documents that keep the margins; a pair for which even these do not suffice keeps what it had, and is
counted.

Time is linear in the number of pairs: a domain of more than `search_size` of them is searched in random parts.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cde_train.data.pairs import TrainingPair
from cde_train.errors import TrainingDataError
from cde_train.vectors.text_vectors import TextLookup

STRATEGIES = ("top", "random")
SCORE_BYTES = 1 << 28
"""Memory for scores of queries against all documents of a part."""
MANY_POSITIVES = 32
"""Queries with more are mined apart: the miner keeps so many extra candidates for every query it is given."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MiningConfig:
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

    count: int = 1
    range_min: int = 0
    range_max: int = 100
    absolute_margin: float | None = None
    relative_margin: float | None = 0.05
    strategy: str = "top"
    search_size: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.faults():
            raise ValueError("; ".join(self.faults()))

    def faults(self) -> list[str]:
        """Return what is wrong with the values, a sentence each."""
        found = []
        for name, least in (("count", 1), ("range_min", 0), ("search_size", 2), ("seed", 0)):
            if getattr(self, name) < least:
                found.append(f"{name} is {getattr(self, name)}, expected at least {least}")
        if self.range_max - self.range_min < self.count:
            found.append(
                f"range_max is {self.range_max}, which leaves too few for {self.count} negatives after the first "
                f"{self.range_min}; set it to at least {self.range_min + self.count}"
            )
        for name in ("absolute_margin", "relative_margin"):
            value = getattr(self, name)
            if value is not None and not -2 <= value <= 2:
                found.append(f"{name} is {value}, expected a number from -2 to 2")
        if self.strategy not in STRATEGIES:
            found.append(f"strategy is {self.strategy!r}, expected one of {', '.join(STRATEGIES)}")
        return found

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
        brought: Of these, had enough negatives of their own.
        mined: Got all they lacked from the ranks asked for.
        filled: Got some at random.
        without: Have too few; left as they were.
    """

    pairs: int
    brought: int
    mined: int
    filled: int
    without: int


@dataclass(frozen=True)
class Mined:
    """Pairs with negatives, in the order given, and what became of them."""

    pairs: list[TrainingPair]
    report: MiningReport


@dataclass(frozen=True)
class EncodedTexts:
    """Vectors from a model, such as ``EncodedTexts(encoder.encode_queries)``, in place of stored ones.

    Attributes:
        encode: Texts to vectors, which are brought to unit length here.
    """

    encode: Callable[[Sequence[str]], Any]

    def take(self, texts: Sequence[str]) -> Floats:
        """Return the unit vectors of these texts, (m, d)."""
        vectors = np.asarray(self.encode(texts), dtype=np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def mine(pairs: Sequence[TrainingPair], config: MiningConfig, *, queries: TextLookup, documents: TextLookup) -> Mined:
    """Return the pairs with hard negatives.

    Args:
        pairs: The pairs; a document of any of them may become a negative of another of its domain.
        config: Which documents, and how many.
        queries: Vectors of the queries; may be the same object as `documents`.
        documents: Vectors of the documents.

    Raises:
        TrainingDataError: if a vector is not finite, or there are no pairs.
    """
    if not pairs:
        raise TrainingDataError("there are no pairs to mine hard negatives for; give at least two of one domain")
    positives: dict[str, set[str]] = defaultdict(set)
    domains: dict[str, list[int]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        positives[pair.query].add(pair.document)
        domains[pair.domain].append(i)
    result = list(pairs)
    outcomes = {"brought": 0, "mined": 0, "filled": 0, "without": 0}
    for number, domain in enumerate(tqdm(sorted(domains), desc="Mining", unit="domain")):
        rng = np.random.default_rng([config.seed, number])
        for part in _parts(pairs, domains[domain], config.search_size, rng):
            search = _Search([pairs[i] for i in part], config, queries, documents)
            ranked = search.run()
            for i in part:
                sources = (ranked.get(pairs[i].query, ()), search.more(pairs[i].query, rng))
                negatives, outcome = _choose(pairs[i], sources, positives[pairs[i].query], config.count)
                result[i] = replace(pairs[i], negatives=negatives)
                outcomes[outcome] += 1
    return Mined(result, MiningReport(pairs=len(pairs), **outcomes))


def _choose(
    pair: TrainingPair, sources: Sequence[Iterable[str]], positives: set[str], count: int
) -> tuple[tuple[str, ...], str]:
    """Return a pair's negatives and which of the report's outcomes that is."""
    if len(pair.negatives) >= count:
        return pair.negatives, "brought"
    chosen = dict.fromkeys(pair.negatives)
    barred = positives | {pair.query}
    for source, outcome in zip(sources, ("mined", "filled"), strict=True):
        for text in source:
            if text not in barred:
                chosen.setdefault(text)
            if len(chosen) == count:
                return tuple(chosen), outcome
    return pair.negatives, "without"


def _parts(
    pairs: Sequence[TrainingPair], members: list[int], size: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Cut a domain into random parts of about `size` pairs at most; pairs of one query stay together."""
    count = -(-len(members) // size)
    if count == 1:
        yield members
        return
    of_query: dict[str, list[int]] = defaultdict(list)
    for i in members:
        of_query[pairs[i].query].append(i)
    groups = list(of_query.values())
    for part in np.array_split(rng.permutation(len(groups)), count):
        yield [i for group in part for i in groups[group]]


class _Search:
    """The queries and documents that are searched together; to the miner, a model that knows their vectors."""

    device = "cpu"

    def __init__(
        self, pairs: Sequence[TrainingPair], config: MiningConfig, queries: TextLookup, documents: TextLookup
    ) -> None:
        self.config = config
        self.positives: dict[str, dict[str, None]] = defaultdict(dict)
        for pair in pairs:
            self.positives[pair.query][pair.document] = None
        self.texts = list(dict.fromkeys(pair.document for pair in pairs))
        self._queries = {query: row for row, query in enumerate(self.positives)}
        self._documents = {text: row for row, text in enumerate(self.texts)}
        self._query_vectors = _finite(queries.take(list(self.positives)), list(self.positives))
        self._document_vectors = _finite(documents.take(self.texts), self.texts)

    def run(self) -> dict[str, list[str]]:
        """Return the negatives of each query that has any, nearest first."""
        ranked: dict[str, list[str]] = {}
        few = {query: found for query, found in self.positives.items() if len(found) <= MANY_POSITIVES}
        many = {query: found for query, found in self.positives.items() if len(found) > MANY_POSITIVES}
        for group in (few, many):
            if group and len(self.texts) > 1:
                ranked |= self._mine(group)
        return ranked

    def _mine(self, group: dict[str, dict[str, None]]) -> dict[str, list[str]]:
        """Let sentence-transformers mine for some queries."""
        from datasets import Dataset  # type: ignore[import-untyped]
        from sentence_transformers.util import mine_hard_negatives

        config = self.config
        rows = [(query, document) for query, documents in group.items() for document in documents]
        state = random.getstate()  # the miner draws from Python's own generator
        random.seed(config.seed)
        try:
            mined = mine_hard_negatives(
                Dataset.from_dict({"query": [q for q, _ in rows], "positive": [d for _, d in rows]}),
                self,  # type: ignore[arg-type]
                corpus=self.texts,
                range_min=config.range_min,
                range_max=config.range_max,
                absolute_margin=config.absolute_margin,
                relative_margin=config.relative_margin,
                # One more than asked for, in case one is the query's own text.
                num_negatives=min(config.count + 1, config.range_max - config.range_min),
                sampling_strategy=config.strategy,  # type: ignore[arg-type]
                output_format="labeled-list",
                faiss_batch_size=max(1, SCORE_BYTES // (4 * len(self.texts))),
                verbose=False,
            )
        finally:
            random.setstate(state)
        return {row["query"]: row["positive"][1:] for row in mined}

    def more(self, query: str, rng: np.random.Generator) -> Iterator[str]:
        """Yield documents that keep the margins to a query, at random; gives up after a few dozen."""
        vector = self._query_vectors[self._queries[query]]
        positives = self.encode_document(list(self.positives[query]))
        highest = self.config.highest(float((positives @ vector).min()))
        drawn = rng.choice(len(self.texts), min(len(self.texts), 64 + 8 * self.config.count), replace=False)
        for i in drawn[self._document_vectors[drawn] @ vector <= highest]:
            yield self.texts[i]

    def encode_query(self, texts: Sequence[str], **_: Any) -> Floats:
        """Return the vectors of queries, as the miner asks for them."""
        return self._query_vectors[[self._queries[text] for text in texts]]

    def encode_document(self, texts: Sequence[str], **_: Any) -> Floats:
        """Return the vectors of documents, as the miner asks for them."""
        return self._document_vectors[[self._documents[text] for text in texts]]

    def similarity(self, left: Any, right: Any) -> Any:
        """Return the cosine of every pair of unit vectors, (m, n)."""
        import torch

        return torch.as_tensor(left) @ torch.as_tensor(right).T

    def similarity_pairwise(self, left: Any, right: Any) -> Any:
        """Return the cosines row by row, (m,)."""
        import torch

        return (torch.as_tensor(left) * torch.as_tensor(right)).sum(dim=1)


def _finite(vectors: Floats, texts: Sequence[str]) -> Floats:
    good = np.isfinite(vectors).all(axis=1)
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        raise TrainingDataError(f"the vector of {texts[bad]!r:.80} is not finite; embed it again")
    return vectors
