"""Score documents by BM25, the word search that others are compared with."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cde_retriever.words.pieces import with_spaces


class WordSearch:
    """Finds documents by BM25, for one query after another.

    bm25s with its defaults, Snowball's English stemmer, English stop words; in scripts without spaces, pairs of
    characters are words.

    Args:
        documents: The documents.

    Raises:
        ImportError: if bm25s or the stemmer is not installed.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        tokenized = _words(documents)  # refuses a missing package
        import bm25s

        self._documents, self._index = len(tokenized), bm25s.BM25() if any(tokenized) else None
        if self._index is not None:
            self._index.index(tokenized, show_progress=False)

    def score(self, queries: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """Yield the scores of all documents, (n,), a query; 0 where a document shares no word with it."""
        for tokens in _words(queries):
            index = self._index if tokens else None
            yield np.zeros(self._documents, np.float32) if index is None else index.get_scores(tokens)


def score_bm25(documents: Sequence[str], queries: Sequence[str]) -> Iterator[NDArray[np.float32]]:
    """Yield the scores of documents that are asked once; see `WordSearch`."""
    yield from WordSearch(documents).score(queries)


def _words(texts: Sequence[str]) -> list[list[str]]:
    try:
        import bm25s
        import Stemmer
    except ModuleNotFoundError as missing:
        raise ImportError(f'{missing}; install it with: pip install "cde-retriever[doctor]"') from missing
    tokens: list[list[str]] = bm25s.tokenize(
        [with_spaces(text) for text in texts],
        stopwords="en",
        stemmer=Stemmer.Stemmer("english"),
        return_ids=False,
        show_progress=False,
    )
    return tokens
