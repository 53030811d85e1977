"""Make queries for documents that have none, and keep those that find their document again.

A heading, sentence or span that becomes the query is taken out of the pair's document, except in a tenth of the pairs
(as in the inverse cloze task, Lee et al. 2019): otherwise training learns to copy. Keywords stay in the document.
Time is linear in the documents: the round trip ranks against a sample of at most `PseudoQueryConfig.distractors`.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cde_retriever.lifecycle.questions import GENERATORS, LEAST_WORDS, built_in, without
from cde_retriever.words.pieces import count_words
from cde_train.data.pairs import TrainingPair
from cde_train.errors import TrainingDataError
from cde_train.settings import AtLeast1, Seed, Settings, Share
from cde_train.vectors.text_vectors import TextLookup

_CHUNK = 1024


@dataclass(frozen=True)
class PseudoQueryConfig(Settings):
    """Settings.

    Attributes:
        generators: Which of the built-in generators to use.
        per_document: Most queries of one document.
        keep_text: Share of pairs whose document keeps the text that became the query.
        keep_rank: A pair is kept if fewer than this many other documents are closer to its query.
        distractors: Most other documents the round trip ranks against, drawn at random.
        seed: Seed of every draw.
    """

    generators: tuple[Literal["heading", "lead", "keywords", "crop"], ...] = GENERATORS
    per_document: AtLeast1 = 2
    keep_text: Share = 0.1
    keep_rank: AtLeast1 = 10
    distractors: AtLeast1 = 20_000
    seed: Seed = 0

    def contradictions(self) -> Iterator[str]:
        """Yield what is wrong between values."""
        if not self.generators:
            yield f"generators is empty, expected some of {', '.join(GENERATORS)}"


@dataclass(frozen=True)
class RoundTrip:
    """The pairs that the round trip kept, and by generator how many it kept and dropped."""

    pairs: list[TrainingPair]
    kept: dict[str, int]
    dropped: dict[str, int]


def make_pairs(
    documents: Iterable[str], domain: str, config: PseudoQueryConfig | None = None
) -> dict[TrainingPair, str]:
    """Make pairs; what a document gives follows from its text, the corpus and the seed, not from the order.

    Args:
        documents: The documents; repeated ones count once.
        domain: Domain of the pairs.
        config: Settings.

    Returns:
        The pairs, the source of each the whole document it was made of, and the name of the generator of each.

    Raises:
        TrainingDataError: if no document gives a pair.
    """
    config = config or PseudoQueryConfig()
    if isinstance(documents, str):
        raise TypeError(f"documents is one string, {documents!r:.80}, expected several")
    texts = list(dict.fromkeys(documents))
    generators = built_in(config.generators, texts)
    made: dict[TrainingPair, str] = {}
    for text in texts:
        rng = random.Random(hashlib.blake2b(f"{config.seed}\0{text}".encode(), digest_size=16).digest())
        found: dict[str, tuple[str, str]] = {}
        for name, generator in generators.items():
            for query in generator(text, rng):
                rest = text if rng.random() < config.keep_text else without(text, query)
                if query.strip() and count_words(rest) >= LEAST_WORDS and rest.strip() != query.strip():
                    found.setdefault(query.strip(), (name, rest))
        for query in rng.sample(list(found), min(config.per_document, len(found))):
            origin, rest = found[query]
            made[TrainingPair(query, rest, domain, source=text)] = origin
    if not made:
        raise TrainingDataError(f"none of {len(texts)} documents gives a query; they may be too short")
    return made


def round_trip_filter(
    made: Mapping[TrainingPair, str], vectors: TextLookup, config: PseudoQueryConfig | None = None
) -> RoundTrip:
    """Keep the pairs whose query finds its document under the surrogate.

    The query must be nearer to the pair's document, in which its own words are missing, than to all but
    ``keep_rank - 1`` of the other whole documents; the document it was made of does not compete.

    Args:
        made: The pairs, and the name of the generator of each.
        vectors: Vectors of queries, documents and sources.
        config: Settings.

    Raises:
        TrainingDataError: if no pair is left.
    """
    config = config or PseudoQueryConfig()
    pairs = list(made)
    sources = sorted({pair.source for pair in pairs})
    if len(sources) > config.distractors:
        sources = sorted(random.Random(config.seed).sample(sources, config.distractors))
    corpus, row = vectors.take(sources), {text: i for i, text in enumerate(sources)}
    kept: list[TrainingPair] = []
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        queries = vectors.take([pair.query for pair in chunk])
        own = (queries * vectors.take([pair.document for pair in chunk])).sum(axis=1)
        scores = queries @ corpus.T
        for i, pair in enumerate(chunk):
            if pair.source in row:
                scores[i, row[pair.source]] = -np.inf
        better = (scores > own[:, None]).sum(axis=1)
        kept += [chunk[i] for i in np.flatnonzero(better < config.keep_rank)]
    if not kept:
        raise TrainingDataError(f"none of {len(pairs)} pseudo-queries finds its document; raise keep_rank")
    counts = Counter(made[pair] for pair in kept)
    return RoundTrip(kept, dict(counts), dict(Counter(made.values()) - counts))
