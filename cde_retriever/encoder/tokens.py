"""Texts to token ids: task prompt, truncation, padding.

Uses the `tokenizers` library directly; a checkpoint's ``tokenizer.json`` says everything that is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer


@dataclass(frozen=True)
class TokenizedTexts:
    """Token ids of texts in input order, and the indices of those that were cut."""

    ids: list[list[int]]
    truncated: list[int]


class TextTokenizer:
    """Turn texts into token ids of one model.

    Args:
        tokenizer: A fast tokenizer; its own truncation and padding settings are replaced.
        prompts: Text put before a text, by role.
        max_length: Longest sequence in tokens, prompt and special tokens included.
        pad_token_id: Id that fills up short sequences.
        pool_prompt: Whether a prompt's tokens are pooled; if not, `pad` marks them in the mask.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompts: Mapping[str, str],
        max_length: int,
        pad_token_id: int,
        pool_prompt: bool = True,
    ) -> None:
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length)
        self.prompts = dict(prompts)
        self.max_length = max_length
        self.pad_token_id = pad_token_id
        self._unpooled = dict.fromkeys(prompts, 0)
        if not pool_prompt:
            self._unpooled = {role: self._length(prompt) for role, prompt in prompts.items()}

    def _length(self, prompt: str) -> int:
        """Return how many tokens a prompt has, special ones before it included."""
        if not prompt:
            return 0
        encoding = self.tokenizer.encode(prompt)
        return len(encoding) - encoding.special_tokens_mask[-1]

    def tokenize(self, texts: Sequence[str], role: str) -> TokenizedTexts:
        """Tokenise texts under the prompt of a role.

        Raises:
            TypeError: if an item is not a string; names its index.
            ValueError: if a text cannot be encoded as UTF-8 (lone surrogates); names its index.
        """
        prompt = self.prompts[role]
        encodings = self.tokenizer.encode_batch([prompt + text for text in check_texts(texts)])
        return TokenizedTexts(
            ids=[encoding.ids for encoding in encodings],
            truncated=[i for i, encoding in enumerate(encodings) if encoding.overflowing],
        )

    def pad(self, ids: Sequence[Sequence[int]], role: str = "document") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return token ids and mask (`cde_retriever.model.pooling`), both (b, s), padded to the longest sequence.

        Args:
            ids: Token ids; a text may have none.
            role: Whose prompt the texts have.
        """
        shape = len(ids), max(1, max(len(row) for row in ids))
        input_ids, mask = np.full(shape, self.pad_token_id, np.int64), np.zeros(shape, np.int64)
        for i, row in enumerate(ids):
            input_ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
            mask[i, : min(self._unpooled[role], len(row))] = 2
        return input_ids, mask


def count_documents(ids: Sequence[Sequence[int]], vocabulary: int) -> NDArray[np.int64]:
    """Return in how many of the texts each token occurs, (V,)."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for row in ids:
        counts[np.unique(np.asarray(row, dtype=np.int64))] += 1
    return counts


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return the texts as a list.

    Raises:
        TypeError: if `texts` is one string, or an item is not a string.
        ValueError: if an item holds lone surrogates, which no tokenizer can read.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"expected a sequence of strings, received one {type(texts).__name__}; wrap it in a list")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} is {type(text).__name__}, expected str: {text!r:.80}")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"text {i} is not valid Unicode ({error.reason} at {error.start}); clean it"
                ) from error
    return texts
