"""Both parts against one vector: documents embedded, and one query at a time asked of an exact index of them.

Each repetition embeds the next part of the documents, in both parts and in one vector. The index then holds them all;
a query is embedded and searched. One vector is searched by Faiss, exactly: threads of NumPy's products and of PyTorch
wait for each other. By exact words alone nothing is embedded. The model needs a corpus head.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np

from benchmarks.performance.documents import part_by_part, split
from benchmarks.performance.rivals import load_encoder, set_fitted_context
from benchmarks.performance.texts import queries_of, real_documents
from benchmarks.performance.timing import interleave, medians, per_text, ratio
from cde_retriever.context.knowledge import Parts
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.search.parts_index import PartsIndex

READS = ("context_size", "documents", "queries", "batch_size", "repetitions")
FOUND = 10


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time documents in both parts and in one vector, then queries in each mode."""
    texts, source = real_documents(options.eval_folder, max(options.documents, options.context_size))
    documents = texts[: options.documents]
    encoder = load_encoder(options.checkpoint)
    set_fitted_context(encoder, texts, options.context_size)
    parts = split(documents, options.repetitions)
    made: dict[str, list[Any]] = {"both": [], "one": []}
    subjects = {form: part_by_part(keeping(encoder, form, options.batch_size, made[form]), parts) for form in made}
    embedding = interleave(subjects, options.repetitions, "Documents")
    queries = queries_of(encoder, documents, options.queries)
    searches = searching(encoder, queries, index_of(made["both"], encoder), np.concatenate(made["one"]))
    asking = per_text(interleave(searches, options.repetitions, "Queries"), dict.fromkeys(searches, len(queries)))
    return {
        "ratios": {
            "documents": ratio(embedding, "both", "one"),
            "hybrid": ratio(asking, "hybrid", "one"),
            "sparse": ratio(asking, "sparse", "one"),
        },
        "milliseconds_a_query": {name: 1000 * value for name, value in medians(asking).items()},
        "seconds": {"documents": embedding, "queries": asking},
        "about": {"documents": len(documents), "queries": len(queries), "texts_from": source},
    }


def keeping(
    encoder: ContextualEncoder, form: str, batch_size: int, made: list[Any]
) -> Callable[[Sequence[str]], object]:
    """Return what embeds documents in a form, and keeps what it made."""
    return lambda texts: made.append(encoder.encode_documents(texts, batch_size=batch_size, parts=form))


def index_of(made: Sequence[Parts], encoder: ContextualEncoder) -> PartsIndex:
    """Return an index of documents in both parts; those of the warm-up are in it twice, under two ids."""
    index, count = PartsIndex(encoder.context.fingerprint), 0
    for parts in made:
        ids = [str(count + row) for row in range(len(parts.dense))]
        index.add(ids, parts)
        count += len(ids)
    return index


def searching(
    encoder: ContextualEncoder, queries: Sequence[str], index: PartsIndex, vectors: np.ndarray[Any, Any]
) -> dict[str, Callable[[], object]]:
    """Return what embeds and searches all queries one by one, in two modes of the index and by one vector."""
    plain = faiss.IndexFlatIP(vectors.shape[1])
    plain.add(vectors)

    def by_vector(text: str) -> object:
        return plain.search(encoder.encode_queries([text]), FOUND)[1][0]

    def by_words(text: str) -> object:
        sparse = encoder.encode_queries([text], parts="sparse")
        return index.search(Parts(np.zeros((1, encoder.dense_dimension), np.float32), sparse), FOUND, mode="sparse")

    ways: dict[str, Callable[[str], object]] = {
        "hybrid": lambda text: index.search(encoder.encode_queries([text], parts="both"), FOUND),
        "sparse": by_words,
        "one": by_vector,
    }
    return {name: lambda way=way: [way(text) for text in queries] for name, way in ways.items()}
