"""Cut texts into words and sentences, also in scripts that put no space between words.

Chinese, Japanese, Thai, Lao, Burmese and Khmer are written without; two of their characters count as a word here, which
is about what a word has in Chinese and Japanese. Where words are compared, neighbouring characters overlap, as is usual
in search: of ABC there are AB and BC.
"""

import re

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Burmese, Khmer
    # Chinese, Japanese
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_CHARACTER_OR_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_PIECE = re.compile(rf"[{UNSPACED}]{{1,2}}|[^\s{UNSPACED}]+")
_RUN = re.compile(rf"[{UNSPACED}]+")
_SENTENCE = re.compile("(?<=[.!?])\\s+|(?<=[\u3002\uff01\uff1f\uff61])\\s*")


def comparable(text: str) -> list[str]:
    """Return the lower-case words of a text, letters and digits alone; of scripts without spaces, every character."""
    return _CHARACTER_OR_WORD.findall(text.lower())


def pieces(text: str) -> list[tuple[int, int]]:
    """Return where the words of a text begin and end, its punctuation left on them."""
    return [match.span() for match in _PIECE.finditer(text)]


def count_words(text: str) -> int:
    """Return the number of words of a text."""
    return len(pieces(text))


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, each with its full stop."""
    return [sentence for sentence in _SENTENCE.split(text.strip()) if sentence.strip()]


def with_spaces(text: str) -> str:
    """Return a text with spaces around overlapping pairs of characters, where its script has none between words."""
    return _RUN.sub(lambda match: f" {' '.join(_pairs(match[0]))} ", text)


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]
