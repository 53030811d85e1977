"""Search with the backbone alone, and with BM25 and the backbone together, as users of hybrid search do today.

The first stage of the bundled checkpoint is the plain backbone, untouched by training, so its vectors are what
sentence-transformers would give. Search is a matrix product; nothing here knows of a context.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cde_retriever import ContextualEncoder
from cde_retriever.search.bm25 import WordSearch
from cde_train.evaluation.baselines import rank_mixture
from cde_train.evaluation.ranking import Ranking, rank

FILES = ("plain_vectors.npy", "plain_ids.npy")


@dataclass(frozen=True)
class PlainVectors:
    """Vectors of a corpus, (n, d) float32 of unit length, and the ids of their nodes."""

    vectors: NDArray[np.float32]
    ids: list[str]

    @classmethod
    def embed(cls, encoder: ContextualEncoder, texts: dict[str, str], *, show_progress: bool = False) -> "PlainVectors":
        """Embed texts, given by their ids, with the plain backbone."""
        vectors = encoder.encode_first_stage(list(texts.values()), show_progress=show_progress)
        return cls(unit_length(vectors), list(texts))

    def search(
        self, encoder: ContextualEncoder, questions: Sequence[str], texts: Sequence[str]
    ) -> tuple[Ranking, Ranking]:
        """Return the positions of texts for each question, best first: by the backbone, and by BM25 and the backbone.

        Args:
            encoder: Whose backbone it is.
            questions: The questions.
            texts: The texts of `ids`, in their order.
        """
        queries = unit_length(encoder.encode_first_stage(questions, role="query"))
        return rank(queries, self.vectors), rank_mixture(WordSearch(texts), questions, (queries, self.vectors))

    def save(self, folder: Path) -> None:
        """Write vectors and ids into a folder."""
        np.save(folder / FILES[0], self.vectors, allow_pickle=False)
        np.save(folder / FILES[1], np.array(self.ids, dtype=np.str_), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "PlainVectors":
        """Read what `save` wrote."""
        vectors, ids = (np.load(folder / name, allow_pickle=False) for name in FILES)
        return cls(vectors, ids.tolist())


def unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = vectors / np.maximum(lengths, 1e-12)
    return scaled
