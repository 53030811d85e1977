"""Compare a checkpoint with its baselines, for `cde-train evaluate` and the report of `cde-train fit`.

| mode | what ranks |
| --- | --- |
| ``bm25`` | BM25 |
| ``mixture`` | BM25 and plain vectors together, as hybrid search does elsewhere |
| ``plain`` | the backbone without context: the checkpoint's first stage on both sides, under their prompts |
| ``centring`` … ``all_but_the_top`` | plain vectors, adapted to the corpus's (`cde_train.evaluation.baselines`) |
| ``null``, ``foreign``, ``corpus`` | the checkpoint's one vector under null context, another corpus's, its own |
| ``hybrid`` | the checkpoint's two parts, vector and words, under the corpus's own (`judged_parts`) |
| ``start``, ``start_hybrid`` | the model training started from, in one vector and as the checkpoint is judged |
| ``against`` | another checkpoint without a corpus head, such as one trained without context, under the null context |
| ``against_own``, ``against_hybrid`` | another checkpoint with one, under the corpus's own, likewise |

Cost: every text is encoded once for the plain modes and once per context, or under the layout ``late`` once for all
contexts and both forms of a model (`ContextualEncoder.encode_under`); the rest is seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.context import Context
from cde_retriever.context.knowledge import Parts
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.one_pass import one_pass
from cde_retriever.search.bm25 import WordSearch
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.evaluation.baselines import ADAPTATIONS, rank_bm25, rank_mixture
from cde_train.evaluation.kept_results import KeptResults
from cde_train.evaluation.ranking import Quality, Ranking, measure, rank, rank_parts
from cde_train.evaluation.results import PLAIN_MODES, Comparison, Result

Vectors = NDArray[np.float32]
Rank = Callable[[], Ranking]
SEED = 0
"""Seed of the contexts' samples."""
HYBRID = {"corpus": "hybrid", "start": "start_hybrid", "against_own": "against_hybrid"}
"""What two parts are called where one vector is called so."""
DRAWN = ("foreign", *HYBRID, *HYBRID.values())
"""Modes with a context that is drawn."""


def rank_plain(mode: str, queries: Vectors, documents: Vectors) -> Ranking:
    """Rank plain vectors, (q, d) and (n, d), as they are or adapted to the corpus; one of `PLAIN_MODES`."""
    if mode == "plain":
        return rank(queries, documents)
    adaptation = ADAPTATIONS[mode](documents)
    return rank(adaptation(queries), adaptation(documents))


def judged_parts(encoder: ContextualEncoder) -> str:
    """Return the form that a checkpoint is judged in: ``"both"`` parts of a corpus head, or the ``"one"`` vector.

    Who makes the one vector short wants that, and its numbers, which `cde_train.distillation` learns, are of it alone.
    """
    head = encoder.head_settings
    return "one" if head is None or head.directions else "both"


def rank_in_context(
    encoder: ContextualEncoder,
    data: RetrievalSet,
    source: Sequence[str] | None,
    *,
    parts: str = "one",
    seed: int = 0,
    show_progress: bool = False,
) -> Ranking:
    """Rank under the context of a corpus; the encoder keeps that context.

    Args:
        encoder: The checkpoint.
        data: What to rank.
        source: The documents the context is sampled from; None for null context.
        parts: ``"one"`` vector, or ``"both"`` parts of a model with a corpus head.
        seed: Seed of the sample.
        show_progress: Whether to show progress bars on stderr.
    """
    if source is None:
        encoder.set_context(encoder.null_context())
    else:
        encoder.fit_context(source, seed=seed)
    documents = encoder.encode_documents(data.documents, parts=parts, show_progress=show_progress)
    queries = encoder.encode_queries(data.queries, parts=parts, show_progress=show_progress)
    return rank_parts(queries, documents) if parts == "both" else rank(queries, documents)


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
        against: Another checkpoint: with a corpus head as it is used, without one as of a training without context.
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
        ways = _without_context(encoder, data, show_progress)
        both = judged_parts(encoder) == "both"
        ways |= _in_contexts(encoder, data, contexts, both, kept, show_progress)
        if start is not None:
            ways |= _in_contexts(start, data, {"start": data.documents}, both, kept, show_progress)
        if against is not None:
            contexts = {"against": None} if against.head_settings is None else {"against_own": data.documents}
            ways |= _in_contexts(against, data, contexts, both and judged_parts(against) == "both", kept, show_progress)
        with one_pass():  # both forms of a corpus head, under all contexts, are made of the same plain vectors
            results += _measured(data, ways, kept)
    return Comparison(encoder.config.name, encoder.identity.sha256, encoder.config.max_length, tuple(results))


def _measured(data: RetrievalSet, ways: Mapping[str, Rank], kept: KeptResults | None) -> Iterator[Result]:
    """Yield the result of each mode: what is kept already, or what its ranking measures, which is then kept."""
    for mode, ranked in ways.items():
        result = kept.get(data.name, mode) if kept else None
        if result is None:
            result = result_of(data, mode, measure(data, ranked()))
            if kept:
                kept.add(result)
        yield result


def _without_context(encoder: ContextualEncoder, data: RetrievalSet, show_progress: bool) -> dict[str, Rank]:
    """Return BM25, the mixture and the plain modes, which share an encoding and an index, made when needed."""

    @cache
    def vectors() -> tuple[Vectors, Vectors]:
        if encoder.head_settings is not None:
            plain = encoder.without_context()
            queries = plain.encode_queries(data.queries, parts="dense", show_progress=show_progress)
            return queries, plain.encode_documents(data.documents, parts="dense", show_progress=show_progress)
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
    encoder: ContextualEncoder,
    data: RetrievalSet,
    contexts: Mapping[str, Sequence[str] | None],
    both: bool,
    kept: KeptResults | None,
    show_progress: bool,
) -> dict[str, Rank]:
    """Return rankings under contexts of some documents, None for null; the texts are encoded when first needed.

    If `both`, the modes in `HYBRID` are ranked by two parts as well, of a model with a corpus head.
    """
    both = both and encoder.head_settings is not None
    hybrid = {HYBRID[mode]: mode for mode in contexts if mode in HYBRID and both}
    wanted = {mode for mode in [*contexts, *hybrid] if not (kept and kept.get(data.name, mode))}

    @cache
    def made() -> dict[str, tuple[Any, Any]]:
        needed = wanted | {hybrid[mode] for mode in wanted if mode in hybrid}
        fitted = {mode: _context_of(encoder, source) for mode, source in contexts.items() if mode in needed}
        one = {mode: context for mode, context in fitted.items() if mode in wanted}
        queries = encoder.encode_under(data.queries, "query", list(one.values()), show_progress=show_progress)
        documents = encoder.encode_under(data.documents, "document", list(one.values()), show_progress=show_progress)
        vectors: dict[str, tuple[Any, Any]] = dict(zip(one, zip(queries, documents, strict=True), strict=True))
        for mode in wanted & hybrid.keys():
            vectors[mode] = _in_parts(encoder, data, fitted[hybrid[mode]], show_progress)
        return vectors

    def ranked(mode: str) -> Rank:
        return lambda: (rank_parts if mode in hybrid else rank)(*made()[mode])

    return {mode: ranked(mode) for mode in [*contexts, *hybrid]}


def _context_of(encoder: ContextualEncoder, source: Sequence[str] | None) -> Context:
    return encoder.null_context() if source is None else encoder.fit_context(source, seed=SEED)


def _in_parts(
    encoder: ContextualEncoder, data: RetrievalSet, context: Context, show_progress: bool
) -> tuple[Parts, Parts]:
    encoder.set_context(context)
    queries = encoder.encode_queries(data.queries, parts="both", show_progress=show_progress)
    return queries, encoder.encode_documents(data.documents, parts="both", show_progress=show_progress)


def result_of(data: RetrievalSet, mode: str, quality: Quality) -> Result:
    """Return what was measured of a mode on a set."""
    seed = SEED if mode in DRAWN else None
    per_query = tuple(quality.ndcg_at_10.tolist())
    return Result(
        data.name, mode, seed, len(data.documents), len(data.queries), **quality.means(), ndcg_per_query=per_query
    )
