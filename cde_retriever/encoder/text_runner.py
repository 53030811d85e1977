"""Run texts through a model: token ids, batches of similar length, and rows in input order."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cde_retriever.backends.backend import Backend
from cde_retriever.backends.loading import Route
from cde_retriever.context.neighbours import unit
from cde_retriever.context.whole_numbers import whole_number
from cde_retriever.encoder.batches import batches_of
from cde_retriever.encoder.tokens import TextTokenizer
from cde_retriever.errors import TruncationWarning
from cde_retriever.files.forking import ThreadLock
from cde_retriever.model.config import WINDOWS, ModelConfig

Vectors = NDArray[np.float32]
Ids = list[int]
Embed = Callable[[NDArray[np.int64], NDArray[np.int64]], Vectors]
OnTruncation = Callable[[TruncationWarning], object]

DEFAULT_BATCH = 32
"""Texts of 128 tokens a batch; on two cores larger batches are no faster (docs/log.md)."""


class TextRun(NamedTuple):
    """How texts are run through a model.

    Attributes:
        role: ``"query"`` or ``"document"``, which decides the prompt and, of a model that has two, the encoder.
        batch_size: Texts of 128 tokens a batch.
        label: That of the progress bar that is shown; none for no bar.
    """

    role: str
    batch_size: int = DEFAULT_BATCH
    label: str = ""

    @classmethod
    def of(cls, role: str, batch_size: int, show_progress: bool, what: str | None = None) -> "TextRun":
        """Make one of what a user gives; the bar says `what` the texts are, by default queries or documents.

        Raises:
            TypeError, ConfigError: if `batch_size` is no number of texts.
        """
        return cls(role, whole_number("batch_size", batch_size, 1), label_of(role, show_progress, what))


class TextRunner:
    """Turns texts into token ids, and runs these in batches, one batch at a time.

    Args:
        backend: What documents go through.
        tokenizer: Its tokenizer, without prompts.
        queries: The backend and tokenizer that queries go through, where they are others.
    """

    def __init__(self, backend: Backend, tokenizer: Tokenizer, queries: Route | None) -> None:
        self.lock = ThreadLock()
        self._documents, self._queries = (backend, tokenizer), queries
        self._kept: dict[str, tuple[ModelConfig, TextTokenizer]] = {}

    def route(self, role: str) -> Route:
        """Return what texts of a role go through."""
        return self._queries if role == "query" and self._queries is not None else self._documents

    def new_tokenizer(self, max_length: int | None, role: str) -> TextTokenizer:
        """Return what turns texts into token ids, cut at a length in tokens, at most the model's own."""
        backend, tokenizer = self.route(role)
        config = backend.config
        return TextTokenizer(
            tokenizer,
            prompts=config.prompts,
            max_length=config.max_length if max_length is None else min(max_length, config.max_length),
            pad_token_id=int(config.second_stage.get("pad_token_id") or 0),
            pool_prompt=config.pool_prompt,
            whole=config.long_texts == WINDOWS,
        )

    def tokenizer(self, role: str) -> TextTokenizer:
        """Return the tokenizer of a role at the model's own length; it is kept."""
        config = self.route(role)[0].config
        if role not in self._kept or self._kept[role][0] is not config:  # of an opened model it may be another
            self._kept[role] = config, self.new_tokenizer(None, role)
        return self._kept[role][1]

    def tokenize(
        self,
        texts: Sequence[str],
        role: str,
        on_truncation: OnTruncation | None = None,
        *,
        stacklevel: int = 3,
    ) -> list[Ids]:
        """Return token ids of texts, as `TextTokenizer` does; tell `on_truncation`, or warn, if some were cut."""
        tokenized = self.tokenizer(role).tokenize(texts, role)
        if tokenized.truncated:
            cut = TruncationWarning(tokenized.truncated, len(tokenized.ids), self.tokenizer(role).max_length)
            if on_truncation is None:
                warnings.warn(cut, stacklevel=stacklevel)
            else:
                on_truncation(cut)
        return tokenized.ids

    def run(self, ids: list[Ids], how: TextRun, embed: Embed, width: int) -> Vectors:
        """Run token ids in batches of similar length, and return the rows, (n, width), in input order."""
        output = np.zeros((len(ids), width), dtype=np.float32)
        for rows, input_ids, mask in self.batches(ids, how):
            with self.lock:  # for a batch alone, so that few queries need not wait for many documents
                output[rows] = embed(input_ids, mask)
        return output

    def batches(self, ids: list[Ids], how: TextRun) -> Iterator[tuple[list[int], NDArray[np.int64], NDArray[np.int64]]]:
        """Yield batches of similar length: rows of the input, token ids and mask, (b, s)."""
        batches: Iterable[list[int]] = batches_of(ids, how.batch_size)
        if how.label:
            batches = _with_progress(batches, len(ids), how.label)
        for rows in batches:
            yield rows, *self.tokenizer(how.role).pad([ids[i] for i in rows], how.role)

    def compared(self, ids: list[Ids], role: str, embed: Callable[[list[Ids]], Vectors]) -> Vectors:
        """Return vectors of texts as they are compared.

        Of a model that reads windows, those of a text are joined; a query's length is left out if documents' matter.

        Args:
            ids: Token ids of texts.
            role: Their role.
            embed: Returns vectors of token ids.
        """
        config = self._documents[0].config
        if config.long_texts == WINDOWS:
            windows = self.tokenizer(role).windows(ids, role)
            vectors = windows.join(embed(windows.ids))
        else:
            vectors = embed(ids)
        if role == "query" and config.keeps_lengths:
            vectors[:, -1] = 0
            vectors = unit(vectors)
        return vectors


def label_of(role: str, show_progress: bool, what: str | None = None) -> str:
    """Return the label of a bar over texts of a role; none where no bar is asked for."""
    return f"Embedding {what or ('queries' if role == 'query' else 'documents')}" if show_progress else ""


def _with_progress(batches: Iterable[list[int]], texts: int, label: str) -> Iterator[list[int]]:
    # Not counter(show=False): making even that takes time where a query counts, and importing tqdm where a start does.
    from cde_retriever.progress import counter

    with counter(total=texts, label=label, unit="text") as bar:
        for rows in batches:
            yield rows
            bar.update(len(rows))
