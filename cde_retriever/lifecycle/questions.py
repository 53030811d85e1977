"""Make questions out of a document: its heading, its first sentence, a span, or the words that set it apart.

None needs a model. The first three stand in the document verbatim, so take them out of it before a search
(`without`), or the search is for a copy.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import log
from typing import Literal, Protocol

from cde_retriever.corpus.sections import BETWEEN_HEADINGS
from cde_retriever.words.pieces import UNSPACED, count_words, pieces, sentences, with_spaces

GENERATORS: tuple[Literal["heading", "lead", "keywords", "crop"], ...] = ("heading", "lead", "keywords", "crop")
LEAST_WORDS = 5
"""Fewest words a document keeps once its query is taken out."""
_WORD = re.compile(rf"[^\W\d_{UNSPACED}][\w-]{{2,}}|[{UNSPACED}]{{2}}")


class PseudoQueryGenerator(Protocol):
    """Anything that makes queries for a document; a query that is a span of it verbatim is taken out of it."""

    def generate(self, document: str, rng: random.Random) -> Iterable[str]:
        """Return queries the document answers; none if it finds none."""
        ...


class Heading:
    """The first line, if it is short and text follows; of "A > B > C", as passages begin, the last."""

    def generate(self, document: str, rng: random.Random) -> list[str]:  # noqa: ARG002 - nothing to draw
        """Return the heading, if there is one."""
        first, _, rest = document.partition("\n")
        heading = first.rpartition(BETWEEN_HEADINGS)[2].strip()
        return [heading] if rest.strip() and 1 <= count_words(heading) <= 15 else []


class Lead:
    """The first sentence below the heading."""

    def generate(self, document: str, rng: random.Random) -> list[str]:
        """Return the sentence, if it has 4 to 40 words."""
        body = document.partition("\n")[2] if Heading().generate(document, rng) else document
        return [first for first in sentences(body)[:1] if 4 <= count_words(first) <= 40]


class Crop:
    """A span of 5 to 15 words from anywhere in the body."""

    def generate(self, document: str, rng: random.Random) -> list[str]:
        """Return one span as it stands in the document."""
        words = pieces(document)
        length = rng.randint(5, 15)
        if len(words) < 3 * length:
            return []
        start = rng.randrange(len(words) - length + 1)
        return [document[words[start][0] : words[start + length - 1][1]]]


class Keywords:
    """Three to six of the words that set a document apart from its corpus, by term and document frequency."""

    def __init__(self, documents: Sequence[str]) -> None:
        self._count = len(documents)
        self._frequency = Counter(word for text in documents for word in set(_words(text)))

    def generate(self, document: str, rng: random.Random) -> list[str]:
        """Return the words, joined, in the order of the document; words of no other document are left out."""
        counts = Counter(_words(document))
        weights = {
            word: (1 + log(n)) * log(self._count / self._frequency[word])
            for word, n in counts.items()
            if 2 <= self._frequency[word] <= self._count / 4
        }
        best = sorted(weights, key=lambda word: (-weights[word], word))[: rng.randint(3, 6)]
        return [" ".join(word for word in counts if word in best)] if len(best) >= 3 else []


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(with_spaces(text))]


def built_in(names: Sequence[str], documents: Sequence[str]) -> dict[str, PseudoQueryGenerator]:
    """Return built-in generators by name; keywords are fitted on the documents."""
    found: dict[str, PseudoQueryGenerator] = {}
    for name in names:
        match name:
            case "heading":
                found[name] = Heading()
            case "lead":
                found[name] = Lead()
            case "crop":
                found[name] = Crop()
            case "keywords":
                found[name] = Keywords(documents)
            case _:
                raise ValueError(f"generators names {name!r}, expected one of {GENERATORS}")
    return found


def without(text: str, query: str) -> str:
    """Return a text without the first occurrence of a query that stands in it verbatim."""
    before, found, after = text.partition(query)
    return f"{before.rstrip()} {after.lstrip()}".strip() if found else text
