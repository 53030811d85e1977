"""Count tokens as a model counts them, so that splitters make texts that it reads whole."""

from functools import lru_cache

from tokenizers import Tokenizer

from cde_retriever.encoder.encoder import ContextualEncoder


class TokenCounter:
    """Turn a text into the ids of all its tokens, without prompt, special tokens or a limit."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def __call__(self, text: str) -> list[int]:
        """Return the ids."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


@lru_cache(maxsize=8)
def token_counter(tokenizer: Tokenizer) -> TokenCounter:
    """Return a counter for a tokenizer; copying one takes a tenth of a second."""
    return TokenCounter(tokenizer)


def tokens_for_text(encoder: ContextualEncoder) -> int:
    """Return how many tokens of a document a model reads, beside prompt and special tokens."""
    alone = encoder.tokenize([""], "document").ids[0]
    return max(1, encoder.config.max_length - len(alone))
