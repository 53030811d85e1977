"""Sample a judged corpus around its queries, and estimate by how much that raises the figures.

In the sample are all answers; for three quarters of the room left, the documents that BM25 and given vectors rank
highest for the queries, rank after rank; and documents at random. A document that would stand high and is not in the
sample is missed, so figures on a sample are too high. By how much is estimated with rankers that had no part in the
choice: BM25 on a sample chosen by the vectors alone, and the vectors on one chosen by BM25 alone, each beside its
figure on the whole corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cde_retriever.search.bm25 import WordSearch
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.evaluation.baselines import rank_bm25
from cde_train.evaluation.ranking import Ranking, measure, rank
from cde_train.vectors.text_vectors import TextLookup

ANSWERS = 0.25
"""Largest share of a sample that answers take; beyond it, queries are left out."""
NEAR = 0.75
"""Share of the room left that goes to the documents ranked highest."""
FEWEST_DOCUMENTS = 1000
"""Below it, a sample must prove itself: of real corpora, smaller ones raise nDCG@10 x 100 by up to 22 (docs/log.md)."""
SMALL_ERROR = 0.01


@dataclass(frozen=True)
class SampledCorpus:
    """A retrieval set with fewer documents.

    Attributes:
        data: The set.
        whole: How many documents the whole corpus has.
        error: By how much nDCG@10, from 0 to 1, is higher than on the whole corpus, for the worse of two rankers.
    """

    data: RetrievalSet
    whole: int
    error: float

    @property
    def sentence(self) -> str:
        """What a reader of the figures must know."""
        return (
            f"Measured on {len(self.data.documents)} of {self.whole} documents: the answers, those that BM25 or the "
            "surrogate ranks highest, and others at random. Figures are too high by up to "
            f"{100 * self.error:.2f} nDCG@10, the gain of a ranker that had no part in the choice."
        )


def sample_corpus(data: RetrievalSet, vectors: TextLookup, most: int, *, seed: int = 0) -> SampledCorpus:
    """Return a set of so many documents, with as many of the queries as it has room for.

    Args:
        data: The whole set.
        vectors: Unit vectors of its documents and queries.
        most: How many documents to keep.
        seed: Seed of the random part.
    """
    data = _with_answers(data, int(ANSWERS * most))
    queries, documents = vectors.take(data.queries), vectors.take(data.documents)
    by_words, by_vectors = rank_bm25(WordSearch(data.documents), data.queries), rank(queries, documents)
    order = np.random.default_rng(seed).permutation(len(data.documents))
    left = _choose(data, [by_vectors], order, most)
    words = measure(_part(data, left), rank_bm25(WordSearch([data.documents[i] for i in left]), data.queries))
    left = _choose(data, [by_words], order, most)
    dense = measure(_part(data, left), rank(queries, documents[left]))
    gains = [
        float((on_sample.ndcg_at_10 - measure(data, on_all).ndcg_at_10).mean())
        for on_sample, on_all in ((words, by_words), (dense, by_vectors))
    ]
    kept = _part(data, _choose(data, [by_words, by_vectors], order, most))
    return SampledCorpus(kept, len(data.documents), max(0.0, *gains))


def trusted_sample(data: RetrievalSet, vectors: TextLookup, most: int, *, seed: int = 0) -> SampledCorpus:
    """Return a sample of so many documents, or a larger one where figures on it would say little.

    With fewer than `FEWEST_DOCUMENTS` it is taken if it keeps every query and its error is at most `SMALL_ERROR`; if
    not, the sample has so many, or is the whole set. Arguments are those of `sample_corpus`.
    """
    if most < FEWEST_DOCUMENTS and most < len(data.documents):
        sample = sample_corpus(data, vectors, most, seed=seed)
        if sample.data.queries == data.queries and sample.error <= SMALL_ERROR:
            return sample
    most = max(most, FEWEST_DOCUMENTS)
    if len(data.documents) <= most:
        return SampledCorpus(data, len(data.documents), 0.0)
    return sample_corpus(data, vectors, most, seed=seed)


def _with_answers(data: RetrievalSet, most: int) -> RetrievalSet:
    """Return the set with its first queries, whose answers are so many documents at most; with one at least."""
    answers: set[str] = set()
    count = 0
    for query in data.query_ids:
        answers |= data.relevant[query].keys()
        if len(answers) > most and count:
            break
        count += 1
    kept = data.query_ids[:count]
    relevant = {query: data.relevant[query] for query in kept}
    return replace(data, query_ids=kept, queries=data.queries[:count], relevant=relevant)


def _choose(data: RetrievalSet, rankings: Sequence[Ranking], order: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return which documents are in a sample, in the order of the corpus."""
    answers = {key for gains in data.relevant.values() for key in gains}
    chosen = dict.fromkeys(i for i, key in enumerate(data.document_ids) if key in answers)
    near = len(chosen) + int(NEAR * (most - len(chosen)))
    rows = [row for ranking in rankings for row in ranking]
    for place in range(max(map(len, rows))):
        chosen.update(dict.fromkeys(int(row[place]) for row in rows if place < len(row)))
        if len(chosen) >= near:
            break
    found = np.array(list(chosen), np.int64)[: max(near, len(answers))]
    others = order[~np.isin(order, found)]
    return np.sort(np.concatenate([found, others[: max(0, most - len(found))]]))


def _part(data: RetrievalSet, rows: NDArray[np.int64]) -> RetrievalSet:
    """Return the set with these documents alone."""
    ids, documents = (tuple(values[i] for i in rows) for values in (data.document_ids, data.documents))
    return replace(data, document_ids=ids, documents=documents)
