"""Turn texts into token ids: task prompt, truncation, padding.

Uses the `tokenizers` library directly; a checkpoint's ``tokenizer.json`` says everything that is needed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cde_retriever.context.sampling import are_several
from cde_retriever.corpus.text_start import safe_end, start_of
from cde_retriever.corpus.unicode_fault import unicode_fault
from cde_retriever.encoder.windows import Windows
from cde_retriever.errors import ConfigError

Ids = list[int]

CHARACTERS_A_TOKEN = 16
"""Of a long text so many characters are read for each token that the model reads, and more only if they do not do."""
CHARACTERS_AT_ONCE = 1 << 20
"""Most characters tokenised at once; while they are, each takes some 50 bytes."""


@dataclass(frozen=True)
class TokenizedTexts:
    """Token ids of texts in input order, and the indices of those that were cut."""

    ids: list[Ids]
    truncated: list[int]


class TextTokenizer:
    """Turn texts into token ids of one model.

    Args:
        tokenizer: A fast tokenizer; its own truncation and padding settings are replaced.
        prompts: Text put before a text, by role.
        max_length: Longest sequence in tokens, prompt and special tokens included.
        pad_token_id: Id that fills up short sequences.
        pool_prompt: Whether a prompt's tokens are pooled; if not, `pad` marks them in the mask.
        whole: Whether texts are read whole, to be cut into windows (`windows`), rather than cut off.

    Raises:
        ConfigError: if a prompt leaves no room for a text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompts: Mapping[str, str],
        max_length: int,
        pad_token_id: int,
        pool_prompt: bool = True,
        whole: bool = False,
    ) -> None:
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        ends = {role: self._tokens_around(prompt) for role, prompt in prompts.items() if prompt or whole}
        self._ends = ends if whole else {}
        for role, around in ends.items():
            if sum(around) >= max_length:
                raise ConfigError(
                    f"max_length is {max_length}, but prompt and special tokens of a {role} are {sum(around)}; leave "
                    "room for texts"
                )
        if not whole:
            self.tokenizer.enable_truncation(max_length)
        self.prompts = dict(prompts)
        self.max_length = max_length
        self.pad_token_id = pad_token_id
        self._unpooled = dict.fromkeys(prompts, 0)
        if not pool_prompt:
            self._unpooled = {role: self._length(prompt) for role, prompt in prompts.items()}

    @cached_property
    def _safe_end(self) -> re.Pattern[str] | None:
        """Where a long text may be cut; most queries are short, and finding it takes a tenth of a start."""
        return safe_end(self.tokenizer)

    def _length(self, prompt: str) -> int:
        """Return how many tokens a prompt has, special ones before it included."""
        if not prompt:
            return 0
        encoding = self.tokenizer.encode(prompt)
        return len(encoding) - encoding.special_tokens_mask[-1]

    def _tokens_around(self, prompt: str) -> tuple[int, int]:
        """Return how many tokens stand before a text, special ones and the prompt's, and how many after it."""
        encoding = self.tokenizer.encode(f"{prompt}a")
        special = encoding.special_tokens_mask
        before = next((place for place, mark in enumerate(special) if not mark), len(special))
        ends = (end for (_, end), mark in zip(encoding.offsets, special, strict=True) if not mark)
        # A blank at the prompt's end is the text's first token's.
        own = sum(end <= len(prompt.rstrip()) for end in ends)
        return before + own, sum(special) - before

    def windows(self, ids: Sequence[Ids], role: str) -> Windows:
        """Return the windows of texts that were read whole under the prompt of a role."""
        return Windows.of(ids, self.max_length, *self._ends[role])

    def tokenize(self, texts: Sequence[str], role: str) -> TokenizedTexts:
        """Tokenise texts under the prompt of a role.

        Raises:
            TypeError: if an item is not a string; names its index.
            ValueError: if a text cannot be encoded as UTF-8 (lone surrogates); names its index.
        """
        if role not in self.prompts:
            raise ConfigError(f"role is {role!r:.80}, expected {' or '.join(map(repr, self.prompts))}")
        prompt = self.prompts[role]
        found = TokenizedTexts([], [])
        for chunk in _chunks(check_texts(texts), CHARACTERS_A_TOKEN * self.max_length):
            for ids, cut in self._encode(prompt, chunk):
                if cut:
                    found.truncated.append(len(found.ids))
                found.ids.append(ids)
        return found

    def _encode(self, prompt: str, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """Return token ids of texts, and whether the texts had more, reading no more of a long text than is needed."""
        found: list[tuple[list[int], bool]] = [([], False)] * len(texts)
        size, unread = CHARACTERS_A_TOKEN * self.max_length, list(range(len(texts)))
        while unread:
            starts = [texts[i] if self._ends else self._start(texts[i], size) for i in unread]
            encodings = self.tokenizer.encode_batch_fast([prompt + start for start in starts])
            for i, encoding in zip(unread, encodings, strict=True):
                found[i] = encoding.ids, bool(encoding.overflowing)
            # A start that filled no sequence tells too little, such as one of a thousand blanks.
            unread = [
                i for i, start in zip(unread, starts, strict=True) if len(start) < len(texts[i]) and not found[i][1]
            ]
            size *= 8
        return found

    def _start(self, text: str, size: int) -> str:
        """Return the start of a text, whose tokens are the first of the text's."""
        return start_of(text, size, self._safe_end) if len(text) > size else text

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


def _chunks(texts: Sequence[str], most: int) -> Iterator[list[str]]:
    """Yield texts in turn, so many at once that what is read of them stays small; `most` of each text."""
    chunk: list[str] = []
    read = 0
    for text in texts:
        if chunk and read + min(len(text), most) > CHARACTERS_AT_ONCE:
            yield chunk
            chunk, read = [], 0
        chunk.append(text)
        read += min(len(text), most)
    if chunk:
        yield chunk


def count_documents(ids: Sequence[Sequence[int]], vocabulary: int) -> NDArray[np.int64]:
    """Return in how many of the texts each token occurs, (V,)."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for row in ids:
        counts[np.unique(np.asarray(row, dtype=np.int64))] += 1
    return counts


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return the texts as a list.

    Raises:
        TypeError: if `texts` is one string or a table, or an item is not a string.
        ValueError: if an item holds lone surrogates, which no tokenizer can read.
    """
    if not are_several(texts):
        raise TypeError(f"expected a sequence of strings, received one {type(texts).__name__}; wrap it in a list")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} is {type(text).__name__}, expected str: {text!r:.80}")
        if fault := unicode_fault(text):
            raise ValueError(f"text {i} is not valid Unicode ({fault}); clean it")
    return texts
