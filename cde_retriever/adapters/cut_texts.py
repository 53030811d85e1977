"""Say once, at the end of a run, how much text the model did not read, and which setting ends that.

A run is whatever the user called: building an index, inserting, a transformation, a batch. Runs within it report to it.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from cde_retriever.errors import TruncationWarning

MIGRATED = (
    "texts stay as they are in a migration: read them whole with --long-texts windows, or build a new index of the "
    "documents that they came from, which splits them to fit"
)
"""What to do where texts of an index of another embedding were cut."""


class TruncationSummary(TruncationWarning):
    """What all texts of a run that were cut have lost.

    Attributes:
        cut: How many texts were cut.
        tokens: How many tokens they have together.
        lost: How many of these were not embedded.
        advice: What to do, in the words of the framework.
    """

    def __init__(self, texts: int = 0, max_length: int = 0, advice: str = "split them") -> None:
        super().__init__((), texts, max_length)
        self.advice = advice
        self.cut = self.tokens = self.lost = 0

    def __str__(self) -> str:
        """Say how much was lost, and what to do."""
        return (
            f"{self.cut} of {self.texts} texts are longer than the {self.max_length} tokens this model reads, and "
            f"{self.lost} of their {self.tokens} tokens were not embedded; {self.advice}"
        )


_run: ContextVar[TruncationSummary | None] = ContextVar("cde_run_of_texts", default=None)


@contextmanager
def one_summary(advice: str) -> Iterator[TruncationSummary]:
    """Collect what is cut until the block ends; the outermost block warns of it, and says what to do."""
    outer = _run.get()
    if outer is not None:
        yield outer
        return
    summary = TruncationSummary(advice=advice)
    token = _run.set(summary)
    try:
        yield summary
    finally:
        _run.reset(token)
        if summary.cut:
            warnings.warn(summary, stacklevel=4)


def add_cut_texts(
    summary: TruncationSummary,
    texts: Sequence[str],
    cut: TruncationWarning,
    count: Callable[[str], Sequence[int]],
    room: int,
) -> None:
    """Add the texts of a batch that were cut.

    Args:
        summary: That of the run.
        texts: The batch.
        cut: Which of them were cut.
        count: Returns all tokens of a text.
        room: How many of them the model reads, without prompt and special tokens.
    """
    summary.max_length = cut.max_length
    for i in cut.indices:
        tokens = len(count(texts[i]))
        summary.cut += 1
        summary.tokens += tokens
        summary.lost += tokens - room
