"""Compare what was learned with its start on held-out documents, by plain vectors that are there already."""

from collections.abc import Callable, Sequence
from functools import partial

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.plain_documents import PlainDocuments
from cde_retriever.search.bm25 import WordSearch
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.distillation.teacher import Vectors
from cde_train.evaluation.baselines import rank_bm25, rank_mixture
from cde_train.evaluation.comparison import rank_in_context, rank_plain, result_of
from cde_train.evaluation.ranking import Ranking, measure
from cde_train.evaluation.results import PLAIN_MODES, Comparison


def compare_learned(
    learned: ContextualEncoder,
    start: ContextualEncoder,
    data: RetrievalSet,
    plain: tuple[Vectors, Vectors],
    foreign: Sequence[str],
) -> Comparison:
    """Measure both under the corpus's context, and what was learned under null and foreign context; and BM25 and plain.

    Args:
        learned: Keeps the last context, and the documents' plain vectors.
        start: The same encoder with the numbers before.
        data: What to rank.
        plain: Plain unit vectors of its documents and queries.
        foreign: Documents of another corpus.
    """
    documents, queries = plain
    kept = PlainDocuments()
    kept.add(data.documents, documents)
    for encoder in (learned, start):
        encoder.keep_plain(kept)
    words = WordSearch(data.documents)
    ways: dict[str, Callable[[], Ranking]] = {
        "bm25": partial(rank_bm25, words, data.queries),
        "mixture": partial(rank_mixture, words, data.queries, (queries, documents)),
    }
    ways |= {mode: partial(rank_plain, mode, queries, documents) for mode in PLAIN_MODES}
    contexts = {"null": None, "foreign": foreign, "corpus": data.documents}
    ways |= {mode: partial(rank_in_context, learned, data, source) for mode, source in contexts.items()}
    ways["start"] = partial(rank_in_context, start, data, data.documents)
    results = tuple(result_of(data, mode, measure(data, ranked())) for mode, ranked in ways.items())
    return Comparison(learned.config.name, learned.identity.sha256, learned.config.max_length, results)
