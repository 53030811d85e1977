"""Learn a short vector's numbers on pairs: their queries, the documents a teacher ranks for each, and the best student.

How many of a vector's numbers are directions, and how many topics, is learned too: a student of each split is taught,
and the one nearest to the teacher is taken. No split has less than `LEAST` of directions: made queries share words with
their documents as people's do not, so the teacher's words are easily overrated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.words.reading import reader
from cde_train.data.pairs import TrainingPair
from cde_train.distillation.config import DistillationConfig
from cde_train.distillation.student import Context, Law, divergence, see, train
from cde_train.distillation.teacher import Texts, Vectors, target

LEAST = 1 / 3
SHARES = (5 / 6, 1 / 2, LEAST)
"""Shares of directions to try beside the start's own."""


@dataclass(frozen=True)
class Chosen:
    """What to learn from, as texts: distinct queries and documents."""

    queries: list[str]
    documents: list[str]


@dataclass(frozen=True)
class Learned:
    """The head learned, and how far the start's and its own rankings are from the teacher's, in nats a query."""

    head: HeadSettings
    before: float
    after: float


def choose(pairs: Sequence[TrainingPair], config: DistillationConfig) -> Chosen:
    """Draw queries, and documents that theirs are among."""
    order = np.random.default_rng(config.seed).permutation(len(pairs))
    queries = list(dict.fromkeys(pairs[i].query for i in order))[: config.queries]
    asked = set(queries)
    own = [pairs[i].document for i in order if pairs[i].query in asked]
    documents = list(dict.fromkeys([*own, *(pairs[i].document for i in order)]))
    return Chosen(queries, documents[: config.documents])


def learn(
    chosen: Chosen,
    vectors: tuple[Vectors, Vectors],
    head: HeadSettings,
    context_size: int,
    config: DistillationConfig,
) -> Learned:
    """Return what is learned.

    Args:
        chosen: The texts.
        vectors: Plain unit vectors of the documents, (n, d), and of the queries, (q, d).
        head: Of the short vector to start from.
        context_size: How many of the documents are the context.
        config: Settings.
    """
    words, skip = reader(head.language), head.skip_question_words
    documents = Texts(vectors[0], words.read(chosen.documents, "document"))
    queries = Texts(vectors[1], words.read(chosen.queries, "query", skip_question_words=skip))
    taught = target(documents, queries, HeadSettings(language=head.language, attended=0), config.temperature)
    rows = np.random.default_rng(config.seed).permutation(len(chosen.documents))[:context_size]
    context = Context.of(documents, rows)
    parts = [slice(first, first + config.batch_size) for first in range(0, len(chosen.queries), config.batch_size)]
    before, found = 0.0, list[tuple[float, HeadSettings]]()
    for started in splits(head, vectors[0].shape[1]):
        seen = see(documents, queries, context, started)
        law = Law(started)
        if started == head:
            before = float(divergence(law, seen, taught).detach())
        train([(seen.take(part), taught[part]) for part in parts], law, config)
        found.append((float(divergence(law, seen, taught).detach()), law.put_into(started)))
    after, best = min(found, key=lambda one: one[0])
    return Learned(best, before, after)


def splits(head: HeadSettings, plain_width: int) -> list[HeadSettings]:
    """Return the head, and heads of as many numbers with more or fewer directions, at most those of a plain vector."""
    numbers = head.directions + head.topics
    counts = dict.fromkeys([head.directions, *(min(round(share * numbers), plain_width) for share in SHARES)])
    return [replace(head, directions=count, topics=numbers - count) for count in counts]
