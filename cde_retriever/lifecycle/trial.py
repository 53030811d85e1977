"""Put a corpus on trial: draw documents, ask questions of them that have known answers, and measure rankings.

Questions are the user's own, judged, or made of documents. A made question that stands in its document verbatim is
taken out of it once, before anything is embedded, counted or sampled for a context: no setting sees the copy.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.sampling import sample_documents
from cde_retriever.errors import CorpusError
from cde_retriever.lifecycle.questions import GENERATORS, LEAST_WORDS, built_in, without
from cde_retriever.search.best_first import finite_first
from cde_retriever.words.pieces import count_words

DEPTH = 10
JUDGED = "judged"

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Question:
    """A question with known answers.

    Attributes:
        text: The question.
        answers: Position of each document that answers it, with its gain.
        kind: How it was made, one of `GENERATORS`, or ``"judged"``.
    """

    text: str
    answers: Mapping[int, float]
    kind: str


@dataclass(frozen=True)
class Trial:
    """Documents and questions.

    Attributes:
        documents: The documents that are searched.
        questions: What is asked.
        seen: How many documents the corpus has.
        most: How many were to be searched at most; None if that was not said.
    """

    documents: tuple[str, ...]
    questions: tuple[Question, ...]
    seen: int
    most: int | None = None

    @property
    def judged(self) -> bool:
        """Whether people judged every question."""
        return all(question.kind == JUDGED for question in self.questions)

    @property
    def share(self) -> float:
        """What part of the corpus is searched; 1 where fewer documents were found than could have been drawn."""
        return 1.0 if len(self.documents) < (self.most or 0) else len(self.documents) / self.seen


def automatic_trial(corpus: Iterable[str], *, documents: int, questions: int, seed: int = 0) -> Trial:
    """Draw documents and make questions of some of them, of each kind equally many where the texts give them.

    Args:
        corpus: The texts; read once, `documents` of them are held.
        documents: Most documents to search.
        questions: Most questions, one a document.
        seed: Seed of all draws.

    Raises:
        ContextError: if the corpus is empty.
        CorpusError: if no document gives a question, or there is one document.
    """
    sample = sample_documents(corpus, documents, seed)
    texts = sorted(sample.texts)
    _check_several(texts)
    makers = built_in(GENERATORS, texts)
    rng = random.Random(seed)
    asked: list[Question] = []
    kinds = dict.fromkeys(GENERATORS, 0)
    for place in rng.sample(range(len(texts)), len(texts)):
        if len(asked) == questions:
            break
        for kind in sorted(GENERATORS, key=lambda name: kinds[name]):
            made = next(iter(makers[kind](texts[place], rng)), "").strip()
            rest = without(texts[place], made) if made else ""
            if count_words(rest) >= LEAST_WORDS:
                asked.append(Question(made, {place: 1.0}, kind))
                texts[place] = rest
                kinds[kind] += 1
                break
    if not asked:
        raise CorpusError(f"none of {len(texts)} documents gives a question; they may be too short: give --queries")
    return Trial(tuple(texts), tuple(asked), sample.documents_seen, documents)


def judged_trial(
    corpus: Iterable[tuple[str, str]],
    queries: Sequence[tuple[str, Mapping[str, float]]],
    *,
    documents: int,
    questions: int,
    seed: int = 0,
) -> Trial:
    """Draw documents around the user's questions, whose answers are all kept.

    Args:
        corpus: Id and text of each document.
        queries: Text of each question, and the ids of its answers with their gains.
        documents: Most documents to search, if the answers are not more.
        questions: Most questions.
        seed: Seed of all draws.

    Raises:
        ContextError: if the corpus is empty.
        CorpusError: if no answer is in the corpus, or there is one document.
    """
    chosen = random.Random(seed).sample(list(queries), min(questions, len(queries)))
    wanted = {document for _, answers in chosen for document in answers}
    texts: dict[str, str] = {}

    names: list[str] = []

    def reading() -> Iterable[str]:
        for name, text in corpus:
            if not names:
                names.append(name)
            if name in wanted:
                texts[name] = text
            yield text

    sample = sample_documents(reading(), documents, seed)
    answers = list(dict.fromkeys(texts.values()))
    others = [text for text in sample.texts if text not in set(answers)]
    kept = answers + others[: max(documents - len(answers), 0)]
    _check_several(kept)
    place = {text: number for number, text in enumerate(kept)}
    asked = []
    for question, gains in chosen:
        found = {place[texts[name]]: gain for name, gain in gains.items() if name in texts and gain > 0}
        if found:
            asked.append(Question(question, found, JUDGED))
    if not asked:
        raise CorpusError(
            f"no document that answers a query, such as {min(wanted)!r}, is in the corpus, whose ids are such as "
            f"{names[0]!r}; write the corpus's ids"
        )
    return Trial(tuple(kept), tuple(asked), sample.documents_seen, documents)


def _check_several(texts: Sequence[str]) -> None:
    """Refuse a search that finds its only document whatever is asked."""
    if len(texts) < 2:
        raise CorpusError(
            "there is one distinct document to search, which every setting finds; give a corpus of several, and "
            "--documents of at least 2"
        )


def ndcg(scores: Scores, questions: Sequence[Question]) -> NDArray[np.float64]:
    """Return nDCG@10 of each question, from 0 to 1, gains linear as trec_eval has them.

    Args:
        scores: Scores of all documents, (q, n); minus infinity where a document is not found at all.
        questions: The questions, q.
    """
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    values = np.zeros(len(questions))
    for number, (row, question) in enumerate(zip(scores, questions, strict=True)):
        gains = [question.answers.get(int(place), 0.0) for place in finite_first(row, DEPTH)]
        ideal = sorted(question.answers.values(), reverse=True)[:DEPTH]
        values[number] = np.dot(gains, discounts[: len(gains)]) / np.dot(ideal, discounts[: len(ideal)])
    return values
