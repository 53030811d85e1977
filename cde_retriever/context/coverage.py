"""Warn where a context of the usual size holds too little of its corpus for one vector.

A query's one vector knows words best where the context's documents are (`cde_retriever.context.fitted_queries`), so it
is worth what the context holds of the corpus: on ten judged sets 6.3 nDCG@10 x 100 above the encoder alone where that
is all, 4.4, 3.9 and 3.0 at a half, a quarter and a sixteenth, where BM25 beside the encoder is 3.7 above it, and two
parts 6.5 and, at a sixteenth, 5.7; on five others 12.7, 9.7, 8.2 and 7.2, where these are 9.8, 13.3 and 12.0
(docs/contexts.md).
"""

import warnings

from cde_retriever.context.context import Context
from cde_retriever.context.head_settings import FITTED_SIZE, HeadSettings

ENOUGH = 0.5
"""Share of a corpus from which one vector ranks above BM25 beside the encoder."""


def warn_if_small(context: Context, head: HeadSettings | None) -> None:
    """Say so where one vector is asked for under a context that was just fitted, of a size that nobody chose.

    Args:
        context: The context.
        head: The corpus head of its model; nothing is said without one that fits queries.
    """
    held, seen = context.size, context.documents_seen
    if head is not None and head.query_noise and FITTED_SIZE <= held < ENOUGH * seen:
        warnings.warn(
            f"the context holds {held} of {seen} documents, and one vector knows words best near these: below half of "
            "a corpus it ranks no better than BM25 beside the encoder; take two parts (hybrid search), which need few, "
            f"or a context size of {seen}, at 2 to 10 kB a document (docs/contexts.md)",
            stacklevel=2,
        )
