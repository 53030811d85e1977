"""Ask an index the same query in several ways, and say why a document is found.

| way | what ranks |
| --- | --- |
| own context | what the index holds: the corpus head under the index's context, as two parts or one vector |
| null context | the same head without a corpus |
| other contexts | the same head under contexts that the user names |
| BM25 | words alone |
| BM25 + plain | 0.4 BM25 + 0.6 plain, each scaled to 0 ... 1 |
| plain | the encoder alone |

Texts are embedded once, plain; all ways are made of these vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.context import Context
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Parts
from cde_retriever.context.sampling import hash_text
from cde_retriever.encoder.corpus_head import CorpusHead
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.lifecycle.doctor import BM25, MIXTURE, PLAIN, score_without_context
from cde_retriever.lifecycle.kept_vectors import Embed
from cde_retriever.search.best_first import finite_first
from cde_retriever.search.bm25 import WordSearch
from cde_retriever.search.hybrid import score_one_form
from cde_retriever.serving.context_topics import ContextTopics
from cde_retriever.words.reading import grams_of, hash_word, split

OWN, NULL = "own context", "null context"
NEIGHBOURS = 3

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class SharedWord:
    """A word of a query in a document, or two that stand beside each other.

    Attributes:
        word: The word or words.
        documents: How many context documents hold it.
        by_word: What it adds to the score as a word or a pair.
        by_grams: What its runs of four characters add.
    """

    word: str
    documents: int
    by_word: float
    by_grams: float


@dataclass(frozen=True)
class Reason:
    """Why a document is found under a context.

    Attributes:
        score: What its score is the sum of, by name.
        words: What each word of the query adds where words are counted exactly, as in two parts.
        neighbours: The context documents that it is moved towards, as text, and their shares.
        topics: The topics of the context that it is moved towards, each by a few of its words, and their shares.
    """

    score: Mapping[str, float]
    words: Sequence[SharedWord]
    neighbours: Sequence[tuple[str, float]]
    topics: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Answer:
    """What a query finds.

    Attributes:
        query: The query.
        scores: Of each way the scores of all documents, (n,); minus infinity where one is not found.
        place: Where the query lies on the map.
    """

    query: str
    scores: Mapping[str, NDArray[np.float32]]
    place: tuple[float, float]

    def best(self, way: str, count: int) -> list[int]:
        """Return the best documents by a way, best first."""
        found: list[int] = finite_first(self.scores[way], count).tolist()
        return found


class Exploration:
    """An index's texts, to be asked.

    Args:
        texts: What the index embedded.
        encoder: Its encoder, with a corpus head, under its context.
        form: ``"both"`` if the index holds two parts, else ``"one"``.
        embed: Makes plain vectors (`cde_retriever.lifecycle.kept_vectors`).
        beside: Plain embeddings of other encoders, by name.
        contexts: Other contexts of the same model, by name.

    Raises:
        ContextMismatchError: if another model made one of them.
    """

    def __init__(
        self,
        texts: Sequence[str],
        encoder: ContextualEncoder,
        form: str,
        embed: Embed,
        beside: Mapping[str, Embed] | None = None,
        contexts: Mapping[str, Context] | None = None,
    ) -> None:
        self.texts, self.form, self._embed = list(texts), form, embed
        self.contexts = {OWN: encoder.context, NULL: encoder.null_context(), **(contexts or {})}
        for context in (contexts or {}).values():
            encoder.fork().set_context(context)  # refuses another model's
        self._plain = embed(self.texts, "document")
        settings = HeadSettings.from_dict(encoder.config.corpus_head or {})
        self._fits_queries = settings.query_noise > 0

        def head(context: Context) -> CorpusHead:
            return CorpusHead(settings, context, self._plain.shape[1], encoder.dimension)

        self._heads = {name: head(context) for name, context in self.contexts.items()}
        self._topics = {name: ContextTopics(context, self.texts) for name, context in self.contexts.items()}
        self._documents = {name: one.documents(self._plain, self.texts, form) for name, one in self._heads.items()}
        self._beside = {name: (other, other(self.texts, "document")) for name, other in (beside or {}).items()}
        self._word_search = WordSearch(self.texts)
        self._middle = self._plain.mean(axis=0)
        spread = self._plain - self._middle
        self._axes = np.linalg.eigh((spread.T @ spread).astype(np.float64))[1][:, :-3:-1]

    @property
    def places(self) -> NDArray[np.float64]:
        """Where the documents lie on the map, (n, 2): their first two principal components."""
        places: NDArray[np.float64] = (self._plain - self._middle) @ self._axes
        return places

    def in_context(self, way: str = OWN) -> list[int]:
        """Return the documents that are in a context."""
        hashes = set(self.contexts[way].text_hashes)
        return [number for number, text in enumerate(self.texts) if hash_text(text) in hashes]

    def ask(self, queries: Sequence[str]) -> list[Answer]:
        """Return what queries find, in every way."""
        vectors = self._embed(queries, "query")
        ways = {
            name: score_one_form(head.queries(vectors, queries, self.form), self._documents[name])
            for name, head in self._heads.items()
        }
        words = np.stack(list(self._word_search.score(queries)))
        others = score_without_context(words, vectors @ self._plain.T)
        ways |= {name: others[name] for name in (BM25, MIXTURE, PLAIN)}
        ways |= {name: embed(queries, "query") @ documents.T for name, (embed, documents) in self._beside.items()}
        places = (vectors - self._middle) @ self._axes
        return [
            Answer(query, {name: scores[number] for name, scores in ways.items()}, (float(x), float(y)))
            for number, (query, (x, y)) in enumerate(zip(queries, places, strict=True))
        ]

    def explain(self, query: str, number: int, way: str = OWN) -> Reason:
        """Say why a document is found under a context."""
        head, text, plain = self._heads[way], [self.texts[number]], self._plain[number : number + 1]
        vector = self._embed([query], "query")
        asked, found = head.queries(vector, [query], "both"), head.documents(plain, text, "both")
        assert isinstance(asked, Parts)
        assert isinstance(found, Parts)
        shared = (asked.sparse * found.sparse).tocoo()
        adds = dict(zip(shared.coords[1].tolist(), shared.data.tolist(), strict=True))
        score = {"meaning": float(asked.dense[0] @ found.dense[0]), "words": sum(adds.values())}
        if self.form == "one":
            score = self._score_of_one(vector, query, number, way, score["meaning"])
        near = head.neighbours(plain, text, self.contexts[way].size)[0]
        topics = self._topics[way]
        return Reason(
            score,
            self._words(query, adds, way),
            [(topics.text_of(sha256), share) for sha256, share in near[:NEIGHBOURS]],
            topics.shares(near)[:NEIGHBOURS],
        )

    def _score_of_one(self, vector: Vectors, query: str, number: int, way: str, meaning: float) -> dict[str, float]:
        """Return what the score of one vector is the sum of, by name, given that of the dense parts."""
        head = self._heads[way]
        products = np.asarray(head.queries(vector, [query], "one"))[0] * self._documents[way][number]
        if not self._fits_queries:
            return {name: float(products[place].sum()) for name, place in head.places.items()}
        whole = float(products.sum())
        if head.is_dense:  # all numbers carry both
            return {"meaning": meaning, "fit to the context's words": whole - meaning}
        return {"meaning and words": whole}  # whose unit is no cosine's

    def _words(self, query: str, adds: dict[int, float], way: str) -> list[SharedWord]:
        frequency, read = self._topics[way].documents_with, self._topics[way].reader
        found = []
        for word in dict.fromkeys(split(query)):
            for stem in read.words(word):
                number = hash_word(stem)
                by_grams = sum(adds.pop(hash_word(gram), 0.0) for gram in dict.fromkeys(grams_of(word)))
                found.append(SharedWord(word, frequency.get(number, 0), adds.pop(number, 0.0), by_grams))
        for first, second, number in read.pairs(query):
            if number in adds:
                found.append(SharedWord(f"{first} {second}", frequency.get(number, 0), adds.pop(number), 0.0))
        return found
