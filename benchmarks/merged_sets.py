"""Judged sets as one corpus, whose questions are those of all."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.head_ranking import PlainTexts
from benchmarks.quality import Bench
from cde_train.data.retrieval_sets import RetrievalSet


def merge(bench: Bench, folders: Sequence[Path]) -> tuple[RetrievalSet, PlainTexts, list[str]]:
    """Return sets as one, its plain vectors, and which set each document comes from."""
    sets, plain = [bench.data(folder)[0] for folder in folders], [bench.plain(folder) for folder in folders]
    documents = tuple(text for data in sets for text in data.documents)
    queries = tuple(text for data in sets for text in data.queries)
    judged = {
        f"{data.name}/{query}": {f"{data.name}/{document}": grade for document, grade in grades.items()}
        for data in sets
        for query, grades in data.relevant.items()
    }
    merged = RetrievalSet(
        "merged",
        tuple(f"{data.name}/{name}" for data in sets for name in data.document_ids),
        documents,
        tuple(f"{data.name}/{name}" for data in sets for name in data.query_ids),
        queries,
        judged,
    )
    vectors = [np.concatenate([getattr(p, name) for p in plain]) for name in ("document_vectors", "query_vectors")]
    return merged, PlainTexts(documents, queries, *vectors), [data.name for data in sets for _ in data.documents]
