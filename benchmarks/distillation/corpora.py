"""Corpora to learn from and to judge on: mixtures of stored ones, and what a teacher who knows them says."""

import gzip
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Knowledge
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import TextCounts
from cde_retriever.words.sparse import Sparse
from cde_train.distillation.teacher import Texts
from cde_train.distillation.teacher import teach as as_one_who_knows

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
TEACHER = HeadSettings(rareness=1.0, sharing=1.0, skip_question_words=False, word_weight=2.0, gram_weight=4.0)
"""What a query's words weigh adds up to the same under every context, so that the teacher's difference between two
contexts is about which words, never about how many spreads all of them weigh."""


@dataclass(frozen=True)
class Hidden:
    """Token vectors of texts, one after the other: what the frozen lower layers give.

    Attributes:
        starts: Where each text begins, (n + 1,).
        tokens: All token vectors, (t, d) float16.
    """

    starts: Rows
    tokens: NDArray[np.float16]

    def padded(self, rows: Rows) -> tuple[Vectors, Rows]:
        """Return token vectors, (b, s, d) float32, and mask, (b, s), of some texts."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        hidden = np.zeros((len(rows), lengths.max(), self.tokens.shape[1]), np.float32)
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            hidden[place, :length] = self.tokens[self.starts[row] : self.starts[row] + length]
        return hidden, (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)


@dataclass(frozen=True)
class Corpus:
    """One stored corpus.

    Attributes:
        name: Its name.
        vectors: Plain unit vectors of documents and of queries.
        words: Counts of their words and grams.
        hidden: Their token vectors; nothing if the store was opened without.
        relevant: For each query the gains of documents, by number.
    """

    name: str
    vectors: tuple[Vectors, Vectors]
    words: tuple[TextCounts, TextCounts]
    hidden: tuple[Hidden, ...]
    relevant: list[dict[int, int]]

    def __len__(self) -> int:
        """Return how many documents there are."""
        return len(self.vectors[0])

    @property
    def documents(self) -> Texts:
        """The documents."""
        return Texts(self.vectors[0], self.words[0])

    @property
    def queries(self) -> Texts:
        """The queries."""
        return Texts(self.vectors[1], self.words[1])


class Store:
    """Opens corpora stored on this machine.

    Args:
        folder: Holds texts and judgements (``sets.json.gz``), counts (``prod_counts2.pkl``) and vectors (``vec``).
        hidden: Holds the token vectors of each corpus; None to do without.
        encoder: Whose vectors to take.
        tokens: Of a text so many token vectors are used.
    """

    def __init__(self, folder: Path, hidden: Path | None, encoder: str, tokens: int) -> None:
        self.folder, self.hidden, self.encoder, self.tokens = folder, hidden, encoder, tokens

    @cached_property
    def _sets(self) -> dict[str, Any]:
        with gzip.open(self.folder / "sets.json.gz", "rt") as file:
            return dict(json.load(file))

    @cached_property
    def _counts(self) -> dict[str, Any]:
        return dict(pickle.loads((self.folder / "prod_counts2.pkl").read_bytes()))

    def names(self) -> list[str]:
        """Return what is stored whole, in alphabetical order."""
        if self.hidden is None:
            return sorted(self._sets)
        return sorted(path.stem for path in self.hidden.glob("*.npz") if path.stem != "tmp")

    def documents(self, name: str) -> list[str]:
        """Return the documents' texts."""
        return list(self._sets[name]["docs"])

    def queries(self, name: str) -> list[str]:
        """Return the texts of the queries that `open` returns, without token vectors."""
        data = self._sets[name]
        known = set(data["ids"])
        return [t for q, t in zip(data["qids"], data["queries"], strict=True) if known & data["rel"].get(q, {}).keys()]

    def open(self, name: str) -> Corpus:
        """Return one corpus, without queries that nothing answers."""
        data, vectors = self._sets[name], np.load(self.folder / "vec" / self.encoder / f"{name}.npz")
        place = {document: number for number, document in enumerate(data["ids"])}
        gains = [{place[d]: g for d, g in data["rel"].get(q, {}).items() if d in place} for q in data["qids"]]
        kept, hidden = np.array([i for i, found in enumerate(gains) if found], np.int64), tuple[Hidden, ...]()
        if self.hidden is not None:
            stored = np.load(self.hidden / f"{name}.npz")
            kept = kept[kept < len(stored["qo"]) - 1]
            everything, asked_hidden = np.arange(len(data["ids"])), Hidden(stored["qo"], stored["q"])
            documents_hidden = taken(Hidden(stored["do"], stored["d"]), everything, self.tokens)
            hidden = (documents_hidden, taken(asked_hidden, kept, self.tokens))
        documents, asked = (_without_pairs(*(Sparse(*part) for part in side)) for side in self._counts[name])
        return Corpus(
            name,
            (vectors["d"], vectors["q"][kept]),
            (documents, asked.take(kept)),
            hidden,
            [gains[i] for i in kept],
        )


def _without_pairs(words: Sparse, grams: Sparse) -> TextCounts:
    """Return kept counts, which were made before there were pairs."""
    return TextCounts(words, grams, Sparse.of_rows([{}] * words.rows))


def taken(hidden: Hidden, rows: Rows, most: int = 2**30) -> Hidden:
    """Return some texts of stored token vectors, of each the first `most` tokens."""
    lengths = np.minimum(hidden.starts[rows + 1] - hidden.starts[rows], most)
    parts = [hidden.tokens[hidden.starts[row] : hidden.starts[row] + n] for row, n in zip(rows, lengths, strict=True)]
    return Hidden(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), np.concatenate(parts))


@dataclass(frozen=True)
class Lesson:
    """What a step sees.

    Attributes:
        queries: Token vectors and mask of the queries, (q, s, d) and (q, s).
        documents: The same of the candidates, (n, s, d).
        context: Vectors of context documents of the same mixture, (c, d).
        teacher: The teacher's scores, (q, n).
        plain: Cosines of plain vectors, (q, n).
    """

    queries: tuple[Vectors, Rows]
    documents: tuple[Vectors, Rows]
    context: Vectors
    teacher: Vectors
    plain: Vectors


def draw_lesson(
    corpora: Sequence[Corpus],
    rng: np.random.Generator,
    *,
    queries: int,
    candidates: int,
    context: tuple[int, int],
    isolated: bool = False,
) -> Lesson:
    """Draw a mixture of one to three corpora, queries of all of them, and the candidates that the teacher likes best.

    The mixture is the teacher's corpus: words are as rare as they are in it. So a query and a document meet in many
    corpora with other scores, and what differs can come from the context alone.
    """
    chosen = [corpora[i] for i in rng.choice(len(corpora), min(int(rng.integers(1, 4)), len(corpora)), replace=False)]
    parts = [rng.choice(len(c), int(rng.integers(len(c) // 3, len(c), endpoint=True)), replace=False) for c in chosen]
    asked = [rng.choice(len(c.relevant), min(queries // len(chosen), len(c.relevant)), replace=False) for c in chosen]
    vectors = np.concatenate([c.vectors[0][rows] for c, rows in zip(chosen, parts, strict=True)])
    plain = np.concatenate([c.vectors[1][rows] for c, rows in zip(chosen, asked, strict=True)])
    words = (joined([c.words[side] for c in chosen], rows) for side, rows in ((0, parts), (1, asked)))
    scores = teach(vectors, next(words), plain, next(words), isolated=isolated)
    best = np.argsort(-scores, axis=1, kind="stable")
    order = np.concatenate([*best[:, : max(1, candidates // len(scores))].T, rng.permutation(len(vectors))])
    kept = np.array(list(dict.fromkeys(order.tolist()))[:candidates], np.int64)
    shown = rng.choice(len(vectors), min(int(rng.integers(*context, endpoint=True)), len(vectors)), replace=False)
    return Lesson(
        padded([c.hidden[1] for c in chosen], asked),
        padded([c.hidden[0] for c in chosen], parts, kept),
        vectors[shown],
        scores[:, kept],
        plain @ vectors[kept].T,
    )


def joined(counts: Sequence[TextCounts], rows: Sequence[Rows]) -> TextCounts:
    """Return some rows of several counts, one after the other."""
    taken_ = [counted.take(r) for counted, r in zip(counts, rows, strict=True)]
    return TextCounts(*(Sparse.joined(parts) for parts in zip(*taken_, strict=True)))


def padded(hidden: Sequence[Hidden], rows: Sequence[Rows], kept: Rows | None = None) -> tuple[Vectors, Rows]:
    """Return token vectors and mask of some texts of several corpora; of the whole, `kept` in that order."""
    where = [(h, row) for h, part in zip(hidden, rows, strict=True) for row in part]
    texts = [taken(h, np.array([row])).tokens for h, row in (where if kept is None else [where[i] for i in kept])]
    starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return Hidden(starts, np.concatenate(texts)).padded(np.arange(len(texts)))


def teach(
    documents: Vectors,
    words: TextCounts,
    queries: Vectors,
    asked: TextCounts,
    *,
    isolated: bool = False,
    settings: HeadSettings = TEACHER,
) -> Vectors:
    """Return the teacher's scores, (q, n): dense part moved to neighbours and exact words, all by the whole corpus.

    Where `isolated`, what words are worth without a context is taken off, so that beside the plain cosine only that is
    left which the context changes, and nothing can be learned without looking at it.
    """
    scores, _ = as_one_who_knows(Texts(documents, words), Texts(queries, asked), settings)
    if isolated:
        nobody = Knowledge(settings, documents[:0], CorpusWords.none("english"))
        scores -= nobody.query_words(asked).dot(nobody.document_words(words))
    return scores
