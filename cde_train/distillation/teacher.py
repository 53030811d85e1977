"""Rank as one who knows a whole corpus: vectors moved to their neighbours in it, and exact words by its statistics."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Knowledge
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import TextCounts

Vectors = NDArray[np.float32]


class Texts(NamedTuple):
    """Texts as a model reads them: plain unit vectors, (n, d), and counts of words and grams."""

    vectors: Vectors
    words: TextCounts

    def take(self, rows: NDArray[np.int64]) -> "Texts":
        """Return some of the texts."""
        return Texts(self.vectors[rows], self.words.take(rows))


def teach(documents: Texts, queries: Texts, settings: HeadSettings) -> tuple[Vectors, float]:
    """Return the teacher's scores, (q, n), and the spread of the documents' cosines, the unit that words weigh in."""
    knowledge = Knowledge(settings, documents.vectors, CorpusWords.of(settings.language, documents.words))
    scores: Vectors = queries.vectors @ knowledge.move(documents.vectors, np.arange(len(documents.vectors))).T
    scores += knowledge.query_words(queries.words).dot(knowledge.document_words(documents.words))
    return scores, knowledge.spread


def target(documents: Texts, queries: Texts, settings: HeadSettings, temperature: float) -> Tensor:
    """Return the teacher's distribution over documents, (q, n); the temperature is in spreads of their cosines."""
    scores, spread = teach(documents, queries, settings)
    return torch.from_numpy(scores / (temperature * spread)).softmax(dim=1)
