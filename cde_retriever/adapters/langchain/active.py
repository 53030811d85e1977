"""Tell which guarded store is at work, in this thread or task: its own calls of itself are not checked again."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_store: ContextVar[Any] = ContextVar("cde_active_store", default=None)


def active_store() -> Any:
    """Return the guarded store whose method runs, None if none does."""
    return _store.get()


@contextmanager
def active(store: Any) -> Iterator[None]:
    """Mark a store as being at work."""
    token = _store.set(store)
    try:
        yield
    finally:
        _store.reset(token)
