"""Rank the whole of a judged corpus for every query, and measure the quality.

Ranking is exhaustive: one product of (queries, d) with (documents, d), a chunk of queries at a time, so memory is
``chunk * documents`` scores. The measures are those of `ir-measures` (trec_eval's definitions, linear gains).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.knowledge import Parts
from cde_retriever.search.best_first import best_first
from cde_retriever.search.hybrid import score
from cde_train.data.retrieval_sets import RetrievalSet

DEPTH = 101
"""Documents retrieved: what the measures look at, and one more, because a query's own text may be among them."""
MEASURES = ("nDCG@10", "R@100", "RR@10")

Ranking = list[NDArray[np.int64]]
"""Positions of the retrieved documents in the corpus, best first, one array a query."""


@dataclass(frozen=True)
class Quality:
    """Measures of one ranking, each from 0 to 1 and one number a query, in the set's query order."""

    ndcg_at_10: NDArray[np.float64]
    recall_at_100: NDArray[np.float64]
    mrr_at_10: NDArray[np.float64]

    def means(self) -> dict[str, float]:
        """Return each measure's mean over the queries."""
        return {name: float(values.mean()) for name, values in vars(self).items()}


def rank(
    queries: NDArray[np.float32], documents: NDArray[np.float32], *, depth: int = DEPTH, chunk: int = 256
) -> Ranking:
    """Rank the whole corpus by inner product.

    Args:
        queries: Query vectors, (q, d).
        documents: Document vectors, (n, d).
        depth: How many documents to keep a query.
        chunk: Queries scored at once; memory is chunk * n scores.

    Raises:
        ValueError: if the shapes do not fit or a vector is not finite.
    """
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"expected vectors of one width, (q, d) and (n, d), received {queries.shape}, {documents.shape}"
        )
    _refuse_unreal(queries, documents)
    ranking: Ranking = []
    for start in range(0, len(queries), chunk):
        ranking += [best_first(row, depth) for row in queries[start : start + chunk] @ documents.T]
    return ranking


def _refuse_unreal(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> None:
    for name, vectors in (("query", queries), ("document", documents)):
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            raise ValueError(f"{len(broken)} {name} vectors are not finite, the first is {broken[0]}")


def rank_parts(queries: Parts, documents: Parts, *, depth: int = DEPTH, chunk: int = 256) -> Ranking:
    """Rank the whole corpus by the sum of the inner products of two parts; otherwise as `rank`."""
    _refuse_unreal(queries.dense, documents.dense)
    ranking: Ranking = []
    for start in range(0, len(queries.dense), chunk):
        some = Parts(queries.dense[start : start + chunk], queries.sparse[start : start + chunk])
        ranking += [best_first(row, depth) for row in score(some, documents)]
    return ranking


def measure(data: RetrievalSet, ranking: Ranking) -> Quality:
    """Measure a ranking of a set's documents for each of its queries.

    A document with the query's own id, which is the query itself in sets such as ArguAna, is left out of the ranking
    unless it is judged relevant, as BEIR does.

    The order of the ranking is what is judged: scores are made from ranks, so trec_eval's own rule for ties, which is
    by document id, plays no part.

    Raises:
        ValueError: if there is not one ranking a query.
    """
    import ir_measures

    if len(ranking) != len(data.queries):
        raise ValueError(f"received {len(ranking)} rankings for {len(data.queries)} queries of {data.name}")
    run = {
        query: {
            key: float(len(row) - i)
            for i, key in enumerate(data.document_ids[position] for position in row)
            if key != query or key in data.relevant[query]
        }
        for query, row in zip(data.query_ids, ranking, strict=True)
    }
    index = {query: i for i, query in enumerate(data.query_ids)}
    values = {name: np.zeros(len(index)) for name in MEASURES}
    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    for result in ir_measures.iter_calc(measures, data.relevant, run):
        values[str(result.measure)][index[result.query_id]] = result.value
    return Quality(*(values[name] for name in MEASURES))


def evaluate(data: RetrievalSet, queries: NDArray[np.float32], documents: NDArray[np.float32]) -> Quality:
    """Measure vectors: `rank` and `measure` in one."""
    return measure(data, rank(queries, documents))
