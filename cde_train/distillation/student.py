"""Learn how a short vector weighs its context's directions and topics, by a teacher's rankings.

The student has the numbers of `HeadSettings.short`: plain vectors along the context's main directions
(`cde_retriever.context.directions`), and words in its topics (`cde_retriever.words.topics`). What is learned is three
numbers: the power p by which a direction of less variance counts for more, what topics are worth, and the scale of
scores, which no ranking depends on. The loss is the listwise KL divergence from the teacher over all documents:

    KL = Σ_n t_n (log t_n - log softmax_n(scale · score))

Shapes: q queries, n documents, J context documents, r directions, t topics.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cde_retriever.context.directions import main_directions
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Knowledge
from cde_retriever.words.corpus_words import CorpusWords
from cde_train.distillation.config import DistillationConfig
from cde_train.distillation.teacher import Texts

SCALE = 14.0


@dataclass(frozen=True)
class Seen:
    """What a student has of a corpus under one context.

    Attributes:
        queries: Plain vectors along the main directions, (q, r).
        documents: The same of moved ones, (n, r).
        variances: Of the directions, (r,), descending.
        asked: Topics of the queries, (q, t).
        topics: Topics of the documents, (n, t).
    """

    queries: Tensor
    documents: Tensor
    variances: Tensor
    asked: Tensor
    topics: Tensor

    def take(self, rows: slice) -> "Seen":
        """Return the same of some queries."""
        return replace(self, queries=self.queries[rows], asked=self.asked[rows])


@dataclass(frozen=True)
class Context:
    """Context documents, and which of the corpus's documents they are; None where they are of another corpus."""

    texts: Texts
    rows: NDArray[np.int64] | None

    @classmethod
    def of(cls, documents: Texts, rows: NDArray[np.int64]) -> "Context":
        """Take documents of the corpus itself."""
        return cls(documents.take(rows), rows)


def see(documents: Texts, queries: Texts, context: Context, head: HeadSettings) -> Seen:
    """Return a corpus as a student sees it, given the head of a short vector."""
    reads = replace(head, directions=0, levelling=0.0, topic_weight=1.0, sketch=0)
    known = Knowledge(reads, context.texts.vectors, CorpusWords.of(head.language, context.texts.words))
    plain, width = documents.vectors, documents.vectors.shape[1]
    numbers = np.full(len(plain), -1)
    if context.rows is not None:
        numbers[context.rows] = np.arange(len(context.rows))
    moved = known.move(plain, numbers)
    topics = known.within.documents(moved, documents.words.words)
    asked = known.within.queries(queries.vectors, queries.words.words)
    found = min(head.topics, len(context.texts.vectors))
    variances, places = main_directions(context.texts.vectors, head.directions + head.topics - found)
    parts = (
        *(queries.vectors @ places, moved @ places, variances),
        *(
            side[:, width : width + found] / np.linalg.norm(side[:, :width], axis=1)[:, None]
            for side in (asked, topics)
        ),
    )
    return Seen(*(torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in parts))


class Law(nn.Module):
    """Three numbers: p, the logarithm of what topics are worth, and that of the scale.

    Args:
        head: Whose numbers to start from.
    """

    def __init__(self, head: HeadSettings) -> None:
        super().__init__()
        self.levelling = nn.Parameter(torch.tensor(head.levelling))
        self.worth = nn.Parameter(torch.tensor(head.topic_weight).log())
        self.scale = nn.Parameter(torch.tensor(SCALE).log())

    def forward(self, seen: Seen) -> Tensor:
        """Return scores, (q, n)."""
        weights = (seen.variances[0] / seen.variances) ** self.levelling
        return (seen.queries * weights) @ seen.documents.T + self.worth.exp() * (seen.asked @ seen.topics.T)

    def put_into(self, head: HeadSettings) -> HeadSettings:
        """Return a head with the numbers learned."""
        levelling, worth = float(self.levelling.detach()), float(self.worth.detach().exp())
        return replace(head, levelling=max(levelling, 0.0), topic_weight=worth)


def divergence(law: Law, seen: Seen, target: Tensor) -> Tensor:
    """Return the KL divergence from the teacher, mean over queries, in nats."""
    scores = (law(seen) * law.scale.exp()).log_softmax(dim=1)
    return nn.functional.kl_div(scores, target, reduction="batchmean")


def train(lessons: Sequence[tuple[Seen, Tensor]], law: Law, config: DistillationConfig) -> Law:
    """Change a law by lessons in random order, and return it; of the settings, seed, steps and rate count.

    Raises:
        FloatingPointError: if the loss is not finite.
    """
    rng, rate = np.random.default_rng(config.seed), config.learning_rate
    optimizer = torch.optim.Adam(law.parameters(), lr=rate)
    for step in range(config.steps):
        loss = divergence(law, *lessons[int(rng.integers(len(lessons)))])
        if not loss.isfinite():
            raise FloatingPointError(
                f"the loss is {float(loss.detach())} at step {step}; lower distillation.learning_rate"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.param_groups[0]["lr"] = rate * (1 - (step + 1) / config.steps)
    return law
