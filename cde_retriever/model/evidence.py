"""Hold what a second stage is told of a context: how many documents, their vectors, their words. No PyTorch."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Array = TypeVar("Array")


@dataclass(frozen=True, eq=False)
class Evidence(Generic[Array]):
    """What is known of a context's documents; a model is given what it reads, as NumPy arrays or as tensors.

    Attributes:
        documents: How many there are, c; 0 for the null context. A tensor of one number while a graph is traced.
        vectors: First-stage vectors, (c, d); None for a model that reads none.
        frequencies: How many of the documents hold each token, (V,); None for a model without term statistics, and
            where no document was counted.
    """

    documents: int | Any
    vectors: Array | None = None
    frequencies: Array | None = None
