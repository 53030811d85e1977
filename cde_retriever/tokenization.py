"""Texts to token ids: task prompt, truncation, padding.

Uses the `tokenizers` library directly; a checkpoint's ``tokenizer.json`` says everything that is needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cde_retriever.errors import CheckpointError

TYPICAL_TOKENS = 128
MOST_TEXTS = 4
"""A batch holds at most so many times the texts it holds of `TYPICAL_TOKENS`: more of tiny ones gain no time, and each
odd size of batch leaves its own holes in the heap, which glibc before 2.38 does not fill again."""
# Padding that a batch may hold: as many tokens as take the time of starting another batch, or a share of all.
PADDING_TOKENS, PADDING_SHARE = 48, 1 / 8


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
    """

    def __init__(self, tokenizer: Tokenizer, *, prompts: Mapping[str, str], max_length: int, pad_token_id: int) -> None:
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length)
        self.prompts = dict(prompts)
        self.max_length = max_length
        self.pad_token_id = pad_token_id

    @staticmethod
    def read(path: Path) -> Tokenizer:
        """Read a ``tokenizer.json``.

        Raises:
            CheckpointError: if it is missing or unreadable.
        """
        if not path.is_file():
            raise CheckpointError(f"no tokenizer at {path}; a checkpoint needs tokenizer.json")
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"unreadable tokenizer {path}: {error}") from error

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

    def pad(self, ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return token ids and mask, both (b, s), padded to the longest sequence."""
        shape = len(ids), max(len(row) for row in ids)
        input_ids, mask = np.full(shape, self.pad_token_id, np.int64), np.zeros(shape, np.int64)
        for i, row in enumerate(ids):
            input_ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        return input_ids, mask


def batches_of(ids: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield rows of batches, the longest texts first, each of about as many tokens and with little padding.

    Args:
        ids: Token ids.
        batch_size: Texts of `TYPICAL_TOKENS` tokens a batch; of shorter ones up to `MOST_TEXTS` times as many, of
            longer ones fewer, at least one.
    """
    most = batch_size * MOST_TEXTS
    rows: list[int] = []
    longest = tokens = 0
    for row in sorted(range(len(ids)), key=lambda row: -len(ids[row])):
        tokens += len(ids[row])
        padded = longest * (len(rows) + 1)
        if rows and (padded > batch_size * TYPICAL_TOKENS or len(rows) == most or _wasteful(padded, tokens)):
            yield rows
            rows, tokens = [], len(ids[row])
        if not rows:
            longest = max(1, len(ids[row]))
        rows.append(row)
    if rows:
        yield rows


def _wasteful(padded: int, tokens: int) -> bool:
    return padded - tokens > max(PADDING_TOKENS, PADDING_SHARE * padded)


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
