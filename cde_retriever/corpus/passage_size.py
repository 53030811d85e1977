"""Measure passages in a model's own tokens, and cut texts that are longer."""

import re
from dataclasses import dataclass, field
from functools import lru_cache

from tokenizers import Tokenizer

from cde_retriever.corpus.requirements import missing_package
from cde_retriever.corpus.text_start import safe_end, start_of
from cde_retriever.errors import ConfigError

try:
    from semantic_text_splitter import MarkdownSplitter
except ModuleNotFoundError as missing:
    raise missing_package(missing) from missing

FEWEST = 8
"""Fewest tokens of a passage; a model that reads less cannot be given passages."""
CHARACTERS_A_TOKEN = 8
"""Of a long text so many characters are read for each token that may be, and more only if they do not do."""
TEXTS_AT_ONCE = 1024
"""Texts that are tokenised together; bounds the memory of tokens."""


@dataclass(frozen=True)
class PassageSize:
    """How long a passage may be, in a model's own tokens.

    Attributes:
        tokens: Most tokens of a passage, without prompt and special tokens.
        tokenizer: The model's tokenizer, as in ``tokenizer.json``.

    Raises:
        ConfigError: if that is too little for any passage.
    """

    tokens: int
    tokenizer: str = field(repr=False)

    def __post_init__(self) -> None:
        """Validate the number."""
        if self.tokens < FEWEST:
            raise ConfigError(f"the model reads {self.tokens} tokens of a document, passages need at least {FEWEST}")

    @classmethod
    def of(cls, tokenizer: Tokenizer, max_length: int, prompt: str) -> "PassageSize":
        """Return what a model reads of a document.

        Args:
            tokenizer: The model's tokenizer.
            max_length: Longest sequence it reads, in tokens.
            prompt: What is put before a document.
        """
        own = Tokenizer.from_str(tokenizer.to_str())
        own.no_truncation()
        own.no_padding()
        return cls(max_length - len(own.encode(prompt).ids), own.to_str())

    def count(self, text: str) -> int:
        """Return how many tokens a text has, or more than `tokens` if it has more than that."""
        return self.count_each([text])[0]

    def count_each(self, texts: list[str]) -> list[int]:
        """Return the same of each of several texts."""
        groups = (texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE))
        return [count for group in groups for count in _count(group, self.tokens, self.tokenizer)]

    def cut(self, text: str, tokens: int) -> list[str]:
        """Cut a text into pieces of at most so many tokens, at the highest of lines, sentences, words, characters."""
        return [piece for piece in _splitter(self.tokenizer, tokens).chunks(text) if piece.strip()]


def _count(texts: list[str], most: int, description: str) -> list[int]:
    """Return how many tokens texts have, reading no more of a long one than tells that it has more than `most`."""
    tokenizer, end = _tokenizer(description)
    counts, size, unread = [0] * len(texts), CHARACTERS_A_TOKEN * most, list(range(len(texts)))
    while unread:
        starts = [start_of(texts[i], size, end) for i in unread]
        encodings = tokenizer.encode_batch_fast(starts, add_special_tokens=False)
        for i, encoding in zip(unread, encodings, strict=True):
            counts[i] = len(encoding)
        unread = [i for i, start in zip(unread, starts, strict=True) if counts[i] <= most and start is not texts[i]]
        size *= 8
    return counts


@lru_cache(maxsize=2)
def _tokenizer(description: str) -> tuple[Tokenizer, re.Pattern[str] | None]:
    tokenizer = Tokenizer.from_str(description)
    return tokenizer, safe_end(tokenizer)


@lru_cache(maxsize=16)
def _splitter(description: str, tokens: int) -> MarkdownSplitter:
    # The splitter asks again and again whether all that follows fits, which would be counted to the end.
    return MarkdownSplitter.from_callback(lambda text: _count([text], tokens, description)[0], tokens)
