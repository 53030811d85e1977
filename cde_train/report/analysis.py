"""Measure a checkpoint under many contexts: each corpus's on each corpus, and its own at several sizes.

A query's difficulty is its mean cosine, under the null context, with the ten nearest documents that do not answer it.

Texts go through the model once where the layout allows it (`ContextualEncoder.encode_under`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.pages.page import Page
from cde_retriever.pages.plots import Plot, Table, heat_map, lines, points
from cde_retriever.search.bm25 import WordSearch
from cde_retriever.words.reading import split
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.evaluation.baselines import rank_mixture
from cde_train.evaluation.ranking import evaluate, measure
from cde_train.evaluation.results import LABELS

SIZES = (16, 64, 128, 256, 512)
NULL = "null"
NEAREST = 10
"""Documents that a query's difficulty is told from."""
FIFTHS = 5
"""Groups of queries, by their difficulty, that nDCG is shown for."""


@dataclass(frozen=True)
class Analysis:
    """nDCG@10 times 100 of a checkpoint.

    Attributes:
        names: Names of the corpora, c.
        by_context: Under the context of each corpus, and at last the null context, on each corpus, (c + 1, c).
        mixture: Of BM25 and plain vectors together on each corpus, (c,).
        sizes: Context sizes.
        by_size: Under the corpus's own context of each size, (sizes, c).
        distances: How far word statistics of two corpora are apart, 0 to 1, (c, c).
        difficulty: Of each corpus the difficulty of each query, (q,).
        by_query: Of each corpus nDCG@10 times 100 of each query under its own context, (q,).
    """

    names: Sequence[str]
    by_context: NDArray[np.float64]
    mixture: NDArray[np.float64]
    sizes: Sequence[int]
    by_size: NDArray[np.float64]
    distances: NDArray[np.float64]
    difficulty: Sequence[NDArray[np.float64]]
    by_query: Sequence[NDArray[np.float64]]


def analyse(encoder: ContextualEncoder, sets: Sequence[RetrievalSet], *, show_progress: bool = False) -> Analysis:
    """Measure a checkpoint on judged corpora.

    Args:
        encoder: The checkpoint, with a null context; keeps the context it has.
        sets: The corpora.
        show_progress: Whether to show progress bars on stderr.
    """
    maker = encoder.fork()
    sizes = [size for size in SIZES if size < encoder.config.context_size] + [encoder.config.context_size]
    if encoder.config.positions != "text":
        sizes = sizes[-1:]  # such a model reads no other number

    def fit(data: RetrievalSet, size: int) -> Context:
        return maker.fit_context(data.documents, context_size=size)

    own = [fit(data, sizes[-1]) for data in sets] + [maker.null_context()]
    by_context, by_size = np.zeros((len(own), len(sets))), np.zeros((len(sizes), len(sets)))
    difficulty, by_query, mixture = [], [], []
    for column, data in enumerate(sets):
        contexts = [*own, *(fit(data, size) for size in sizes[:-1])]
        queries = maker.encode_under(data.queries, "query", contexts)
        documents = maker.encode_under(data.documents, "document", contexts, show_progress=show_progress)
        found = [100 * evaluate(data, *both).ndcg_at_10 for both in zip(queries, documents, strict=True)]
        means = [float(values.mean()) for values in found]
        by_context[:, column] = means[: len(own)]
        by_size[:, column] = [*means[len(own) :], means[column]]
        difficulty.append(query_difficulty(data, queries[len(sets)], documents[len(sets)]))
        by_query.append(found[column])
        plain = maker.encode_first_stage(data.queries, role="query"), maker.encode_first_stage(data.documents)
        ranked = rank_mixture(WordSearch(data.documents), data.queries, plain)
        mixture.append(100 * float(measure(data, ranked).ndcg_at_10.mean()))
    names = [data.name for data in sets]
    distances = word_distances(sets)
    return Analysis(names, by_context, np.array(mixture), sizes, by_size, distances, difficulty, by_query)


def query_difficulty(
    data: RetrievalSet, queries: NDArray[np.float32], documents: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the difficulty of each query, (q,), given unit vectors under the null context; 0 if all answer it.

    Args:
        data: The set.
        queries: Vectors of its queries, (q, d).
        documents: Vectors of its documents, (n, d).
    """
    place = {name: row for row, name in enumerate(data.document_ids)}
    found = np.zeros(len(queries))
    for number, (query, vector) in enumerate(zip(data.query_ids, queries, strict=True)):
        others = np.delete(
            documents @ vector, [place[name] for name in {query, *data.relevant[query]} if name in place]
        )
        found[number] = np.sort(others)[-NEAREST:].mean() if len(others) else 0
    return found


def word_distances(sets: Sequence[RetrievalSet]) -> NDArray[np.float64]:
    """Return how far corpora are apart, (c, c): 1 - cosine of the shares of documents with each word."""
    counts = [Counter(word for text in data.documents for word in set(split(text))) for data in sets]
    place = {word: number for number, word in enumerate(dict.fromkeys(word for found in counts for word in found))}
    shares = np.zeros((len(sets), len(place)))
    for row, found in zip(shares, counts, strict=True):
        row[[place[word] for word in found]] = list(found.values())
    shares /= np.maximum(np.linalg.norm(shares, axis=1, keepdims=True), 1e-12)
    return np.clip(1 - shares @ shares.T, 0, 1).round(9)  # of a corpus from itself none, not what rounding leaves


def write_analysis_page(name: str, found: Analysis) -> Page:
    """Return the page of an analysis.

    Args:
        name: The checkpoint's.
        found: What was measured.
    """
    own, null = np.diag(found.by_context), found.by_context[-1]
    gain = own - null
    page = Page(f"{name} under many contexts")
    spread = f"average of {len(gain)} corpora, from {gain.min():+.1f} to {gain.max():+.1f}"
    where = spread if len(gain) > 1 else found.names[0]
    page.text(f"Own context against null: {gain.mean():+.1f} nDCG@10 on {where}.", strong=True)
    above = own - found.mixture
    page.text(f"Own context against {LABELS['mixture']}, a usual hybrid search: {above.mean():+.1f} nDCG@10.")
    rows = [(label, row.tolist()) for label, row in zip([*found.names, NULL], found.by_context, strict=True)]
    rows.append((LABELS["mixture"], found.mixture.tolist()))
    alt = (
        "nDCG@10 under each context, a row, on each corpus, a column; own contexts on the diagonal, below them "
        "null and a usual hybrid search without a context."
    )
    page.plot(heat_map("Each context on each corpus", alt, found.names, rows, x="corpus", y="context"))
    series = {name: (list(found.sizes), found.by_size[:, column].tolist()) for column, name in enumerate(found.names)}
    alt = f"nDCG@10 on each corpus under its own context of {found.sizes[0]} to {found.sizes[-1]} documents, or of all."
    page.plot(
        lines(
            "Quality by size of the context", alt, series, x="documents in the context, at most", y="nDCG@10 (0 to 100)"
        )
    )
    if len(found.names) > 1:
        page.plot(_by_distance(found))
    page.plot(_by_difficulty(found))
    columns = (found.names, *(figures.tolist() for figures in (null, own, gain, found.mixture)))
    headings = ("corpus", "null", "own", "gain", LABELS["mixture"])
    return page.table(Table(headings, list(zip(*columns, strict=True))), "nDCG@10 (0 to 100)")


def _by_distance(found: Analysis) -> Plot:
    """Plot the gain of each context on each corpus over null by how far their words are apart."""
    both = [(i, j) for i in range(len(found.names)) for j in range(len(found.names))]
    dots = {
        kind: [
            (
                float(found.distances[i, j]),
                float(found.by_context[i, j] - found.by_context[-1, j]),
                f"{found.names[i]} on {found.names[j]}",
            )
            for i, j in both
            if (i == j) == (kind == "own")
        ]
        for kind in ("foreign", "own")
    }
    alt = "Gain over the null context by how far the words of context and corpus are apart, a point for each pair."
    return points("Gain by distance of words", alt, dots, x="distance of word statistics", y="gain over null")


def _by_difficulty(found: Analysis) -> Plot:
    """Plot nDCG@10 under the own context of the queries of each corpus, in fifths by their difficulty."""
    series = {}
    for name, difficulty, quality in zip(found.names, found.difficulty, found.by_query, strict=True):
        groups = [group for group in np.array_split(np.argsort(difficulty, kind="stable"), FIFTHS) if len(group)]
        series[name] = [float(difficulty[g].mean()) for g in groups], [float(quality[g].mean()) for g in groups]
    alt = "Mean nDCG@10 of each fifth of a corpus's queries, from the easiest to the hardest."
    x = f"mean cosine with the {NEAREST} nearest documents that do not answer"
    return lines("Quality by difficulty of the query", alt, series, x=x, y="nDCG@10 (0 to 100)")
