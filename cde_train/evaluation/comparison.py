"""Compare a checkpoint with its baselines, for `cde-train evaluate` and the report of `cde-train fit`.

| mode | what ranks |
| --- | --- |
| ``bm25`` | BM25 |
| ``mixture`` | BM25 and plain vectors together, as hybrid search does elsewhere |
| ``plain`` | the backbone without context: the checkpoint's first stage on both sides, under their prompts |
| ``centring`` … ``all_but_the_top`` | plain vectors, adapted to the corpus's (`cde_train.evaluation.baselines`) |
| ``null``, ``foreign``, ``corpus`` | the checkpoint under null context, another corpus's, the corpus's own |
| ``start`` | the model training started from, under corpus context |
| ``against`` | another checkpoint, such as one of the same training without context, under null context |

Cost: every text is encoded once for the plain modes and once per context, or under the layout ``late`` once for all
contexts of a model (`ContextualEncoder.encode_under`); the rest is seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.search.bm25 import WordSearch
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.evaluation.baselines import ADAPTATIONS, rank_bm25, rank_mixture
from cde_train.evaluation.kept_results import KeptResults
from cde_train.evaluation.ranking import Quality, Ranking, measure, rank
from cde_train.evaluation.results import PLAIN_MODES, Comparison, Result

Vectors = NDArray[np.float32]
Rank = Callable[[], Ranking]
SEED = 0
"""Seed of the contexts' samples."""
DRAWN = ("foreign", "corpus", "start")
"""Modes with a context that is drawn."""


def rank_plain(mode: str, queries: Vectors, documents: Vectors) -> Ranking:
    """Rank plain vectors, (q, d) and (n, d), as they are or adapted to the corpus; one of `PLAIN_MODES`."""
    if mode == "plain":
        return rank(queries, documents)
    adaptation = ADAPTATIONS[mode](documents)
    return rank(adaptation(queries), adaptation(documents))


def rank_in_context(
    encoder: ContextualEncoder,
    data: RetrievalSet,
    source: Sequence[str] | None,
    *,
    seed: int = 0,
    show_progress: bool = False,
) -> Ranking:
    """Rank under the context of a corpus; the encoder keeps that context.

    Args:
        encoder: The checkpoint.
        data: What to rank.
        source: The documents the context is sampled from; None for null context.
        seed: Seed of the sample.
        show_progress: Whether to show progress bars on stderr.
    """
    if source is None:
        encoder.set_context(encoder.null_context())
    else:
        encoder.fit_context(source, seed=seed)
    documents = encoder.encode_documents(data.documents, show_progress=show_progress)
    return rank(encoder.encode_queries(data.queries, show_progress=show_progress), documents)


def compare(
    encoder: ContextualEncoder,
    sets: Sequence[RetrievalSet],
    *,
    start: ContextualEncoder | None = None,
    against: ContextualEncoder | None = None,
    kept: KeptResults | None = None,
    show_progress: bool = False,
) -> Comparison:
    """Measure a checkpoint and its rivals; the encoders given keep whatever context was set on them.

    Args:
        encoder: The checkpoint.
        sets: Judged corpora; the next one, if there are several, is a set's foreign corpus.
        start: The model training started from.
        against: A checkpoint of the same training without context.
        kept: What is measured already, and where new results go.
        show_progress: Whether to show progress bars on stderr.

    Raises:
        ValueError: if there are no sets, or two of one name.
    """
    names = [data.name for data in sets]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected sets of different names, received {names}")
    encoder, start, against = encoder.fork(), start and start.fork(), against and against.fork()
    results: list[Result] = []
    for i, data in enumerate(sets):
        contexts: dict[str, Sequence[str] | None] = {"null": None}
        if len(sets) > 1:
            contexts["foreign"] = sets[(i + 1) % len(sets)].documents
        contexts["corpus"] = data.documents
        others: dict[str, Rank] = {}
        if start is not None:
            others["start"] = partial(rank_in_context, start, data, data.documents, show_progress=show_progress)
        if against is not None:
            others["against"] = partial(rank_in_context, against, data, None, show_progress=show_progress)
        plain_modes = _without_context(encoder, data, show_progress)
        missing = {mode: source for mode, source in contexts.items() if not (kept and kept.get(data.name, mode))}
        in_contexts = _in_contexts(encoder, data, missing, show_progress)
        results += _measured(data, [*plain_modes, *contexts, *others], plain_modes | in_contexts | others, kept)
    return Comparison(encoder.config.name, encoder.identity.sha256, encoder.config.max_length, tuple(results))


def _measured(
    data: RetrievalSet, modes: Sequence[str], rankings: Mapping[str, Rank], kept: KeptResults | None
) -> Iterator[Result]:
    """Yield the result of each mode: what is kept already, or what its ranking measures, which is then kept."""
    for mode in modes:
        result = kept.get(data.name, mode) if kept else None
        if result is None:
            result = result_of(data, mode, measure(data, rankings[mode]()))
            if kept:
                kept.add(result)
        yield result


def _without_context(encoder: ContextualEncoder, data: RetrievalSet, show_progress: bool) -> dict[str, Rank]:
    """Return BM25, the mixture and the plain modes, which share an encoding and an index, made when needed."""

    @cache
    def vectors() -> tuple[Vectors, Vectors]:
        queries = encoder.encode_first_stage(data.queries, role="query", show_progress=show_progress)
        return queries, encoder.encode_first_stage(data.documents, show_progress=show_progress)

    @cache
    def words() -> WordSearch:
        return WordSearch(data.documents)

    def plain(mode: str) -> Rank:
        return lambda: rank_plain(mode, *vectors())

    by_words: dict[str, Rank] = {
        "bm25": lambda: rank_bm25(words(), data.queries),
        "mixture": lambda: rank_mixture(words(), data.queries, vectors()),
    }
    return by_words | {mode: plain(mode) for mode in PLAIN_MODES}


def _in_contexts(
    encoder: ContextualEncoder, data: RetrievalSet, contexts: Mapping[str, Sequence[str] | None], show_progress: bool
) -> dict[str, Rank]:
    """Return rankings under contexts of some documents, None for null; the texts are encoded when first needed."""

    @cache
    def vectors() -> dict[str, tuple[Vectors, Vectors]]:
        fitted = [
            encoder.null_context() if source is None else encoder.fit_context(source, seed=SEED)
            for source in contexts.values()
        ]
        queries = encoder.encode_under(data.queries, "query", fitted, show_progress=show_progress)
        documents = encoder.encode_under(data.documents, "document", fitted, show_progress=show_progress)
        return dict(zip(contexts, zip(queries, documents, strict=True), strict=True))

    def ranked(mode: str) -> Rank:
        return lambda: rank(*vectors()[mode])

    return {mode: ranked(mode) for mode in contexts}


def result_of(data: RetrievalSet, mode: str, quality: Quality) -> Result:
    """Return what was measured of a mode on a set."""
    seed = SEED if mode in DRAWN else None
    per_query = tuple(quality.ndcg_at_10.tolist())
    return Result(
        data.name, mode, seed, len(data.documents), len(data.queries), **quality.means(), ndcg_per_query=per_query
    )
