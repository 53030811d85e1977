"""Measure passages in a model's own tokens, and cut texts that are longer."""

from dataclasses import dataclass, field
from functools import lru_cache

from tokenizers import Tokenizer

from cde_retriever.corpus.requirements import missing_package
from cde_retriever.errors import ConfigError

try:
    from semantic_text_splitter import MarkdownSplitter
except ModuleNotFoundError as missing:
    raise missing_package(missing) from missing

FEWEST = 8
"""Fewest tokens of a passage; a model that reads less cannot be given passages."""


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
        """Return how many tokens a text has."""
        return len(_tokenizer(self.tokenizer).encode(text, add_special_tokens=False).ids)

    def count_each(self, texts: list[str]) -> list[int]:
        """Return how many tokens each of several texts has."""
        encodings = _tokenizer(self.tokenizer).encode_batch(texts, add_special_tokens=False)
        return [len(encoding.ids) for encoding in encodings]

    def cut(self, text: str, tokens: int) -> list[str]:
        """Cut a text into pieces of at most so many tokens, at the highest of lines, sentences, words, characters."""
        return [piece for piece in _splitter(self.tokenizer, tokens).chunks(text) if piece.strip()]


@lru_cache(maxsize=2)
def _tokenizer(description: str) -> Tokenizer:
    return Tokenizer.from_str(description)


@lru_cache(maxsize=16)
def _splitter(description: str, tokens: int) -> MarkdownSplitter:
    return MarkdownSplitter.from_huggingface_tokenizer(_tokenizer(description), tokens)
