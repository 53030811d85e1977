"""Warn where a context of the usual size holds too little of its corpus for one vector.

A query's one vector knows words best where the context's documents are (`cde_retriever.context.fitted_queries`), so it
is worth what the context holds of the corpus, less so where vectors hold words: FIGURES (docs/contexts.md).
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
