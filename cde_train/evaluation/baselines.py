"""Rank by what a contextual model must be compared with: BM25, plain vectors adapted to the corpus, or both mixed.

The adaptations are fitted on a corpus's document vectors alone, never on queries, and applied to both sides:

    x  ->  normalise((x - mean) @ matrix)

| name | matrix | source |
| --- | --- | --- |
| centring | identity | |
| whitening | textbook PCA whitening, power 0.5, all spanned directions | Su et al., arXiv 2103.15316 |
| shrunk whitening | the same of the covariance shrunk towards a sphere by OAS, no free parameter | Chen et al. 2010 |
| soft whitening | shrunk whitening of power 0.25 | power near the 0.26 a head learned in training |
| all but the top | removes the D = d / 100 strongest directions | Mu & Viswanath 2018, ICLR, section 2 |

A corpus of fewer documents than dimensions spans fewer directions than d. Textbook whitening then puts all
documents at equal distances and projects queries onto their span; the shrunk ones do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cde_retriever.search.best_first import best_first, finite_first
from cde_retriever.search.bm25 import WordSearch
from cde_retriever.search.mixture import WORD_SHARE, mixed
from cde_train.evaluation.ranking import DEPTH, Ranking

Vectors = NDArray[np.float32]
RELATIVE_RANK = 1e-6
"""Directions with less than this share of the largest variance count as not spanned."""


def rank_bm25(words: WordSearch, queries: Sequence[str]) -> Ranking:
    """Rank by BM25; documents that share no word with the query are not retrieved, so a row may be short."""
    ranking: Ranking = []
    for scores in words.score(queries):
        row = best_first(scores, DEPTH)
        ranking.append(row[scores[row] > 0])
    return ranking


def rank_mixture(words: WordSearch, queries: Sequence[str], vectors: tuple[Vectors, Vectors]) -> Ranking:
    """Rank as hybrid search does elsewhere (`cde_retriever.search.mixture`).

    Args:
        words: BM25 of the corpus, n documents.
        queries: What is asked, q texts.
        vectors: Plain vectors of queries, (q, d), and of documents, (n, d).
    """
    ranking: Ranking = []
    asked, held = vectors
    for by_words, query in zip(words.score(queries), asked, strict=True):
        ranking.append(finite_first(mixed(by_words, held @ query, WORD_SHARE), DEPTH))
    return ranking


@dataclass(frozen=True, eq=False)
class Adaptation:
    """A linear map fitted on a corpus.

    Attributes:
        mean: Subtracted first, (d,).
        matrix: Multiplied from the right, (d, e).
    """

    mean: NDArray[np.float64]
    matrix: NDArray[np.float64]

    def __call__(self, vectors: Vectors) -> Vectors:
        """Map vectors, (n, d), to unit vectors, (n, e)."""
        mapped = (vectors.astype(np.float64) - self.mean) @ self.matrix
        length = np.linalg.norm(mapped, axis=1, keepdims=True)
        return np.asarray(mapped / np.maximum(length, np.finfo(np.float64).tiny), dtype=np.float32)


def centring(documents: Vectors) -> Adaptation:
    """Subtract the mean document."""
    return Adaptation(_mean(documents), np.eye(documents.shape[1]))


def whitening(documents: Vectors) -> Adaptation:
    """Give the documents identity covariance: project onto their principal axes, divide by the standard deviation."""
    return _whiten(_mean(documents), _covariance(documents))


def shrunk_whitening(documents: Vectors, power: float = 0.5) -> Adaptation:
    """Whiten with the covariance shrunk towards a multiple of the identity, as much as OAS says.

    Args:
        documents: Document vectors, (n, d).
        power: Each axis is divided by its variance to this power: 0.5 whitens, 0 rotates only.
    """
    from sklearn.covariance import oas  # type: ignore[import-untyped]

    mean = _mean(documents)
    return _whiten(mean, oas(documents.astype(np.float64))[0], power)


def soft_whitening(documents: Vectors) -> Adaptation:
    """Go half the way to `shrunk_whitening`: power 0.25."""
    return shrunk_whitening(documents, 0.25)


def all_but_the_top(documents: Vectors) -> Adaptation:
    """Subtract the mean and remove the strongest directions: the authors' d / 100, rounded, at least one."""
    mean, width = _mean(documents), documents.shape[1]
    count = max(1, round(width / 100))
    _, axes = np.linalg.eigh(_covariance(documents))
    top = axes[:, width - count :]
    return Adaptation(mean, np.eye(width) - top @ top.T)


ADAPTATIONS: dict[str, Callable[[Vectors], Adaptation]] = {
    "centring": centring,
    "whitening": whitening,
    "shrunk_whitening": shrunk_whitening,
    "soft_whitening": soft_whitening,
    "all_but_the_top": all_but_the_top,
}


def _whiten(mean: NDArray[np.float64], covariance: NDArray[np.float64], power: float = 0.5) -> Adaptation:
    variances, axes = np.linalg.eigh(covariance)
    spanned = variances > RELATIVE_RANK * variances[-1]
    return Adaptation(mean, axes[:, spanned] / variances[spanned] ** power)


def _mean(documents: Vectors) -> NDArray[np.float64]:
    if documents.ndim != 2 or len(documents) < 2:
        raise ValueError(f"an adaptation needs at least two document vectors, (n, d), received {documents.shape}")
    return np.asarray(documents.mean(axis=0, dtype=np.float64))


def _covariance(documents: Vectors) -> NDArray[np.float64]:
    centred = documents.astype(np.float64) - _mean(documents)
    return np.asarray(centred.T @ centred / len(documents))
