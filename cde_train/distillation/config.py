"""Define the settings of distillation; plain values, so that reading them loads no framework."""

from collections.abc import Iterator
from dataclasses import dataclass

from cde_retriever.checkpoint.reading import LEAST_SIZE
from cde_train.settings import AtLeast0, AtLeast1, AtLeast2, Positive, Seed, Settings


@dataclass(frozen=True)
class DistillationConfig(Settings):
    """Settings.

    Attributes:
        steps: Steps of Adam; 0 for no distillation.
        learning_rate: Rate of the first step; it falls to 0.
        batch_size: Queries a step.
        queries: Most queries to learn from, drawn at random.
        documents: Most documents that the teacher ranks for each, theirs among them.
        temperature: Divides the teacher's scores, in standard deviations of the cosines between documents.
        vector_size: Numbers of a plain encoder's short vector; 0 for as many as its own have.
        seed: Seed of everything random.
    """

    steps: AtLeast0 = 0
    learning_rate: Positive = 0.03
    batch_size: AtLeast1 = 64
    queries: AtLeast1 = 1000
    documents: AtLeast2 = 2000
    temperature: Positive = 0.5
    vector_size: AtLeast0 = 0
    seed: Seed = 0

    def contradictions(self) -> Iterator[str]:
        """Yield what is wrong between values."""
        if 0 < self.vector_size < LEAST_SIZE:
            yield f"vector_size is {self.vector_size}, expected at least {LEAST_SIZE}, or 0 for that of the encoder"
