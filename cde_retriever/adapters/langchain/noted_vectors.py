"""Note what an embedding embeds while a store is written, whatever way the store asks it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Noted = list[tuple[list[str], Any]]

_noted: ContextVar[Noted | None] = ContextVar("cde_noted_vectors", default=None)


@contextmanager
def noting() -> Iterator[Noted]:
    """Collect documents and their vectors, (n, d), that are embedded in this thread or task, batch by batch."""
    noted: Noted = []
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


def note(texts: Sequence[str], vectors: Any) -> None:
    """Note documents that were embedded, if somebody asked."""
    noted = _noted.get()
    if noted is not None:
        noted.append((list(texts), vectors))
