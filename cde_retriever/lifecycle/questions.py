"""Make questions out of a document: its heading, its first sentence, a span, or the words that set it apart.

None needs a model. The first three stand in the document verbatim, so take them out of it before a search
(`without`), or the search is for a copy.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from math import log
from typing import Literal

from cde_retriever.corpus.sections import BETWEEN_HEADINGS
from cde_retriever.words.pieces import UNSPACED, count_words, pieces, sentences, with_spaces

GENERATORS: tuple[Literal["heading", "lead", "keywords", "crop"], ...] = ("heading", "lead", "keywords", "crop")
LEAST_WORDS = 5
"""Fewest words a document keeps once its query is taken out."""
_WORD = re.compile(rf"[^\W\d_{UNSPACED}][\w-]{{2,}}|[{UNSPACED}]{{2}}")


Generator = Callable[[str, random.Random], list[str]]
"""Makes queries for a document; a query that is a span of it verbatim is to be taken out of it (`without`)."""


def heading(document: str, rng: random.Random) -> list[str]:  # noqa: ARG001 - nothing to draw
    """Return the first line, if it is short and text follows; of "A > B > C", as passages begin, the last."""
    first, _, rest = document.partition("\n")
    found = first.rpartition(BETWEEN_HEADINGS)[2].strip()
    return [found] if rest.strip() and 1 <= count_words(found) <= 15 else []


def lead(document: str, rng: random.Random) -> list[str]:
    """Return the first sentence below the heading, if it has 4 to 40 words."""
    body = document.partition("\n")[2] if heading(document, rng) else document
    return [first for first in sentences(body)[:1] if 4 <= count_words(first) <= 40]


def crop(document: str, rng: random.Random) -> list[str]:
    """Return a span of 5 to 15 words from anywhere in the document, as it stands there."""
    words = pieces(document)
    length = rng.randint(5, 15)
    if len(words) < 3 * length:
        return []
    start = rng.randrange(len(words) - length + 1)
    return [document[words[start][0] : words[start + length - 1][1]]]


def keywords_of(documents: Sequence[str]) -> Generator:
    """Return what makes queries of three to six of the words that set a document apart from a corpus.

    Words are chosen by term and document frequency and joined in the order of the document; words of no other document
    are left out.
    """
    count = len(documents)
    frequency = Counter(word for text in documents for word in set(_words(text)))

    def keywords(document: str, rng: random.Random) -> list[str]:
        counts = Counter(_words(document))
        weights = {
            word: (1 + log(n)) * log(count / frequency[word])
            for word, n in counts.items()
            if 2 <= frequency[word] <= count / 4
        }
        best = sorted(weights, key=lambda word: (-weights[word], word))[: rng.randint(3, 6)]
        return [" ".join(word for word in counts if word in best)] if len(best) >= 3 else []

    return keywords


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(with_spaces(text))]


def built_in(names: Sequence[str], documents: Sequence[str]) -> dict[str, Generator]:
    """Return generators by name, some of `GENERATORS`; keywords are fitted on the documents."""
    made: dict[str, Generator] = {"heading": heading, "lead": lead, "crop": crop}
    return {name: keywords_of(documents) if name == "keywords" else made[name] for name in names}


def without(text: str, query: str) -> str:
    """Return a text without the first occurrence of a query that stands in it verbatim."""
    before, found, after = text.partition(query)
    return f"{before.rstrip()} {after.lstrip()}".strip() if found else text
