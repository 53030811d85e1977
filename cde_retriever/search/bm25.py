"""Score documents by BM25, the word search that others are compared with."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cde_retriever.words.pieces import with_spaces


def score_bm25(documents: Sequence[str], queries: Sequence[str]) -> Iterator[NDArray[np.float32]]:
    """Yield BM25's scores of all documents, (n,), a query; 0 where a document shares no word with it.

    bm25s with its defaults, Snowball's English stemmer, English stop words; in scripts without spaces, pairs of
    characters are words.

    Raises:
        ImportError: if one of them is not installed.
    """
    try:
        import bm25s
        import Stemmer
    except ModuleNotFoundError as missing:
        raise ImportError(f'{missing}; install it with: pip install "cde-retriever[doctor]"') from missing

    def words(texts: Sequence[str]) -> list[list[str]]:
        stemmer = Stemmer.Stemmer("english")
        tokens: list[list[str]] = bm25s.tokenize(
            [with_spaces(text) for text in texts],
            stopwords="en",
            stemmer=stemmer,
            return_ids=False,
            show_progress=False,
        )
        return tokens

    tokenized = words(documents)
    index = bm25s.BM25()
    if any(tokenized):
        index.index(tokenized, show_progress=False)
    for tokens in words(queries):
        yield index.get_scores(tokens) if tokens and any(tokenized) else np.zeros(len(documents), np.float32)
