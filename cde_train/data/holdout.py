"""Hold out a part of the data to judge on: its documents, near-copies of them and its queries are not trained on.

The retrieval set's corpus is every document of the data: the held-out ones are relevant, the others, training documents
among them, are distractors. A query that was made of a passage stands in no held-out document of it. Whether a document
is held out follows from its text and the seed, so that more data leave the split as it was. Near-copies share half of
their 13-grams with a held-out document.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cde_retriever.lifecycle.questions import LEAST_WORDS, without
from cde_retriever.words.pieces import comparable, count_words
from cde_train.data.near_copies import Grams
from cde_train.data.pairs import TrainingPair
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.errors import TrainingDataError
from cde_train.settings import AtLeast1, OpenShare, Seed, Settings

NEAR = 0.5


@dataclass(frozen=True)
class HoldOutConfig(Settings):
    """Settings.

    Attributes:
        share: Share of the documents held out.
        queries: Most held-out queries; documents of the others are held out all the same.
        least: Fewest held-out queries, below which figures mean nothing.
        seed: Seed of the split.
    """

    share: OpenShare = 0.05
    queries: int = 1000
    least: AtLeast1 = 5
    seed: Seed = 0

    def contradictions(self) -> Iterator[str]:
        """Yield which settings do not go together."""
        if self.queries < self.least:
            yield f"queries is {self.queries}, fewer than least, which is {self.least}"


def hold_out(
    pairs: Sequence[TrainingPair], documents: Sequence[str], config: HoldOutConfig
) -> tuple[list[TrainingPair], RetrievalSet]:
    """Split pairs into training pairs and a retrieval set.

    Pairs of one source, or of one document where they have none, stay together, and all held-out documents of a source
    are relevant to its queries.

    Args:
        pairs: All pairs.
        documents: Further documents of the corpus; near-copies of held-out ones are left out.
        config: Settings.

    Raises:
        TrainingDataError: if too few queries are held out, or nothing is left to train on.
    """
    keys = [_key(pair.source or pair.document) for pair in pairs]
    drawn = {key for key in set(keys) if _is_drawn(key, config)}
    held = [i for i, key in enumerate(keys) if key in drawn]
    if len(held) < config.least:
        raise TrainingDataError(
            f"{len(held)} of {len(pairs)} pairs would be held out, expected at least {config.least}; they have "
            f"{len(set(keys))} different documents: give more, or raise held_out.share"
        )
    held_out = _HeldOut(pairs[i] for i in held)
    train = [pair for pair, key in zip(pairs, keys, strict=True) if key not in drawn and not held_out.holds(pair)]
    if not train:
        raise TrainingDataError(
            f"no pair of {len(pairs)} is left to train on, because each has a held-out query or a near-copy of "
            "a held-out document; give others, or lower held_out.share"
        )
    held.sort(key=lambda i: (_draw(keys[i], config.seed), _key(pairs[i].query), pairs[i].document))
    answers = _without_queries([pairs[i] for i in held])
    corpus = dict.fromkeys(answers)
    corpus.update(dict.fromkeys(pair.document for pair in train))
    corpus.update(dict.fromkeys(text for text in documents if not held_out.near(text)))
    asked = [(pairs[i].query, keys[i]) for i in held]
    return train, _retrieval_set(asked, answers, list(corpus), config.queries)


def _without_queries(pairs: Sequence[TrainingPair]) -> list[str]:
    """Return the documents of pairs, without the words of any query of the same source.

    A pair's document lacks its own query, but not the source's other queries: what is relevant to those would hold
    them word for word.
    """
    queries: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.source:
            queries.setdefault(pair.source, []).append(pair.query)
    found = []
    for pair in pairs:
        document = pair.document
        for query in queries.get(pair.source, ()):
            rest = without(document, query)
            document = rest if count_words(rest) >= LEAST_WORDS else document
        found.append(document)
    return found


def _retrieval_set(
    asked: Sequence[tuple[str, str]], documents: Sequence[str], corpus: list[str], most: int
) -> RetrievalSet:
    """Return the set of held-out pairs: their queries and keys of their sources, their documents, and the corpus."""
    numbers = {text: f"d{i}" for i, text in enumerate(corpus)}
    answers: dict[str, dict[str, int]] = {}
    for (_, key), document in zip(asked, documents, strict=True):
        answers.setdefault(key, {})[numbers[document]] = 1
    relevant: dict[str, dict[str, int]] = {}
    for query, key in asked:
        relevant.setdefault(query, {}).update(answers[key])
    queries = list(relevant)[:most]
    return RetrievalSet(
        name="held_out",
        document_ids=tuple(numbers.values()),
        documents=tuple(corpus),
        query_ids=tuple(f"q{i}" for i in range(len(queries))),
        queries=tuple(queries),
        relevant={f"q{i}": relevant[text] for i, text in enumerate(queries)},
    )


def drawn_pairs(pairs: Iterable[TrainingPair], config: HoldOutConfig) -> list[TrainingPair]:
    """Return the pairs that `hold_out` holds out, whole: documents of its retrieval set lack the made queries."""
    return [pair for pair in pairs if _is_drawn(_key(pair.source or pair.document), config)]


def _is_drawn(key: str, config: HoldOutConfig) -> bool:
    return _draw(key, config.seed) < config.share


def leave_out_copies(pairs: Sequence[TrainingPair], held: Iterable[TrainingPair]) -> list[TrainingPair]:
    """Return the pairs that share no query and no document, nor a near-copy of one, with pairs that are held out."""
    held_out = _HeldOut(held)
    return [pair for pair in pairs if not held_out.holds(pair)]


class _HeldOut:
    """Queries and documents of pairs that are held out, and what they were taken from whole, to find copies of."""

    def __init__(self, pairs: Iterable[TrainingPair]) -> None:
        held = list(pairs)
        self._asked = {_key(pair.query) for pair in held}
        self._grams = Grams()
        distinct = list(dict.fromkeys(text for pair in held for text in (pair.document, pair.source) if text))
        self._keys = set(map(_key, distinct))
        grams = [self._grams(comparable(text)) for text in distinct]
        self._known: NDArray[np.uint64] = np.unique(np.concatenate([np.zeros(0, np.uint64), *grams]))

    def holds(self, pair: TrainingPair) -> bool:
        """Whether a pair has one of the queries, or a near-copy of one of the documents."""
        return _key(pair.query) in self._asked or any(map(self.near, (pair.document, *pair.negatives)))

    def near(self, text: str) -> bool:
        """Whether a text is one of the documents, or shares half of its 13-grams with them."""
        if _key(text) in self._keys:
            return True
        grams = self._grams(comparable(text))
        if not len(grams) or not len(self._known):
            return False
        at = np.searchsorted(self._known, grams).clip(max=len(self._known) - 1)
        return bool((self._known[at] == grams).mean() >= NEAR)


def _key(text: str) -> str:
    """Return a text's words, or the text itself if it has none."""
    return " ".join(comparable(text)) or text.strip()


def _draw(key: str, seed: int) -> float:
    """Return a number from 0 to 1 that follows from a text and the seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest(), "big") / 2**64
